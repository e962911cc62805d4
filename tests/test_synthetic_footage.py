"""Targets painted into real footage: the camera's motion, what stays, and which sequences serve which split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.annotations import load_annotations
from utils.cli import UserError
from utils.frames import read_frame
from utils.synthetic import make_sequence, make_sequence_in
from utils.synthetic_background import paint_scene
from utils.synthetic_camera import plan_camera, take_frames
from utils.synthetic_dataset import write_dataset
from utils.synthetic_footage import Footage, find_runs, read_footage, track_camera
from utils.synthetic_presets import PRESETS
from utils.synthetic_targets import make_blob, stuck_track

# An SCR much above these saturates in frames as small as the tests'.
MODEL = replace(PRESETS["daub"], targets=(1, 1), distractors=(1, 1), scr=(2.0, 3.0))


def make_footage(seed: int, frames: int = 16, size: tuple[int, int] = (96, 112)) -> Footage:
    """A synthetic sequence in the place of real footage."""
    sequence = make_sequence(np.random.default_rng(seed), MODEL, frames, size)
    boxes = [np.zeros((0, 4), int) for _ in range(frames)]
    for track in sequence.tracks:
        for frame, box in zip(track.frames, track.boxes, strict=True):
            boxes[frame] = np.concatenate([boxes[frame], box[None]])
    return Footage(sequence.frames, tuple(boxes))


def write_footage(root: Path, sequences: dict[str, Footage]) -> Path:
    """Frames of several sequences under a root, and their annotation list."""
    lines = []
    for name, footage in sequences.items():
        (root / name).mkdir(parents=True)
        for number, (frame, boxes) in enumerate(zip(footage.frames, footage.boxes, strict=True)):
            Image.fromarray(frame).save(root / name / f"{number}.bmp")
            lines.append(" ".join([f"{name}/{number}.bmp", *(",".join(map(str, [*box, 0])) for box in boxes)]))
    (root / "list.txt").write_text("\n".join(lines) + "\n")
    return root / "list.txt"


def test_the_camera_is_followed_through_noise():
    rng = np.random.default_rng(4)
    truth = plan_camera(rng, 20, (128, 144), speed=0.8, jitter=0.6, turn=2.0, zoom=0.0)
    frames = 100 + 25 * take_frames(paint_scene(rng, "ground", truth.scene_size, 1.0), truth)
    frames += rng.normal(0, 2, frames.shape)
    found = track_camera(np.clip(np.rint(frames), 0, 255).astype(np.uint8))
    for corner in [(20.0, 20.0), (72.0, 64.0), (120.0, 100.0)]:
        for frame in range(19):  # where a point of the ground is in the next frame
            expected, got = (c.to_frame(frame + 1, c.to_scene(frame, np.array(corner))) for c in (truth, found))
            assert got == pytest.approx(expected, abs=0.15)


def test_frames_without_structure_stand_still():
    camera = track_camera(np.full((3, 64, 64), 90, np.uint8))
    assert np.allclose(camera.transforms, np.eye(2, 3), atol=1e-3)


def test_what_was_annotated_stays_and_only_blobs_are_painted():
    footage = make_footage(1)
    made = make_sequence_in(np.random.default_rng(2), MODEL, footage)
    assert [track.asked_scr is None for track in made.tracks] == [True, False]
    kept = made.tracks[0]
    assert all(np.array_equal(footage.boxes[k][0], box) for k, box in zip(kept.frames, kept.boxes, strict=True))
    changed = (made.frames != footage.frames).any(0)
    assert 0 < changed.mean() < 0.05
    added = made.tracks[1]
    for frame, (x1, y1, x2, y2) in zip(added.frames, added.boxes, strict=True):
        assert (made.frames[frame, y1:y2, x1:x2] != footage.frames[frame, y1:y2, x1:x2]).any()
    assert np.median(added.scr) == pytest.approx(added.asked_scr, rel=0.1)


def test_a_stuck_point_stays_on_its_pixel_before_a_moving_camera():
    rng = np.random.default_rng(3)
    camera = plan_camera(rng, 12, (80, 96), speed=0.8, jitter=0.5, turn=1.0, zoom=0.01)
    blob = make_blob(rng, camera, stuck_track(rng, camera), 2.0, 8, 0.0, 3.0, moving=False)
    assert blob.shown.all() and np.ptp(blob.centre, axis=0).max() < 1e-9


def test_a_data_set_keeps_train_and_test_footage_apart(tmp_path):
    source = write_footage(tmp_path / "real", {"a": make_footage(1), "b": make_footage(2, size=(64, 80))})
    settings = {"seed": 5, "sequences": (2, 1), "frames": 12, "frame_size": (256, 256), "footage": source}
    write_dataset(tmp_path / "set", MODEL, **settings)
    train = load_annotations(tmp_path / "set/annotations/instances_train2017.json", tmp_path / "set")
    test = load_annotations(tmp_path / "set/annotations/instances_test2017.json", tmp_path / "set")
    assert {read_frame(record.path).shape for record in train.records} == {(96, 112)}
    assert {read_frame(record.path).shape for record in test.records} == {(64, 80)}
    assert {(image["height"], image["width"]) for image in test.coco["images"]} == {(64, 80)}
    tracks = json.loads((tmp_path / "set/annotations/instances_train2017.json").read_text())["tracks"]
    assert [track["asked_scr"] is None for track in tracks] == [True, False] * 2
    write_dataset(tmp_path / "again", MODEL, **settings, workers=2)
    for path in (tmp_path / "set/images").rglob("*.bmp"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "set")).read_bytes()


def test_without_test_sequences_all_footage_trains(tmp_path):
    source = write_footage(tmp_path / "real", {"a": make_footage(1)})
    records = write_dataset(tmp_path / "set", MODEL, 0, (1, 0), 12, (256, 256), footage=source)
    assert len(records["train"]) == 1 and records["train"][0].scene == "footage"


def test_missing_frames_are_said_with_the_folder_that_names_count_from(tmp_path):
    source = write_footage(tmp_path / "real", {"a": make_footage(1)})
    (tmp_path / "lists").mkdir()
    elsewhere = source.rename(tmp_path / "lists" / source.name)
    with pytest.raises(UserError, match=f"names count from {elsewhere.parent}: put the file there"):
        find_runs(elsewhere, 8)


def test_runs_end_at_jumps(tmp_path):
    source = write_footage(tmp_path / "real", {"a": make_footage(1, frames=30)})
    (tmp_path / "real/a/12.bmp").unlink()
    source.write_text("".join(f"{line}\n" for line in source.read_text().splitlines() if "/12.bmp" not in line))
    assert [len(run) for run in find_runs(source, 8)] == [12, 17]
    assert [len(run) for run in find_runs(source, 15)] == [17]


def test_runs_are_neighbours_of_the_folder_not_of_the_list(tmp_path):
    """Every second frame annotated is no run; frames beside a wholly annotated stretch do not belong to it."""
    source = write_footage(tmp_path / "real", {"a": make_footage(1, frames=30)})
    lines = source.read_text().splitlines()
    source.write_text("\n".join(lines[:20:2] + lines[20:]) + "\n")
    assert [[record.path.name for record in run][::9] for run in find_runs(source, 8)] == [["20.bmp", "29.bmp"]]
    assert len(find_runs(source, 8)[0]) == 10


def test_of_several_boxes_a_frame_nobody_says_which_belong_together(tmp_path):
    boxes = np.array([[10, 10, 18, 18], [60, 60, 68, 68]])
    plain = make_footage(1)
    footage = Footage(plain.frames, tuple(boxes[: 1 + (n < 8)] for n in range(16)))
    source = write_footage(tmp_path / "real", {"a": footage})
    write_dataset(tmp_path / "set", MODEL, 0, (1, 0), 16, (256, 256), footage=source)
    written = json.loads((tmp_path / "set/annotations/instances_train2017.json").read_text())["annotations"]
    real = [entry for entry in written if [entry["bbox"][0], entry["bbox"][1]] in boxes[:, :2].tolist()]
    assert len(real) == 24 and not any("track_id" in entry for entry in real)
    painted = {entry["track_id"] for entry in written if entry not in real}
    assert painted == {3}
    source.write_text(source.read_text().replace("18,18,0", "18,18,1"))
    with pytest.raises(UserError, match="targets of several classes"):
        write_dataset(tmp_path / "other", MODEL, 0, (1, 0), 16, (256, 256), footage=source)


def test_deep_footage_becomes_grey_by_the_rule_asked_for(tmp_path):
    footage = make_footage(1)
    deep = Footage(footage.frames.astype(np.uint16) * 4 + 700, footage.boxes)
    (tmp_path / "real" / "a").mkdir(parents=True)
    lines = []
    for number, (frame, boxes) in enumerate(zip(deep.frames, deep.boxes, strict=True)):
        Image.fromarray(frame).save(tmp_path / "real" / "a" / f"{number}.png")
        lines.append(" ".join([f"a/{number}.png", *(",".join(map(str, [*box, 0])) for box in boxes)]))
    (tmp_path / "real" / "list.txt").write_text("\n".join(lines) + "\n")
    model = replace(MODEL, targets=(0, 0), distractors=(0, 0))
    source = tmp_path / "real" / "list.txt"
    write_dataset(tmp_path / "set", model, 0, (1, 0), 16, (256, 256), footage=source, intensity=(700, 1720))
    for number in range(16):
        written = read_frame(tmp_path / f"set/images/train/data1/{number}.bmp")
        assert np.abs(written.astype(int) - footage.frames[number]).max() <= 1


def test_footage_that_cannot_serve_is_refused(tmp_path):
    source = write_footage(tmp_path / "real", {"a": make_footage(1)})
    settings = {"seed": 0, "sequences": (1, 1), "frame_size": (64, 64), "footage": source}
    with pytest.raises(UserError, match="--backgrounds and --footage"):
        write_dataset(tmp_path / "set", MODEL, frames=12, backgrounds=tmp_path, **settings)
    with pytest.raises(UserError, match="train and test need one each"):
        write_dataset(tmp_path / "set", MODEL, frames=12, **settings)
    with pytest.raises(UserError, match="no 50 consecutive frames"):
        write_dataset(tmp_path / "set", MODEL, frames=50, **settings)
    assert not (tmp_path / "set").exists()
    Image.new("L", (200, 200)).save(tmp_path / "real/a/3.bmp")
    with pytest.raises(UserError, match=r"3\.bmp.*one size"):
        read_footage(find_runs(source, 12)[0])
