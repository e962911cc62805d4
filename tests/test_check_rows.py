"""What would be lost in silence: targets too small in the input, 16-bit contrast, classes, ground truth not scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.training_cases import make_data, small_config
from utils.check_data import Config, check
from utils.check_rows import lost_boxes
from utils.cli import UserError
from utils.frames import few_levels, to_grey
from utils.letterbox import Letterbox
from utils.training_setup import load_split

sizes = st.tuples(st.integers(8, 2000), st.integers(8, 2000))
boxes = st.lists(st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(1, 20)] * 2), max_size=6)


@given(st.lists(st.tuples(sizes, boxes), max_size=5))
def test_lost_boxes_are_those_that_training_drops(frames):
    frames = [(size, [[x, y, x + w, y + h, 0] for x, y, w, h in rows]) for size, rows in frames]
    kept = sum(len(Letterbox(size, (512, 512)).boxes_to_input(np.array(rows))) for size, rows in frames if rows)
    total = sum(len(rows) for _, rows in frames)
    assert lost_boxes(frames, (512, 512)) == (total - kept, total)


def test_small_targets_of_large_frames_are_lost():
    assert lost_boxes([((1080, 1920), [[100, 100, 103, 103, 0], [9, 9, 19, 19, 0]])], (512, 512)) == (1, 2)
    assert lost_boxes([((1080, 1920), [[100, 100, 103, 103, 0]])], (1088, 1920)) == (0, 1)


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data")


def rewrite(path: Path, **parts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def boxes_of(path: Path, **parts: object) -> list[dict]:
    return [annotation | parts for annotation in json.loads(path.read_text())["annotations"]]


def test_training_warns_of_lost_targets_and_refuses_where_none_is_left(data):
    path = data / "annotations" / "instances_train2017.json"
    rewrite(path, annotations=boxes_of(path, bbox=[10, 10, 3, 3]))
    settings = small_config(data, data / "run")
    load_split(settings, "train", ("target",))
    assert not any("1 pixel or less" in line for line in check(settings.data_check).warnings)
    small = small_config(data, data / "run", input_size=(32, 32))
    with pytest.raises(UserError, match=r"no box to learn from, all \d+ are 1 pixel .*--input-size 32 32; give a"):
        load_split(small, "train", ("target",))
    (warning,) = [line for line in check(small.data_check).warnings if "train" in line and "1 pixel or less" in line]
    assert "so training takes them for background; give a larger --input-size" in warning


def test_few_grey_levels():
    narrow = np.linspace(7000, 7400, 4096, dtype=np.uint16).reshape(64, 64)
    note = few_levels(narrow, to_grey(narrow, "full", "f"), "full")
    assert note.startswith("--intensity full leaves 3 of 256 grey levels to its values, 7000 to 7399;")
    for values, rule in [
        (narrow, (7000.0, 7400.0)),
        (narrow * 9, "full"),
        ((narrow // 64).astype(np.uint8), "full"),  # 8-bit frames are as they are
        (np.full((8, 8), 700, np.uint16), "full"),  # nothing to see under any rule
    ]:
        assert few_levels(values, to_grey(values, rule, "f"), rule) is None


def test_the_check_names_lost_contrast_once_a_sequence(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for name in "ab":
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(3):
            values = rng.integers(7000, 7400, (64, 64), dtype=np.uint16)
            Image.fromarray(values).save(folder / f"{number}.png")
            lines.append(f"images/{name}/{number}.png 8,8,16,16,0\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    settings = {"data_root": tmp_path, "train_list": tmp_path / "list.txt", "workers": 1}
    found = [line for line in check(Config(**settings)).warnings if "grey levels" in line]
    assert len(found) == 2 and "list.txt:1: " in found[0]
    assert not any("grey levels" in line for line in check(Config(**settings, intensity=(7000, 7400))).warnings)


def test_the_check_refuses_the_classes_that_training_refuses(data, tmp_path):
    for split in ("train", "test"):
        names = [{"id": 1, "name": "bird"}, {"id": 2, "name": "drone"}]
        rewrite(data / "annotations" / f"instances_{split}2017.json", categories=names)
    for text in ("drone\nbird\n", "bird\ndrone\nplane\n"):
        (tmp_path / "classes.txt").write_text(text)
        settings = small_config(data, tmp_path / "run", classes=tmp_path / "classes.txt")
        with pytest.raises(UserError) as refused:
            load_split(settings, "train", tuple(text.split()))
        assert str(refused.value) in check(settings.data_check).errors
    (tmp_path / "classes.txt").write_text("bird\ndrone\n")
    assert not check(small_config(data, tmp_path / "run", classes=tmp_path / "classes.txt").data_check).errors


def test_more_classes_than_one_have_a_remedy(data):
    path = data / "annotations" / "instances_train2017.json"
    rewrite(path, categories=[{"id": 1, "name": "bird"}, {"id": 2, "name": "drone"}])
    with pytest.raises(UserError, match="2 categories; .*training takes the names of more with --classes FILE"):
        load_split(small_config(data, data / "run"), "train", ("target",))


def test_ground_truth_that_is_not_scored_is_refused_before_training(data):
    path = data / "annotations" / "instances_test2017.json"
    found = boxes_of(path)
    rewrite(path, annotations=[*found, {**found[0], "id": 999, "bbox": [9, 9, -3, 3], "iscrowd": 1}])
    settings = small_config(data, data / "run")
    with pytest.raises(UserError, match="bbox has a negative side"):
        load_split(settings, "val", ("target",))
    assert any("bbox has a negative side" in line for line in check(settings.data_check).errors)
