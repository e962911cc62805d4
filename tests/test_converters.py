"""Converters: each undoes its inverse, counts what it left out, and never writes beside its source."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.annotations import load_annotations, write_list
from utils.cli import UserError
from utils.frames import read_frame
from utils.video import silence_decoders
from utils_coco import coco_to_txt, make_synthetic_dataset, masks_to_coco, txt_to_coco, video_to_frames, yolo_to_coco
from utils_coco.masks_to_coco import component_boxes

ROOT = Path(__file__).resolve().parents[1]
UNHURRIED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

box = st.tuples(
    st.integers(0, 500), st.integers(0, 500), st.integers(1, 90), st.integers(1, 90), st.integers(0, 2)
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3], b[4]))
lists = st.lists(st.lists(box, max_size=3), min_size=1, max_size=6)


@UNHURRIED
@given(lists, st.sampled_from(["", "/home/public/my data/", "D:\\data\\"]))
def test_list_to_json_and_back_is_the_same_list(boxes, prefix):
    with tempfile.TemporaryDirectory() as folder:
        source, middle, back = (Path(folder, name) for name in ("a.txt", "b.json", "c.txt"))
        write_list(source, [(f"{prefix}images/1/{k}.bmp", row) for k, row in enumerate(boxes)])
        names = ("target", "decoy", "bird")
        txt_to_coco.main(txt_to_coco.Config(source, middle, strip_prefix=prefix, class_names=names))
        coco_to_txt.main(coco_to_txt.Config(annotations=middle, output=back, image_prefix=prefix))
        assert back.read_bytes() == source.read_bytes()
        again = Path(folder, "d.json")
        txt_to_coco.main(txt_to_coco.Config(back, again, strip_prefix=prefix, class_names=names))
        assert json.loads(again.read_text()) == json.loads(middle.read_text())


def test_json_of_a_list_has_sizes_and_names(tmp_path, capsys):
    save(tmp_path / "images" / "1" / "0.bmp", np.zeros((30, 40), np.uint8))
    write_list(tmp_path / "list.txt", [("images/1/0.bmp", [(1, 2, 9, 12, 0)])])
    output = tmp_path / "out.json"
    txt_to_coco.main(txt_to_coco.Config(tmp_path / "list.txt", output, tmp_path, class_names=("drone",)))
    assert json.loads(output.read_text()) == {
        "images": [{"id": 1, "file_name": "images/1/0.bmp", "height": 30, "width": 40}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 10], "area": 80, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "drone", "supercategory": "none"}],
    }
    assert "1 frames, 1 boxes, 0 frames without a box, with the sizes" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not begin with --strip-prefix"):
        txt_to_coco.main(txt_to_coco.Config(tmp_path / "list.txt", output, strip_prefix="/x/"))
    with pytest.raises(UserError, match="must end in .json"):
        txt_to_coco.main(txt_to_coco.Config(tmp_path / "list.txt", tmp_path / "list.txt"))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@UNHURRIED
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)), max_size=12))
def test_boxes_to_masks_and_back(cells):
    """Boxes in cells of 12 pixels never touch: each is a component of its own."""
    mask, expected = np.zeros((40, 52), bool), []
    for number, (dx, dy, w, h) in enumerate(cells):
        x, y = 13 * (number % 4) + dx, 13 * (number // 4) + dy
        mask[y : y + h, x : x + w] = True
        expected.append((x, y, w, h))
    assert component_boxes(mask) == (sorted(expected, key=lambda b: (b[1], b[0])), 0)


def test_masks_become_boxes_with_counts(tmp_path, capsys):
    mask = np.zeros((20, 30), np.uint8)
    mask[3, 4] = mask[4, 5] = 255  # corner to corner: one component
    mask[0, 29] = 255
    for number in range(3):
        save(tmp_path / "images" / "s 1" / f"{number}.bmp", np.zeros((20, 30), np.uint8))
    save(tmp_path / "masks" / "s 1" / "0.png", mask)
    save(tmp_path / "masks" / "s 1" / "1.png", 0 * mask)
    save(tmp_path / "masks" / "s 1" / "7.png", mask)
    output = tmp_path / "boxes.json"
    config = masks_to_coco.Config(tmp_path, tmp_path / "masks", output, min_pixels=2, margin=4)
    masks_to_coco.main(config)
    said = capsys.readouterr().out
    assert "2 frames, 1 boxes, 1 frames without a box" in said
    assert "1 images without a mask" in said and "1 masks without an image" in said
    assert "1 components below 2 pixels" in said
    records = load_annotations(output, tmp_path).records
    assert [record.boxes.tolist() for record in records] == [[[0, 0, 10, 9, 0]], []]
    save(tmp_path / "masks" / "s 1" / "2.png", mask[:10])
    with pytest.raises(UserError, match=r"2\.png: \(10, 30\) pixels .*give its own mask"):
        masks_to_coco.main(config)
    save(tmp_path / "masks" / "s 1" / "0.bmp", 0 * mask)
    with pytest.raises(UserError, match=r"the same frame as .*keep one file type"):
        masks_to_coco.main(config)


def test_yolo_labels_become_boxes(tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "images" / "s 1" / f"{number}.bmp", np.zeros((20, 40), np.uint8))
    labels, output = tmp_path / "labels", tmp_path / "boxes.json"
    (labels / "s 1").mkdir(parents=True)
    (labels / "classes.txt").write_text("bird\n")
    (labels / "s 1" / "0.txt").write_text("0 0.25 0.5 0.1 0.4\n\n0 0.9999 0.001 0.01 0.002\n")
    (labels / "s 1" / "1.txt").write_text("")
    (labels / "s 1" / "8.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    config = yolo_to_coco.Config(tmp_path, labels, output)
    with pytest.raises(UserError, match=r"0\.txt:3: a box outside the image"):
        yolo_to_coco.main(config)
    (labels / "s 1" / "0.txt").write_text("0 0.25 0.5 0.1 0.4\n\n0 0.9995 0.001 0.001 0.002\n")
    yolo_to_coco.main(config)
    said = capsys.readouterr().out
    assert "3 frames, 2 boxes, 2 frames without a box; left out 1 texts without an image" in said
    records = load_annotations(output, tmp_path).records
    assert [record.boxes.tolist() for record in records] == [[[8, 6, 12, 14, 0], [39, 0, 40, 1, 0]], [], []]
    for line, message in (
        ("1 0.5 0.5 0.1 0.1", "class 1, but there are 1; name all"), ("0 0.5 0.5 0.1", "is not `class cx cy w h`"),
        ("0 20 10 4 4", "a box outside the image"), ("0 0.5 0.5 nan 0.1", "a box outside the image"),
    ):
        (labels / "s 1" / "1.txt").write_text(line)
        with pytest.raises(UserError, match=f"1.txt:1: .*{message}"):
            yolo_to_coco.main(config)
    (labels / "s 1" / "1.txt").write_text("1 0.5 0.5 0.1 0.1")
    (tmp_path / "names.txt").write_text("drone\nbird\n")
    yolo_to_coco.main(yolo_to_coco.Config(tmp_path, labels, output, classes=tmp_path / "names.txt"))
    found = load_annotations(output, tmp_path)
    assert found.class_names == ("drone", "bird") and found.records[1].boxes.tolist() == [[18, 9, 22, 11, 1]]


def test_masks_behind_links_are_found(tmp_path, capsys):
    mask = np.full((8, 8), 255, np.uint8)
    for kind in ("images", "masks"):
        save(tmp_path / "elsewhere" / kind / "0.png", mask)
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "s1").symlink_to(tmp_path / "elsewhere" / kind)
    masks_to_coco.main(masks_to_coco.Config(tmp_path, tmp_path / "masks", tmp_path / "boxes.json"))
    assert "1 frames, 1 boxes" in capsys.readouterr().out
    again = tmp_path / "masks" / "..", tmp_path / "masks", tmp_path / "same.json", tmp_path / "images"
    masks_to_coco.main(masks_to_coco.Config(*again))  # the same folder, spelled in another way
    assert (tmp_path / "same.json").read_bytes() == (tmp_path / "boxes.json").read_bytes()
    root, masks, images = tmp_path / "data", tmp_path / "masks", tmp_path / "images"
    config = masks_to_coco.Config(root, masks, tmp_path / "b.json", images)
    with pytest.raises(UserError, match="images: not below --data-root"):
        masks_to_coco.main(config)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_masks_count_in_their_own_depth(tmp_path, kind):
    """Labels 1 and 2 of a 16-bit mask would be grey level 0."""
    mask = np.zeros((20, 30), kind)
    mask[3, 4], mask[10, 20] = 1, 2
    save(tmp_path / "images" / "0.bmp", np.zeros((20, 30), np.uint8))
    save(tmp_path / "masks" / "0.tif", mask)
    for threshold, expected in ((0, [[4, 3, 5, 4, 0], [20, 10, 21, 11, 0]]), (1, [[20, 10, 21, 11, 0]])):
        output = tmp_path / f"{threshold}.json"
        masks_to_coco.main(masks_to_coco.Config(tmp_path, tmp_path / "masks", output, threshold=threshold))
        assert load_annotations(output, tmp_path).records[0].boxes.tolist() == expected


def make_video(path: Path, frames: list[np.ndarray]) -> None:
    """A lossless grey video."""
    silence_decoders()  # FFmpeg asks once a process how much to say: as the product's tests expect it
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 25.0, (width, height))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


def test_video_becomes_frames_and_boxes(tmp_path, capsys):
    frames = [np.full((48, 64), 40 * k, np.uint8) for k in range(1, 5)]
    make_video(tmp_path / "in" / "one.avi", frames)
    make_video(tmp_path / "in" / "two.avi", frames[:2])
    one = [[1, 2, 8, 8], None, [[3.5, 4, 6, 6], [20, 20, 9, 9]], [60, 2, 8, 8], [1, 1, 5, 5]]
    boxes = tmp_path / "in" / "boxes.json"
    boxes.write_text(json.dumps({"one": {"boxes": one}, "two": {"boxes": [[0, 0, 5, 5]]}, "three": []}))
    before = sorted((tmp_path / "in").rglob("*"))
    script = [sys.executable, ROOT / "utils_coco" / "video_to_frames.py", "--videos", tmp_path / "in", "--boxes", boxes]
    run = subprocess.run([*script, "--output", tmp_path / "out", "--val", "two"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert sorted((tmp_path / "in").rglob("*")) == before
    train = load_annotations(tmp_path / "out" / "annotations" / "instances_train2017.json", tmp_path / "out")
    assert [record.boxes[:, :4].tolist() for record in train.records] == [
        [[1, 2, 9, 10]], [], [[3, 4, 9, 10], [20, 20, 29, 29]], [],
    ]
    assert train.coco["annotations"][1]["bbox"] == [3.5, 4, 6, 6]
    for record, frame in zip(train.records, frames, strict=True):
        assert abs(read_frame(record.path).astype(int) - frame).max() <= 1  # FFV1 keeps YUV, not grey
    said = run.stdout + run.stderr
    assert "one.avi: left out 1 empty boxes or boxes that reach outside the frame" in said
    assert "1 entries of the boxes behind the last frame" in said
    assert "two.avi: left out 1 frames behind the last entry of the boxes" in said
    assert "boxes.json: left out 1 entries, no such video in" in said and said.rstrip().count("three") == 1
    assert "4 frames, 3 boxes, 2 frames without a box" in said and "1 frames, 1 boxes" in said


def test_one_video_in_the_folder_that_is_worked_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(Path("one.avi"), [np.zeros((48, 64), np.uint8)])
    Path("boxes.json").write_text('{"one": {"boxes": [[1, 2, 3, 4]]}}')
    video_to_frames.main(video_to_frames.Config(Path("one.avi"), Path("boxes.json"), Path("datasets/mine")))
    assert len(list(Path("datasets/mine/images").rglob("*.*"))) == 1


def test_video_converter_refuses(tmp_path):
    make_video(tmp_path / "in" / "one.avi", [np.zeros((48, 64), np.uint8)])
    boxes = tmp_path / "boxes.json"
    for content, message in [
        ('{"one": {"boxes": [[1, 2, 3]]}}', "one, frame 1: box .*four numbers"),
        ('{"one": {"boxes": 3}}', "one: expected a list"),
        ('{"two": {"boxes": []}}', "no boxes of one"),
        ('{"one": {}}', "expected {video"),
        ("{", "boxes.json:1: --boxes is no valid JSON"),
    ]:
        boxes.write_text(content)
        with pytest.raises(UserError, match=message):
            video_to_frames.main(video_to_frames.Config(tmp_path / "in", boxes, tmp_path / "out"))
    with pytest.raises(UserError, match="absent: no such file or folder; check --videos"):
        video_to_frames.main(video_to_frames.Config(tmp_path / "absent", boxes, tmp_path / "out"))
    boxes.write_text('{"one": {"boxes": [null]}, "zero": []}')
    (tmp_path / "in" / "zero.webm").write_bytes(b"no video")
    with pytest.raises(UserError, match="zero.webm"):  # behind one that can be read
        video_to_frames.main(video_to_frames.Config(tmp_path / "in", boxes, tmp_path / "out"))
    (tmp_path / "in" / "zero.webm").unlink()
    with pytest.raises(UserError, match="lies in the source"):
        video_to_frames.main(video_to_frames.Config(tmp_path / "in", boxes, tmp_path / "in" / "out"))
    with pytest.raises(UserError, match="--val other: no such video"):
        video_to_frames.main(video_to_frames.Config(tmp_path / "in", boxes, tmp_path / "out", ("other",)))
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def synthetic(**settings) -> make_synthetic_dataset.Config:
    """Two sequences of 8 frames, over what an earlier call has made."""
    return make_synthetic_dataset.Config(
        sequences=(1, 1), frames=8, workers=1, overwrite=True, **settings
    )


def test_no_converter_writes_over_a_source_or_among_frames(tmp_path, monkeypatch):
    frame = save(tmp_path / "images" / "1" / "0.bmp", np.zeros((30, 40), np.uint8))
    save(tmp_path / "masks" / "1" / "0.bmp", np.zeros((30, 40), np.uint8))
    write_list(tmp_path / "list.txt", [("images/1/0.bmp", [(1, 2, 9, 12, 0)])])
    rows = []
    for name in (f"clips/{folder}/{k}.bmp" for folder in "ab" for k in range(8)):
        save(tmp_path / name, np.zeros((64, 64), np.uint8))
        rows.append((name, []))
    write_list(tmp_path / "clips.txt", rows)
    save(tmp_path / "images" / "1" / "1.bmp", np.zeros((30, 40), np.uint8))
    whole = tmp_path / "whole.json"
    txt_to_coco.main(txt_to_coco.Config(tmp_path / "list.txt", whole, tmp_path))
    (tmp_path / "link.txt").symlink_to(whole)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    for refused in (
        lambda: coco_to_txt.main(coco_to_txt.Config(annotations=whole, output=Path("./whole.json"))),
        lambda: coco_to_txt.main(coco_to_txt.Config(annotations=whole, output=Path("link.txt"))),
        lambda: coco_to_txt.main(coco_to_txt.Config(tmp_path, whole, frame)),
        lambda: masks_to_coco.main(masks_to_coco.Config(tmp_path, Path("masks"), Path("masks/1/boxes.json"))),
        lambda: masks_to_coco.main(masks_to_coco.Config(tmp_path, Path("masks"), Path("images/boxes.json"))),
        lambda: txt_to_coco.main(txt_to_coco.Config(Path("list.txt"), Path("images/1/new.json"), Path("."))),
        lambda: make_synthetic_dataset.main(synthetic(output=Path("images/1/new"), backgrounds=Path("images/1"))),
        lambda: make_synthetic_dataset.main(synthetic(output=Path("images"), backgrounds=Path("images/1"))),
        lambda: make_synthetic_dataset.main(synthetic(output=Path("clips/a/new"), footage=Path("clips.txt"))),
    ):
        with pytest.raises(UserError, match="source.* never written to; give another --output") as failure:
            refused()
        assert "\n" not in str(failure.value)
        assert contents(tmp_path) == before
