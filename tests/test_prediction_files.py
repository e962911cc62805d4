"""The files of a prediction, whenever the writing stops."""

from __future__ import annotations

import json
import resource

import pytest
from PIL import Image

from utils.cli import UserError
from utils.prediction_files import CSV_HEADER, JsonList, OutputFolder
from utils.video import open_source


def test_an_evaluation_is_not_written_over(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "detections.json").write_text("[]")
    (folder / "metrics.json").write_text(json.dumps({"protocol": {"weights": "w.pth"}}))
    with pytest.raises(UserError, match="out: holds the evaluation of w.pth"):
        OutputFolder(folder, open_source(tmp_path / "1.png"), "frames")
    assert (folder / "detections.json").read_text() == "[]" and len(list(folder.iterdir())) == 2
    (folder / "metrics.json").write_text(json.dumps({"protocol": {"detections": "out/detections.json"}}))
    (folder / "detections.csv").write_text(",".join(CSV_HEADER) + "\n")
    with OutputFolder(folder, open_source(tmp_path / "1.png"), "frames"):  # scored after an earlier prediction
        pass


@pytest.mark.parametrize("name", ["detections.json", "detections.csv", "frames/1.png"])
def test_what_somebody_else_wrote_is_not_written_over(tmp_path, name):
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    folder = tmp_path / "out"
    foreign = folder / name
    foreign.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(foreign, "png")
    before = foreign.read_bytes()
    with pytest.raises(UserError, match=f"{name}: not written by this command"):
        OutputFolder(folder, open_source(tmp_path / "1.png"), "frames")
    assert foreign.read_bytes() == before


def test_the_json_list_is_valid_after_every_step(tmp_path):
    path = tmp_path / "list.json"
    growing = JsonList(path)
    assert json.loads(path.read_text()) == []
    growing.extend([{"a": 1}, {"a": 2}])
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}]
    growing.extend([])

    def interrupted():
        yield {"a": 3}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        growing.extend(interrupted())
    growing.close()
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}]


def test_the_json_list_is_valid_on_a_full_disk(tmp_path):
    path = tmp_path / "list.json"
    growing = JsonList(path)
    growing.extend([{"a": 1}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(OSError):
            growing.extend([{"a": "b" * 200}])
        growing.extend([{"a": 2}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    growing.close()
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}]
