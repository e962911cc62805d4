"""How a camera moves: measured against one whose way is known."""

import json

import numpy as np
import pytest
from PIL import Image

from utils.annotations import write_list
from utils.camera_statistics import Config, join, main, measure_camera
from utils.cli import UserError, parse_config
from utils.synthetic_canvas import spectral_texture
from utils.synthetic_footage import Footage

BOX = np.array([[36, 36, 44, 44]])


def panned(shifts: list[int]) -> np.ndarray:
    """Frames of 80 x 80 before a camera at these columns."""
    plain = np.clip(128 + 40 * spectral_texture(np.random.default_rng(2), (80, 140), beta=2.5), 0, 255)
    return np.stack([plain[:, k : k + 80] for k in shifts]).astype(np.uint8)


def test_a_camera_that_follows_a_target():
    """It moves 2 pixels a frame to the right, and the target stands in the frame."""
    motion = measure_camera(Footage(panned(list(range(0, 24, 2))), (BOX,) * 12))
    assert motion.steps == pytest.approx(2, abs=0.1) and motion.over_clip == pytest.approx(8, abs=0.2)
    assert motion.next_step == pytest.approx(1, abs=0.01) and motion.target == pytest.approx(1, abs=0.01)


def test_a_camera_that_turns_back_is_not_steady_and_two_targets_are_not_followed():
    motion = measure_camera(Footage(panned([0, 3] * 6), (np.repeat(BOX, 2, 0),) * 12))
    assert motion.next_step == pytest.approx(-1, abs=0.01)
    assert len(motion.target) == 0
    assert len(join([motion, motion]).steps) == 22


def test_table(tmp_path, capsys):
    for folder, shifts in {"a": range(0, 24, 2), "b": [0] * 12}.items():
        (tmp_path / folder).mkdir()
        for k, frame in enumerate(panned(list(shifts))):
            Image.fromarray(frame).save(tmp_path / folder / f"{k}.bmp")
    rows = [(f"{folder}/{k}.bmp", [(36, 36, 44, 44, 0)]) for folder in "ab" for k in range(12)]
    write_list(tmp_path / "list.txt", rows)
    main(parse_config(Config, ["--annotations", str(tmp_path / "list.txt")]))
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["a", "b", "all"]
    assert "| 100% | 1.00 | 1.00 |" in lines[2] and "| 0% |  |  |" in lines[3]
    with pytest.raises(UserError, match="must be 8 or more"):
        Config(annotations=tmp_path / "list.txt", frames=3)


def test_what_was_found_by_the_way_of_the_camera(tmp_path, capsys):
    """Before the camera that moves by 8 pixels over a clip the target gets 0.3, two pixels off, else 0.9."""
    rows, detections = [], []
    for folder, shifts, score, off in (("a", range(0, 24, 2), 0.3, 2), ("b", [0] * 12, 0.9, 0)):
        (tmp_path / folder).mkdir()
        for k, frame in enumerate(panned(list(shifts))):
            Image.fromarray(frame).save(tmp_path / folder / f"{k}.bmp")
            rows.append((f"{folder}/{k}.bmp", [(36, 36, 44, 44, 0)]))
            boxes = {score: [36 + off, 36, 8, 8], 0.95: [60, 60, 8, 8]}  # the second one hits nothing
            detections += [
                {"image_id": len(rows), "category_id": 1, "bbox": box, "score": value} for value, box in boxes.items()
            ]
    write_list(tmp_path / "list.txt", rows)
    (tmp_path / "detections.json").write_text(json.dumps(detections[:-2]))  # none in the last frame
    words = ["--annotations", str(tmp_path / "list.txt"), "--detections", str(tmp_path / "detections.json")]
    main(parse_config(Config, words))
    lines = capsys.readouterr().out.strip().splitlines()[-4:]
    assert lines == [
        "| 0 to 0.5 | 8 | 0.90 | 87.5 |", "| 0.5 to 1.5 | 0 |  |  |",
        "| 1.5 to 3 | 0 |  |  |", "| 3 or more | 8 | 0.30 | 0.0 |",
    ]  # fmt: skip
    main(parse_config(Config, [*words, "--confidence", "0.3"]))
    assert capsys.readouterr().out.strip().endswith("| 3 or more | 8 | 0.30 | 100.0 |")
    foreign = [{**row, "image_id": 1000 + row["image_id"]} for row in detections]
    (tmp_path / "detections.json").write_text(json.dumps(foreign))
    with pytest.raises(UserError, match=r"detections.json: no detection on any frame of .*list.txt; pass"):
        main(parse_config(Config, words))
    with pytest.raises(UserError, match="--confidence 2"):
        Config(annotations=tmp_path / "list.txt", confidence=2)
