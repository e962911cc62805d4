"""Synthetic sequences: known answers of their parts, and what a written data set must hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import synthetic_dataset
from utils.annotations import load_annotations
from utils.cli import UserError, run_command
from utils.frames import read_frame
from utils.scr import measure_scr
from utils.synthetic import make_sequence
from utils.synthetic_camera import Camera, plan_camera, take_frames
from utils.synthetic_canvas import SUPERSAMPLING
from utils.synthetic_dataset import write_dataset
from utils.synthetic_presets import PRESETS
from utils.synthetic_targets import make_blob, paint, plan_track, point_spread, still_track
from utils_coco.make_synthetic_dataset import Config, main

STILL = {"camera_speed": (0, 0), "camera_jitter": (0, 0), "rotation": (0, 0), "zoom": (0, 0)}


def small_set(folder: Path, preset: str = "hard", **changes):
    settings = {"seed": 3, "sequences": (2, 1), "frames": 12, "frame_size": (64, 80), "workers": 1}
    return write_dataset(folder, PRESETS[preset], **{**settings, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def hard_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "hard"
    small_set(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(PRESETS))
def drawn(request):
    """A preset and a handful of its sequences."""
    model = PRESETS[request.param]
    return model, [make_sequence(np.random.default_rng([5, k]), model, 30, (128, 128)) for k in range(6)]


# Parts


def test_point_spread_is_one_when_centred_and_keeps_its_light():
    spread = point_spread(21, 10.5, sigma=0.8)
    assert spread[10] == pytest.approx(1)
    assert np.allclose(spread, spread[::-1])
    assert point_spread(21, 10.9, sigma=0.8).sum() == pytest.approx(spread.sum(), rel=1e-5)


@given(st.floats(8, 12), st.floats(0.5, 2.25))
def test_point_spread_lies_where_it_is_put(centre, sigma):
    spread = point_spread(21, centre, sigma).astype(float)
    assert ((np.arange(21) + 0.5) * spread).sum() / spread.sum() == pytest.approx(centre, abs=0.01)


def test_scr_of_a_known_frame():
    y, x = np.mgrid[0:60, 0:60]
    frame = np.where((x + y) % 2, 110, 90).astype(np.uint8)  # mean 100, deviation 10
    frame[29:32, 29:32] = 150
    assert measure_scr(frame, np.array([26, 26, 34, 34])) == pytest.approx(5.0, abs=0.02)
    frame[29:32, 29:32] = 60
    assert measure_scr(frame, np.array([26, 26, 34, 34])) == pytest.approx(4.0, abs=0.02)


def test_frames_are_sampled_at_their_transforms():
    y, x = np.mgrid[0:80, 0:80].astype(np.float32)
    scene = (x + 0.5) / SUPERSAMPLING + 100 * (y + 0.5) / SUPERSAMPLING  # the position itself
    shift = np.array([[[1, 0, 7.25], [0, 1, 4.5]]])
    frame = take_frames(scene, Camera(shift, (16, 20), (40, 40)))[0]
    rows, columns = np.mgrid[0:16, 0:20]
    assert np.allclose(frame, columns + 0.5 + 7.25 + 100 * (rows + 0.5 + 4.5), atol=1e-2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 64), st.floats(0, 80))
def test_camera_goes_there_and_back_and_stays_in_its_scene(seed, y, x):
    camera = plan_camera(np.random.default_rng(seed), 30, (64, 80), speed=0.8, jitter=0.5, turn=2.0, zoom=0.03)
    for frame in (0, 29):
        place = camera.to_scene(frame, np.array([x, y]))
        assert np.allclose(camera.to_frame(frame, place), [x, y])
        assert np.all(place > 0) and np.all(place < camera.scene_size[::-1])


def test_a_dark_side_is_taken_away_beside_its_point_and_given_back():
    camera = plan_camera(np.random.default_rng(1), 9, (64, 80), speed=0.3, jitter=0.1, turn=0.5, zoom=0.0)
    scene = camera.to_scene(4, np.array([40.0, 32.0]))[None].repeat(9, 0)
    rng = np.random.default_rng(2)
    plain = make_blob(rng, camera, scene, 2.0, 8, 0.0, 3.0, moving=False)
    shaded = make_blob(rng, camera, scene, 2.0, 8, 0.0, 3.0, moving=False, shaded=1.0)
    assert plain.shade is None
    painted = []
    for blob in (plain, shaded):
        blob.amplitude[:] = 50
        levels = np.full((9, 64, 80), 100.0, np.float32)
        paint(blob, levels)
        painted.append(levels.copy())
        paint(blob, levels, sign=-1)
        assert np.allclose(levels, 100, atol=1e-3)
    taken = painted[0] - painted[1]
    assert taken.min() >= 0 and 0.1 * 50 < taken.max() <= 1.1 * 50 and painted[1].min() < 100
    for frame in range(9):  # the same place beside the point in every frame
        rows, columns = np.nonzero(taken[frame] > taken[frame].max() / 2)
        x, y = shaded.centre[frame] + shaded.shade.offset
        assert abs(columns.mean() + 0.5 - x) < 1 and abs(rows.mean() + 0.5 - y) < 1


def test_targets_move_steadily_and_distractors_stand_still_in_the_scene():
    rng = np.random.default_rng(1)
    camera = plan_camera(rng, 40, (128, 128), speed=0.5, jitter=0.2, turn=1.0, zoom=0.02)
    for _ in range(10):
        steps = np.diff(plan_track(rng, camera, 0, False, speed=1.5, turn=1.5, confined=False), axis=0)
        pace, heading = np.hypot(*steps.T), np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        assert np.all(np.abs(pace / 1.5 - 1) < 0.16)
        assert np.abs(np.diff(heading)).max() < np.deg2rad(8)
        blob = make_blob(rng, camera, still_track(rng, camera), 4.0, 8, 0.0, 3.0, moving=False)
        assert np.allclose(blob.scene, blob.scene[0])
        seen = np.array([camera.to_scene(k, blob.centre[k]) for k in range(40)])
        assert np.allclose(seen, blob.scene[0])


@pytest.mark.parametrize("band", [(0.0, 1.0), (0.1, 0.6)])
@pytest.mark.parametrize("enters", [False, True])
def test_confined_targets_never_leave_their_part_of_the_frame(band, enters):
    rng = np.random.default_rng(2)
    camera = plan_camera(rng, 300, (128, 128), speed=0.4, jitter=0.2, turn=0.5, zoom=0.01)
    track = plan_track(rng, camera, 0, enters, speed=1.0, turn=1.5, confined=True, band=band)
    blob = make_blob(rng, camera, track, 2.0, 8, 0.4, 3.0, moving=True)
    rows = blob.centre[:, 1] / 128
    assert rows.min() >= band[0] - 0.02 and rows.max() <= band[1] + 0.02
    if not enters:
        assert blob.shown.all()


# Sequences


def test_scr_lands_where_it_was_asked(drawn):
    model, sequences = drawn
    tracks = [track for sequence in sequences for track in sequence.tracks]
    assert len(tracks) >= 5
    for track in tracks:
        assert model.scr[0] <= track.asked_scr <= model.scr[1]
        assert np.median(track.scr) == pytest.approx(track.asked_scr, rel=0.1)


def test_boxes_lie_inside_and_hold_their_targets(drawn):
    model, sequences = drawn
    for sequence in sequences:
        for track in sequence.tracks:
            x1, y1, x2, y2 = track.boxes.T
            assert x1.min() >= 0 and y1.min() >= 0 and x2.max() <= 128 and y2.max() <= 128
            assert (x2 - x1).min() >= 3 and (y2 - y1).min() >= 3
            if model.box_side:
                assert (x2 - x1).max() == (y2 - y1).max() == model.box_side


def test_a_steered_camera_stands_turns_for_some_frames_and_follows_its_targets():
    frames, cosines, steps = 60, [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        camera = plan_camera(rng, frames, (128, 128), speed=0.0, jitter=0.0, turn=0.0, zoom=0.0, slew=1.0)
        steps.append(np.diff([camera.to_scene(k, np.array([64.0, 64.0])) for k in range(frames)], axis=0))
        track = plan_track(rng, camera, 0, False, turn=0.5, confined=False, speed=0.3, followed=True)
        way = np.stack([camera.travel(0), track[-1] - track[0]])
        cosines.append(way[0] @ way[1] / np.hypot(*way.T).prod())
    lengths = np.hypot(*np.concatenate(steps).T)
    assert 0.2 < np.mean(lengths > 0.3) < 0.4 and np.median(lengths) < 0.3
    assert np.mean(cosines) > 0.7


def test_targets_move_at_the_speed_asked_before_a_still_camera():
    model = replace(PRESETS["easy"], speed=(1.2, 1.2), occlusion=0.0, targets=(2, 2), **STILL)
    checked = 0
    for seed in range(4):
        for track in make_sequence(np.random.default_rng(seed), model, 30, (128, 128)).tracks:
            centre = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
            whole = np.all((track.boxes > 0) & (track.boxes < 128), axis=1)
            for k in range(len(centre) - 10):
                if whole[k] and whole[k + 10]:
                    checked += 1
                    assert np.hypot(*(centre[k + 10] - centre[k])) / 10 == pytest.approx(1.2, rel=0.25)
    assert checked > 50


def test_hard_targets_enter_leave_and_pass_behind_things():
    enter = leave = gaps = 0
    for seed in range(8):
        for track in make_sequence(np.random.default_rng([9, seed]), PRESETS["hard"], 40, (128, 128)).tracks:
            enter += track.frames[0] > 0
            leave += track.frames[-1] < 39
            gaps += np.diff(track.frames).max(initial=1) > 1
    assert enter and leave and gaps


def test_frames_have_the_levels_asked_for_and_change(drawn):
    model, sequences = drawn
    for sequence in sequences:
        frames = sequence.frames.astype(float)
        assert sequence.frames.dtype == np.uint8 and frames.shape == (30, 128, 128)
        off = 3 if max(model.deviation) < 40 else 12  # what is cut off at black and white moves the mean
        assert model.mean[0] - off < frames.mean((1, 2)).min() <= frames.mean((1, 2)).max() < model.mean[1] + off
        assert 0.6 * model.deviation[0] < frames.std((1, 2)).mean() < 1.4 * model.deviation[1]
        step = np.abs(np.diff(frames, axis=0)).mean()
        assert 0.3 * model.noise[0] < step < 0.5 * frames.std()  # frames drawn by chance differ by 1.1 deviations


def test_fixed_noise_stands_still_in_the_frame():
    still = {"noise": (0.05, 0.05), "columns": (0, 0), "dead_pixels": (0, 0), "targets": (0, 0), "distractors": (0, 0)}
    model = replace(PRESETS["easy"], pattern=(3.0, 3.0), camera_speed=(1.0, 1.0), **still)
    frames = make_sequence(np.random.default_rng(4), model, 12, (96, 96)).frames.astype(float)
    plain = make_sequence(np.random.default_rng(4), replace(model, pattern=(0.0, 0.0)), 12, (96, 96)).frames
    added = (frames - plain).mean(0)
    assert added.std() == pytest.approx(3.0, rel=0.15)
    assert (frames - plain - added).std() < 1.0


# Data sets


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_one_seed_gives_the_same_bytes_with_any_number_of_workers(preset, tmp_path):
    small_set(tmp_path / "one", preset)
    small_set(tmp_path / "two", preset, workers=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_another_seed_gives_other_frames(hard_set, tmp_path):
    small_set(tmp_path / "other", seed=4)
    assert contents(tmp_path / "other").keys() == contents(hard_set).keys()
    name = "images/train/data1/0.bmp"
    assert contents(tmp_path / "other")[name] != contents(hard_set)[name]


@pytest.mark.parametrize("split, listing, count", [("train", "coco_train_DAUB", 24), ("test", "coco_val_DAUB", 12)])
def test_layout_loads_from_json_and_list_alike(hard_set, split, listing, count):
    from_json = load_annotations(hard_set / "annotations" / f"instances_{split}2017.json", hard_set)
    from_list = load_annotations(hard_set / f"{listing}.txt", hard_set)
    assert len(from_json.records) == len(from_list.records) == count
    for first, second in zip(from_json.records, from_list.records, strict=True):
        assert first.path == second.path and np.array_equal(first.boxes, second.boxes)
        frame = read_frame(first.path)
        assert frame.shape == (64, 80) and frame.dtype == np.uint8
        with Image.open(first.path) as image:
            assert (image.format, image.mode) == ("BMP", "L")


def test_annotations_carry_identity_and_the_scr_of_the_frames_as_written(hard_set):
    coco = json.loads((hard_set / "annotations" / "instances_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    tracks = {track["id"]: track for track in coco["tracks"]}
    assert coco["annotations"]
    for item in coco["annotations"]:
        x, y, w, h = item["bbox"]
        scr = measure_scr(read_frame(hard_set / names[item["image_id"]]), np.array([x, y, x + w, y + h]))
        assert item["scr"] == pytest.approx(scr, abs=0.006)
        assert tracks[item["track_id"]]["sequence"] in names[item["image_id"]]
        assert item["area"] == w * h


def test_train_and_test_sequences_share_no_scene(hard_set):
    first = [read_frame(hard_set / "images" / s / "0.bmp") for s in ("train/data1", "train/data2", "test/data3")]
    for k, frame in enumerate(first):
        for other in first[k + 1 :]:
            assert abs(np.corrcoef(frame.ravel(), other.ravel())[0, 1]) < 0.6


def test_real_backgrounds_are_split_between_train_and_test(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    x = np.linspace(0, 255, 200)
    Image.fromarray(np.tile(x.astype(np.uint8), (150, 1))).save(pictures / "1.png")  # brighter to a side
    Image.fromarray(np.tile(x.astype(np.uint8)[:150, None], (1, 200))).save(pictures / "2.png")  # downwards
    small_set(tmp_path / "set", "easy", backgrounds=pictures)
    train = read_frame(tmp_path / "set/images/train/data1/0.bmp").astype(float)
    test = read_frame(tmp_path / "set/images/test/data3/0.bmp").astype(float)
    assert np.ptp(train.mean(0)) > 3 * np.ptp(train.mean(1))
    assert np.ptp(test.mean(1)) > 3 * np.ptp(test.mean(0))


# Bad input


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"frame_size": (32, 64)}, "--image-size"),
        ({"frames": 2}, "--frames"),
        ({"sequences": (0, 0)}, "--sequences"),
        ({"workers": 0}, "--workers"),
        ({"seed": -1}, "--seed"),
        ({"backgrounds": Path("no/such/folder")}, "--backgrounds"),
    ],
)
def test_settings_that_cannot_be_made_are_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        small_set(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("flag, limits", [("scr", (5.0, 2.0)), ("target_size", (0.0, 3.0)), ("speed", (1.0, 90.0))])
def test_ranges_out_of_order_or_bounds_are_refused(tmp_path, flag, limits):
    model = replace(PRESETS["easy"], **{flag: limits})
    with pytest.raises(UserError, match="LOW <= HIGH"):
        write_dataset(tmp_path / "set", model, seed=0, sequences=(1, 1), frames=8, frame_size=(64, 64))


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_shaded_points_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(UserError, match=r"--shaded .*0 to 1"):
        write_dataset(tmp_path / "set", replace(PRESETS["easy"], shaded=share), 0, (1, 1), 8, (64, 64))


def test_shaded_points_are_painted_where_they_are_asked_for_and_none_change_nothing(tmp_path):
    made = {}
    for name, share in {"default": None, "none": 0.0, "all": 1.0}.items():
        config = Config(tmp_path / name, sequences=(1, 0), frames=8, image_size=(64, 64), distractors=(3, 3), workers=1)
        main(replace(config, shaded=share))
        made[name] = [read_frame(tmp_path / name / f"images/train/data1/{k}.bmp") for k in range(8)]
    assert np.array_equal(made["default"], made["none"])
    assert not np.array_equal(made["default"], made["all"])


def test_only_an_own_data_set_is_overwritten(tmp_path):
    config = Config(tmp_path / "set", sequences=(1, 1), frames=8, image_size=(64, 64), workers=1)
    main(config)
    with pytest.raises(UserError, match="--overwrite"):
        main(config)
    main(replace(config, overwrite=True, frames=9))
    assert len(list((tmp_path / "set/images/train/data1").iterdir())) == 9
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"synthetic\.json"):
        main(replace(config, output=tmp_path / "mine", overwrite=True))
    assert (tmp_path / "mine/letter.txt").read_text() == "keep me"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="file/set: cannot be made"):
        small_set(tmp_path / "file" / "set")


def test_no_list_of_an_earlier_set_stays_beside_new_frames(tmp_path, monkeypatch):
    small_set(tmp_path / "set")
    assert (tmp_path / "set" / "coco_train_DAUB.txt").is_file()

    def full(*_: object) -> None:
        raise UserError("disk full")

    monkeypatch.setattr(synthetic_dataset, "_write_annotations", full)
    with pytest.raises(UserError, match="disk full"):
        small_set(tmp_path / "set", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "set").glob("*.txt")) == []


def test_slow_targets_are_there(tmp_path):
    """Too slow to come in from the frame's edge, they begin inside."""
    model = replace(PRESETS["hard"], speed=(0.02, 0.05), targets=(1, 1), distractors=(0, 0), occlusion=0.0)
    records = write_dataset(tmp_path / "set", model, 0, (6, 0), 16, (64, 64))
    assert all(record.rows for record in records["train"])


def test_who_left_does_not_come_back_as_the_same():
    camera = plan_camera(np.random.default_rng(1), 9, (64, 64), speed=0.0, jitter=0.0, turn=0.0, zoom=0.0)
    way = [20, 10, 3, -9, -9, 3, 10, 20, 30]  # out on the left, and in again
    scene = np.array([camera.to_scene(k, np.array([x, 30.0])) for k, x in enumerate(way)])
    blob = make_blob(np.random.default_rng(2), camera, scene, 2.0, 8, 0.0, 3.0, moving=True)
    assert blob.shown.tolist() == [True] * 3 + [False] * 6


def test_a_set_that_was_broken_off_is_replaced(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic_dataset, "write_sequence", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small_set(tmp_path / "set")
    small_set(tmp_path / "set", overwrite=True)
    assert len(list((tmp_path / "set" / "images").rglob("*.bmp"))) > 0


def test_command_line(tmp_path, capsys):
    flags = ["--output", str(tmp_path / "set"), "--sequences", "1", "1", "--frames", "8", "--image-size", "64", "96"]
    flags += ["--preset", "easy", "--scr", "6", "7", "--workers", "1"]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, flags)
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and "note" not in said.err
    written = json.loads((tmp_path / "set/synthetic.json").read_text())
    assert "," in (tmp_path / "set/coco_train_DAUB.txt").read_text()  # a target even in the shortest sequence
    assert written["scene_model"]["scr"] == [6, 7] and written["image_size"] == [64, 96]
    with pytest.raises(SystemExit) as stop:
        run_command(main, Config, flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error:")
    with pytest.raises(SystemExit):
        run_command(main, Config, [*flags, "--overwrite", "--scr", "50", "50"])
    assert "targets have less than half or more than twice the SCR asked" in capsys.readouterr().err
