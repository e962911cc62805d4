"""Statistics of sequences: each measure against a picture made with a known value."""

import numpy as np
import pytest
from PIL import Image

from utils.annotations import write_list
from utils.cli import parse_config
from utils.frame_statistics import (
    Config,
    fine_part,
    main,
    noise_level,
    spectrum_slope,
    target_diameter,
    target_speeds,
)
from utils.synthetic_camera import Camera
from utils.synthetic_canvas import spectral_texture
from utils.synthetic_footage import Footage, track_camera


@pytest.mark.parametrize("slope", [1.5, 2.5])
def test_spectrum_slope(slope):
    rng = np.random.default_rng(0)
    pictures = [128 + 20 * spectral_texture(rng, (128, 128), beta=slope) for _ in range(4)]
    assert np.mean([spectrum_slope(picture) for picture in pictures]) == pytest.approx(slope, abs=0.25)


@pytest.mark.parametrize("noise", [0, 3])
def test_fine_part_is_the_textures_and_not_the_noises(noise):
    rng = np.random.default_rng(4)
    plain = 128 + 40 * spectral_texture(rng, (128, 128), beta=1.0)  # power falls as 1/f: 0.125 / 0.425
    still = np.stack([plain + noise * rng.normal(size=plain.shape) for _ in range(9)])
    assert fine_part(still, track_camera(still)) == pytest.approx(100 * 0.125 / 0.425, rel=0.1)
    panned = np.stack([np.roll(plain, 2 * k, axis=1) for k in range(9)])
    assert np.isnan(fine_part(panned, track_camera(panned)))
    flat = np.full((9, 32, 32), 7, np.uint8)
    assert np.isnan(fine_part(flat, Camera(np.tile(np.eye(2, 3), (9, 1, 1)), (32, 32), (32, 32))))


def test_noise_level_of_noise_beside_texture():
    rng = np.random.default_rng(1)
    picture = np.full((128, 128), 128.0)
    picture[:, 64:] += 30 * rng.normal(size=(128, 64))  # what is rough elsewhere does not count
    assert noise_level(picture + 2 * rng.normal(size=(128, 128))) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("sign", [1, -1])
def test_target_diameter(sign):
    y, x = np.mgrid[:40, :40]
    disc = np.hypot(x - 20, y - 20) <= 3
    frame = np.uint8(128 + 100 * sign * disc)
    assert target_diameter(frame, np.array([14, 14, 27, 27])) == pytest.approx(6, abs=0.3)
    assert target_diameter(np.full((40, 40), 9, np.uint8), np.array([14, 14, 27, 27])) == 0


def test_speed_is_relative_to_the_background():
    """The camera moves 1 pixel a frame to the right, the target stands in the frame: it moves 1 over the ground."""
    rng = np.random.default_rng(2)
    plain = np.clip(128 + 40 * spectral_texture(rng, (80, 120), beta=2.5), 0, 255)
    frames = np.stack([plain[:, k : k + 80] for k in range(12)]).astype(np.uint8)
    box = np.array([[36, 36, 44, 44]])
    camera = track_camera(frames)
    speeds = target_speeds(Footage(frames, (box,) * 12), camera)
    assert len(speeds) == 7 and np.median(speeds) == pytest.approx(1, abs=0.1)
    assert target_speeds(Footage(frames, (np.repeat(box, 2, 0),) * 12), camera) == []


def test_table_of_sequences(tmp_path, capsys):
    rng = np.random.default_rng(3)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for k in range(9):
            frame = np.clip(rng.normal(100, 5, (64, 64)), 0, 255).astype(np.uint8)
            Image.fromarray(frame).save(tmp_path / folder / f"{k}.bmp")
    rows = [(f"{folder}/{k}.bmp", [(20, 20, 28, 28, 0)] if folder == "a" else []) for folder in "ab" for k in range(9)]
    write_list(tmp_path / "list.txt", rows)
    main(parse_config(Config, ["--annotations", str(tmp_path / "list.txt")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| a | 9 | 99.") or lines[2].startswith("| a | 9 | 100.")
    assert lines[3].startswith("| b | 9 | ") and lines[3].endswith("|  |  |  |")  # no target: nothing to say of it
    for path in tmp_path.rglob("*.bmp"):  # the same frames in a part of 16 bits
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16) + 1000).save(path.with_suffix(".png"))
        path.unlink()
    write_list(tmp_path / "deep.txt", [(name.replace(".bmp", ".png"), boxes) for name, boxes in rows])
    main(parse_config(Config, ["--annotations", str(tmp_path / "deep.txt"), "--intensity", "1000", "1255"]))
    assert capsys.readouterr().out.splitlines() == lines
