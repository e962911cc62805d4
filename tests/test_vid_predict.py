"""vid_predict.py from end to end: a small network with random weights on a real video and on made-up frames."""

from __future__ import annotations

import _thread
import csv
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from nets import SSTNet
from utils.checkpoint import save_weights
from utils.cli import UserError, run_command
from utils.detections import coco_results
from utils.detector import Detector
from utils.frames import read_frame
from utils.overlay import Truth
from utils.prediction_files import OutputFolder
from utils.video import Frame, open_source
from vid_predict import Config, detect_frames, main

SAMPLES = Path(__file__).parent / "data" / "drone_ir"
VIDEO = SAMPLES / "IR_DRONE_142.mp4"
CONFIDENCE = "0.3"  # random weights are not sure of anything


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = SSTNet(num_frames=3, width=0.125)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    save_weights(path, model, ("target",), (64, 96))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The first 20 frames of a real video as images 1.png to 10.png and, after a jump, 51.png to 60.png."""
    folder = tmp_path_factory.mktemp("frames") / "clip"
    folder.mkdir()
    for frame in open_source(VIDEO):
        if frame.index > 20:
            break
        number = frame.index if frame.index <= 10 else frame.index + 40
        Image.fromarray(frame.image).save(folder / f"{number}.png")
    return folder


def predict(*argv: object) -> int:
    """Run the command in this process, on the CPU, and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, [*map(str, argv), *([] if "--device" in argv else ["--device", "cpu"])])
    return stop.value.code


def read_results(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text())


def count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_a_folder_of_frames(weights, clip, tmp_path, capsys):
    """Results are the detector's own, run by run; names, ids, CSV, video and frames agree."""
    output = tmp_path / "out"
    status = predict(
        *("--weights", weights, "--source", clip, "--output", output),
        *("--confidence", CONFIDENCE, "--save", "both", "--chunk", 3),
    )
    assert status == 0
    results = read_results(output)

    detector = Detector.from_file(weights, min_confidence=float(CONFIDENCE))
    names = [f"{number}.png" for number in [*range(1, 11), *range(51, 61)]]
    expected, image_id = [], 0
    for run in (names[:10], names[10:]):
        for detections in detector.stream(read_frame(clip / name) for name in run):
            image_id += 1
            expected += coco_results(detections, image_id, (1,))
    assert len(results) == len(expected) > 20
    for result, reference in zip(results, expected, strict=True):
        assert (result["image_id"], result["category_id"]) == (reference["image_id"], 1)
        assert result["file_name"] == names[result["image_id"] - 1]
        np.testing.assert_allclose(result["bbox"], reference["bbox"], atol=0.02)
        assert abs(result["score"] - reference["score"]) < 1e-3
        x, y, w, h = result["bbox"]
        np.testing.assert_allclose(result["centre"], (x + w / 2, y + h / 2), atol=0.011)

    with (output / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["file_name"], float(r["x"]), float(r["cy"]), r["category"]) for r in rows] == [
        (r["file_name"], r["bbox"][0], r["centre"][1], "target") for r in results
    ]
    assert sorted(path.name for path in (output / "frames").iterdir()) == sorted(names)
    assert Image.open(output / "frames" / "1.png").size == (320, 256)
    assert count_frames(output / "detections.mp4") == 20
    assert f"20 frames, {len(results)} detections" in capsys.readouterr().out


def test_a_video_keeps_its_size_and_rate(weights, tmp_path):
    assert predict("--weights", weights, "--source", VIDEO, "--output", tmp_path) == 0
    capture = cv2.VideoCapture(str(tmp_path / "detections.mp4"))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (320, 256)
    assert capture.get(cv2.CAP_PROP_FPS) == 30
    assert count_frames(tmp_path / "detections.mp4") == 302
    source = next(iter(open_source(VIDEO))).image
    drawn = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY)
    assert np.abs(drawn.astype(int) - source).mean() < 4
    assert not (tmp_path / "frames").exists()


def test_one_image(weights, clip, tmp_path):
    """Of one image one picture is made, unless something else is asked for."""
    status = predict("--weights", weights, "--source", clip / "3.png", "--output", tmp_path)
    assert status == 0
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["3.png"]
    assert not (tmp_path / "detections.mp4").exists()


def test_clips_of_every_second_frame(weights, clip, tmp_path):
    scores = []
    for interval in (1, 2):
        flags = ("--source", clip, "--output", tmp_path, "--save", "frames", "--confidence", 0, "--max-frames", 6)
        assert predict("--weights", weights, *flags, "--frame-interval", interval) == 0
        scores.append([[row["score"] for row in read_results(tmp_path) if row["image_id"] == k] for k in (1, 2, 6)])
    # The video hardly moves: what differs does so in the fourth digit.
    for early in (0, 1):  # their clips are the first frame repeated and their own, whatever the interval
        assert scores[0][early] == pytest.approx(scores[1][early], abs=5e-5)
    assert scores[0][2] != pytest.approx(scores[1][2], abs=5e-5)


def test_insets_are_drawn_on_request(weights, clip, tmp_path):
    annotations = tmp_path / "list.txt"
    annotations.write_text("clip/3.png 100,100,106,106,0\n")
    common = ("--weights", weights, "--source", clip / "3.png", "--annotations", annotations, "--save", "frames")
    common += ("--confidence", 1)  # a miss is all there is to draw
    assert predict(*common, "--output", tmp_path / "plain") == 0
    assert predict(*common, "--output", tmp_path / "large", "--inset") == 0
    plain, large = (np.asarray(Image.open(tmp_path / name / "frames" / "3.png")) for name in ("plain", "large"))
    assert (plain != large).any()


def test_frames_of_an_earlier_run_are_removed_and_no_others(weights, clip, tmp_path):
    common = ("--weights", weights, "--output", tmp_path, "--save", "frames", "--source")
    assert predict(*common, clip / "3.png") == 0
    foreign = tmp_path / "frames" / "mine.png"
    Image.new("L", (4, 4)).save(foreign)
    (tmp_path / "frames" / "broken.png").write_bytes(b"no image")
    (tmp_path / "tracks.txt").write_text("somebody else's")  # the run before had no tracks
    assert predict(*common, clip / "5.png") == 0
    assert {path.name for path in (tmp_path / "frames").iterdir()} == {"5.png", "mine.png", "broken.png"}
    assert (tmp_path / "tracks.txt").read_text() == "somebody else's"


def test_annotations_tell_hits_misses_and_false_alarms(weights, clip, tmp_path, capsys):
    """Annotate what the network finds in frame 2, and a target that it misses in frame 3; frame 4 has no target."""
    common = ("--weights", weights, "--source", clip, "--confidence", CONFIDENCE, "--save", "frames")
    assert predict(*common, "--output", tmp_path / "first") == 0
    results = read_results(tmp_path / "first")
    by_frame = {name: [r for r in results if r["file_name"] == name] for name in ("2.png", "3.png", "4.png")}
    x, y, w, h = next(r["bbox"] for r in by_frame["2.png"] if min(r["bbox"][2:]) > 2)
    found = [round(x), round(y), round(x + w), round(y + h)]
    annotations = tmp_path / "list.txt"
    annotations.write_text(
        f"/their/machine/clip/2.png {','.join(map(str, found))},0\n"
        "/their/machine/clip/3.png 2,2,5,5,0\n"
        "/their/machine/clip/4.png\n"
        "/their/machine/other/5.png 2,2,5,5,0\n"
    )
    capsys.readouterr()
    assert predict(*common, "--output", tmp_path / "second", "--annotations", annotations) == 0
    false_alarms = len(by_frame["2.png"]) - 1 + len(by_frame["3.png"]) + len(by_frame["4.png"])
    elsewhere = len(results) - 1 - false_alarms
    expected = f"20 frames, {elsewhere} detections, 1 hits, 1 misses, {false_alarms} false alarms"
    assert expected in capsys.readouterr().out
    ids = {result["file_name"]: result["image_id"] for result in read_results(tmp_path / "second")}
    assert ids["2.png"] == 1  # the annotations' id
    assert len(set(ids.values())) == len(ids) and ids["10.png"] > 4  # others get ids of their own


def test_flags_of_tracks_and_of_the_video_rate(weights, clip, tmp_path):
    common = ("--weights", weights, "--source", clip, "--confidence", CONFIDENCE, "--track", "--max-frames", 6)
    counts = {}
    for name, flags in {"usual": (), "near": ("--track-reach", 0.01), "long": ("--min-track-length", 7)}.items():
        assert predict(*common, "--output", tmp_path / name, "--fps", 10, *flags) == 0
        counts[name] = len({result["track_id"] for result in read_results(tmp_path / name)})
    assert counts["near"] > counts["usual"] > 0 and counts["long"] == 0
    assert open_source(tmp_path / "usual" / "detections.mp4").fps == 10


def test_tracks_in_every_file(weights, clip, tmp_path, capsys):
    """The network's own detections as annotations: each is hit by its own track, so nothing switches."""
    common = ("--weights", weights, "--source", clip, "--confidence", CONFIDENCE, "--save", "frames", "--track")
    assert predict(*common, "--output", tmp_path / "first") == 0
    results = read_results(tmp_path / "first")
    lines = [line.split(",") for line in (tmp_path / "first" / "tracks.txt").read_text().splitlines()]
    assert [(int(f), int(t), float(x)) for f, t, x, *_ in lines] == [
        (r["image_id"], r["track_id"], r["bbox"][0]) for r in results
    ]
    assert {len(line) for line in lines} == {10} and {line[-1] for line in lines} == {"-1"}
    with (tmp_path / "first" / "detections.csv").open(newline="") as file:
        assert [int(row["track_id"]) for row in csv.DictReader(file)] == [r["track_id"] for r in results]
    assert not (tmp_path / "first" / "track_metrics.json").exists()

    tracks = {r["track_id"] for r in results if r["image_id"] <= 10}
    images = [{"id": n, "file_name": f"clip/{n}.png", "height": 256, "width": 320} for n in range(1, 11)]
    annotations = [
        {"id": n, "image_id": r["image_id"], "category_id": 1, "bbox": [round(v) for v in r["bbox"]], "area": 9,
         "iscrowd": 0, "track_id": 100 + r["track_id"]}
        for n, r in enumerate(results, start=1) if r["image_id"] <= 10 and min(r["bbox"][2:]) > 1
    ]  # fmt: skip
    truth = tmp_path / "truth.json"
    names = [{"id": 1, "name": "target"}]
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    capsys.readouterr()
    assert predict(*common, "--output", tmp_path / "second", "--annotations", truth) == 0
    metrics = json.loads((tmp_path / "second" / "track_metrics.json").read_text())
    assert metrics["annotated_tracks"] == len({a["track_id"] for a in annotations}) > 1
    assert metrics["track_pd"] == 1.0 and metrics["identity_switches"] == 0
    assert metrics["found_tracks"] == len(tracks)
    assert "100.0 % of" in capsys.readouterr().out

    # Detections without tracks take the place of these: nothing says of them what was true of the others.
    assert predict(*common[:-1], "--output", tmp_path / "second", "--max-frames", 2) == 0
    assert {path.name for path in (tmp_path / "second").iterdir()} == {"detections.json", "detections.csv", "frames"}


def test_which_annotations_tell_tracks_apart(clip, tmp_path):
    annotations = tmp_path / "list.txt"
    annotations.write_text("clip/2.png 2,2,5,5,0\nclip/3.png\n")
    truth = Truth(annotations, open_source(clip), ("target",))
    found, empty = (truth.find(clip / name) for name in ("2.png", "3.png"))
    assert truth.tracks(found, 0).tolist() == [0] and truth.tracks(found, 1).tolist() == [1]
    assert truth.tracks(empty, 0).tolist() == []
    annotations.write_text("clip/2.png 2,2,5,5,0 9,9,12,12,0\n")
    truth = Truth(annotations, open_source(clip), ("target",))
    assert not truth.tells_tracks and truth.tracks(truth.find(clip / "2.png"), 0) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_names_of_frames_that_are_no_text(weights, clip, tmp_path):
    """Out of an old archive, in Latin-1."""
    source = tmp_path / "frames"
    source.mkdir()
    for number in (1, 2):
        shutil.copy(clip / f"{number}.png", os.fsencode(source) + f"/b\xfcld{number}.png".encode("latin-1"))
    assert predict("--weights", weights, "--source", source, "--output", tmp_path / "out", "--confidence", 0) == 0
    assert r"b\udcfcld1.png" in (tmp_path / "out" / "detections.csv").read_text()


@pytest.mark.parametrize("linked", ["folder", "frames"])
def test_annotated_frames_behind_links(clip, tmp_path, linked):
    frames = sorted(path for path in clip.iterdir() if path.suffix == ".png")
    source = tmp_path / "images" / "seqA"
    source.parent.mkdir()
    if linked == "folder":
        source.symlink_to(clip)
    else:
        source.mkdir()
        for number, frame in enumerate(frames):
            (source / f"{number:03}.png").symlink_to(frame)
    first = min(path.name for path in source.glob("*.png"))
    (tmp_path / "list.txt").write_text(f"images/seqA/{first} 1,1,9,9,0\n")
    truth = Truth(tmp_path / "list.txt", open_source(source), ("target",))
    assert truth.find(source / first).boxes.tolist() == [[1, 1, 9, 9, 0]]


def test_a_list_serves_a_network_of_several_classes(clip, tmp_path):
    annotations = tmp_path / "list.txt"
    annotations.write_text("clip/2.png 2,2,5,5,0\n")
    assert Truth(annotations, open_source(clip), ("bird", "drone")).category_ids == (1, 2)


def test_the_samples_annotations_fit_the_sample_videos(weights, tmp_path, capsys):
    """Every frame of the shipped video is annotated, and random weights hit nothing with certainty."""
    status = predict(
        *("--weights", weights, "--source", VIDEO, "--output", tmp_path, "--confidence", 1),
        *("--annotations", SAMPLES / "boxes.txt", "--save", "frames"),
    )
    assert status == 0
    assert "302 frames, 302 misses" in capsys.readouterr().out
    boxes = json.loads((SAMPLES / "boxes.json").read_text())
    assert {path.stem for path in SAMPLES.glob("*.mp4")} == set(boxes)
    for name, entry in boxes.items():
        source = open_source(SAMPLES / f"{name}.mp4")
        assert (entry["frames"], entry["fps"], entry["size"][::-1]) == (source.total, source.fps, list(source.size))
        assert len(entry["boxes"]) == entry["frames"]


def test_the_first_frames_alone(weights, tmp_path, capsys):
    """What is found in them does not depend on how many follow."""
    common = ("--weights", weights, "--source", VIDEO, "--confidence", CONFIDENCE)
    assert predict(*common, "--output", tmp_path / "some", "--max-frames", 7) == 0
    assert count_frames(tmp_path / "some" / "detections.mp4") == 7 and "7 frames, " in capsys.readouterr().out
    assert predict(*common, "--output", tmp_path / "more", "--max-frames", 9) == 0
    results = [[r for r in read_results(tmp_path / name) if r["image_id"] <= 7] for name in ("some", "more")]
    assert results[0] and [r["image_id"] for r in results[0]] == [r["image_id"] for r in results[1]]


def test_memory_does_not_grow_with_the_source(weights):
    """Of 120 frames that stream through, no more than a few chunks are alive at any time."""
    alive: list[weakref.ref] = []

    class Camera:
        def __iter__(self):
            for index in range(1, 121):
                frame = Frame(index, f"{index}.png", Path(f"{index}.png"), np.full((32, 48), index % 256, np.uint8), 0)
                alive.append(weakref.ref(frame))
                yield frame

    detector = Detector.from_file(weights, input_size=(32, 32), chunk=4)
    most = seen = 0
    for frame, _ in detect_frames(Camera(), detector):
        seen += 1
        assert frame.index == seen
        if seen % 20 == 0:
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
    assert seen == 120 and 0 < most <= 3 * detector.chunk


@pytest.mark.parametrize(("stop", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_playable_video_and_valid_json(weights, tmp_path, capsys, stop, expected):
    handler = signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        frames = tmp_path / "frames"
        while time.monotonic() < deadline and not (frames.is_dir() and sum(1 for _ in frames.iterdir()) >= 5):
            time.sleep(0.002)
        _thread.interrupt_main(stop)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    status = predict(
        *("--weights", weights, "--source", VIDEO, "--output", tmp_path, "--confidence", CONFIDENCE),
        *("--save", "both", "--input-size", 320, 416, "--track"),
    )
    watcher.join()
    assert status == expected and signal.getsignal(signal.SIGTERM) is handler
    written = count_frames(tmp_path / "detections.mp4")
    assert 4 <= written < 302
    ids = [result["image_id"] for result in read_results(tmp_path)]
    assert ids == sorted(ids) and max(ids) <= written + 1
    assert len((tmp_path / "tracks.txt").read_text().splitlines()) == len(ids)
    assert " frames, " in capsys.readouterr().out


def test_a_truncated_frame_stops_with_what_came_before(weights, clip, tmp_path, capfd):
    for number in range(1, 7):
        content = (clip / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(content if number < 6 else content[:2000])
    output = tmp_path / "out"
    assert predict("--weights", weights, "--source", tmp_path, "--output", output) == 2
    assert "6.png: truncated or broken image" in capfd.readouterr().err
    assert count_frames(output / "detections.mp4") == 5  # whatever was read ahead
    assert isinstance(read_results(output), list)


def test_a_source_that_cannot_be_read_costs_no_earlier_results(weights, clip, tmp_path, capfd):
    output, source = tmp_path / "out", tmp_path / "7.png"
    assert predict("--weights", weights, "--source", clip, "--output", output, "--save", "both") == 0
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    source.write_bytes((clip / "7.png").read_bytes()[:2000])
    flags = ("--weights", weights, "--output", output, "--save", "both")
    capfd.readouterr()
    assert predict(*flags, "--source", source) == 2
    assert predict(*flags, "--source", clip, "--fps", 1e9) == 2  # which MPEG-4 does not know
    said = capfd.readouterr()
    assert said.out == "" and "7.png: truncated or broken image" in said.err
    assert len(before) > 20 and {path: path.read_bytes() for path in output.rglob("*.*")} == before


def test_pictures_of_an_earlier_run_are_told(weights, clip, tmp_path, capsys):
    common = ("--weights", weights, "--output", tmp_path, "--source", clip / "3.png", "--save")
    assert predict(*common, "both") == 0 and capsys.readouterr().err == ""
    assert predict(*common, "video") == 0
    assert capsys.readouterr().err == f"note: {tmp_path / 'frames'} is of an earlier run\n"
    assert predict(*common, "frames") == 0
    assert capsys.readouterr().err == f"note: {tmp_path / 'detections.mp4'} is of an earlier run\n"


def test_what_is_read_is_not_written_over(weights, clip, tmp_path, capsys):
    source, out = tmp_path / "video.mp4", tmp_path / "out"
    shutil.copy(VIDEO, source)
    out.mkdir()
    os.link(source, out / "detections.mp4")
    assert predict("--weights", weights, "--source", source, "--output", out) == 2
    assert "which would be overwritten" in capsys.readouterr().err and source.stat().st_size == VIDEO.stat().st_size
    (out / "detections.json").write_text("truth")
    flags = ("--weights", weights, "--source", clip / "3.png", "--output", out)
    with pytest.raises(UserError, match="detections.json itself, which would be overwritten"):
        OutputFolder(out, open_source(clip), "frames", annotations=out / "detections.json")
    assert predict(*flags, "--save", "video", "--fps", 1e9) == 2  # which MPEG-4 does not know
    assert (out / "detections.json").read_text() == "truth"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--weights", "missing.pth"), "missing.pth"),
        (("--source", "nothing"), "nothing: no such file or folder"),
        (("--source", "no*.png"), "no*.png: no file matches"),
        (("--source", __file__), "not a video"),
        (("--output", __file__), "cannot be made"),
        (("--annotations", "missing.json"), "missing.json"),
        (("--annotations", "{other}"), "annotates no frame of this source"),
        (("--confidence", "1.5"), "--confidence 1.5: must be between 0 and 1"),
        (("--chunk", "-1"), "--chunk -1"),
        (("--frame-interval", "0"), "--frame-interval 0: must be 1 or more"),
        (("--max-frames", "0"), "--max-frames 0: must be 1 or more"),
        (("--track-gap", "3"), "are for --track"),
        (("--input-size", "500", "500"), "multiples of 32"),
        (("--device", "abacus"), "--device abacus"),
        (("--fps", "-1"), "above 0"),
        (("--output", "{clip}/..", "--source", "{clip}/../frames"), "would be overwritten"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(flags, message, weights, clip, tmp_path, capfd):
    other = tmp_path / "other.txt"
    other.write_text("elsewhere/1.png 2,2,5,5,0\n")
    settings = {"--weights": [weights], "--source": [clip], "--output": [tmp_path / "out"], "--save": ["frames"]}
    words = [word.format(other=other, clip=clip) for word in flags]
    if "overwritten" in message:
        (clip.parent / "frames").mkdir(exist_ok=True)
        (clip.parent / "frames" / "1.png").write_bytes((clip / "1.png").read_bytes())
    while words:
        name, *words = words
        values = [words.pop(0) for _ in range(len(words)) if not words[0].startswith("--")]
        settings[name] = values
    assert predict(*[word for name, values in settings.items() for word in (name, *values)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error:") and message in lines[0]
