"""Reading frames, their order and their runs."""

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.cli import UserError
from utils.frames import (
    check_intensity,
    natural_key,
    read_frame,
    read_image_size,
    read_values,
    sequence_frames,
    split_runs,
    to_grey,
)

# A loaded machine is no fault of the code.
UNHURRIED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def numbered(*numbers: int) -> list[Path]:
    return [Path(f"{number}.bmp") for number in numbers]


def lengths(names: list[str]) -> list[int]:
    return [len(run) for run in split_runs([Path(name) for name in names])]


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif", ".pgm", ".webp"])
def test_grey_image_is_read_unchanged(tmp_path, suffix):
    grey = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7) * 6
    options = {"lossless": True} if suffix == ".webp" else {}
    frame = read_frame(save(tmp_path / f"0{suffix}", grey, **options))
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, grey)


def test_colour_becomes_luminance_and_grey_colour_stays(tmp_path):
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]]], np.uint8)
    np.testing.assert_array_equal(read_frame(save(tmp_path / "rgb.png", colour)), [[76, 150, 29, 77]])
    rgba = np.concatenate([colour, np.full((1, 4, 1), 10, np.uint8)], axis=2)  # opacity changes nothing
    np.testing.assert_array_equal(read_frame(save(tmp_path / "rgba.png", rgba)), [[76, 150, 29, 77]])
    Image.fromarray(colour).quantize(4).save(tmp_path / "palette.bmp")
    np.testing.assert_array_equal(read_frame(tmp_path / "palette.bmp"), [[76, 150, 29, 77]])


def test_sixteen_bit_rule_is_the_same_for_every_frame(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(read_frame(save(tmp_path / name, values)), [[0, 1, 128, 255]])
    alone = read_frame(save(tmp_path / "dim.png", values[:, :2]))
    np.testing.assert_array_equal(alone, [[0, 1]])  # a dim frame is not stretched


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_colour_keeps_its_depth(tmp_path, suffix):
    """A camera's 14 bits, saved as colour by a tool that knows nothing else."""
    grey = np.random.default_rng(0).integers(0, 2**14, (12, 16), dtype=np.uint16)
    colour = tmp_path / f"colour.{suffix}"
    assert cv2.imwrite(str(colour), np.dstack([grey] * 3))
    plain = save(tmp_path / "grey.tif", grey)
    assert abs(read_values(colour).astype(int) - grey).max() <= 1  # the weights of luminance are rounded
    window = (0.0, 2.0**14 - 1)
    assert abs(read_frame(colour, window).astype(int) - read_frame(plain, window)).max() <= 1
    assert abs(read_frame(colour).astype(int) - read_frame(plain)).max() <= 1
    colour.write_bytes(colour.read_bytes()[:-300])
    with pytest.raises(UserError, match=f"colour.{suffix}: truncated or broken image"):
        read_values(colour)


def test_float_frames_are_grey_levels(tmp_path):
    values = np.array([[0, 1.4, 127.6, 255]], np.float32)
    np.testing.assert_array_equal(read_frame(save(tmp_path / "f.tif", values)), [[0, 1, 128, 255]])


@pytest.mark.parametrize("kind, name", [(np.uint16, "deep.png"), (np.int32, "deep.tif"), (np.float32, "f.tif")])
def test_a_window_of_values_becomes_grey(tmp_path, kind, name):
    values = np.array([[0, 999, 1000, 1500, 2000, 60000]], kind)
    np.testing.assert_array_equal(read_frame(save(tmp_path / name, values), (1000, 2000)), [[0, 0, 0, 128, 255, 255]])


@given(st.floats(-1e4, 1e4), st.floats(1, 1e5), st.lists(st.integers(0, 65535), min_size=2, max_size=9, unique=True))
def test_grey_of_a_value_does_not_depend_on_the_frame_and_keeps_its_order(low, span, values):
    together = to_grey(np.array([sorted(values)], np.uint16), (low, low + span), "here")
    alone = [to_grey(np.array([[value]], np.uint16), (low, low + span), "here")[0, 0] for value in sorted(values)]
    assert together[0].tolist() == alone == sorted(alone)


def test_eight_bit_frames_stay_as_they_are_under_any_rule(tmp_path):
    grey = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(read_frame(save(tmp_path / "8.png", grey), (100, 110)), grey)


@pytest.mark.parametrize("window", [(5.0, 5.0), (6.0, 5.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_window_that_is_none(window):
    with pytest.raises(UserError, match="--intensity .*LOW below HIGH"):
        check_intensity(window)


@pytest.mark.parametrize("value, remedy", [(0.5, "multiply by 255"), (300, "LOW HIGH"), (np.nan, "no number")])
def test_float_frames_of_another_range_are_refused(tmp_path, value, remedy):
    path = save(tmp_path / "f.tif", np.full((2, 2), value, np.float32))
    with pytest.raises(UserError, match=rf"f\.tif.*{remedy}"):
        read_frame(path)


def test_broken_files_are_named(tmp_path):
    whole = save(tmp_path / "whole.bmp", np.zeros((32, 32), np.uint8)).read_bytes()
    (tmp_path / "short.bmp").write_bytes(whole[:-100])
    (tmp_path / "text.bmp").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name, reason in [
        ("short.bmp", "truncated"),
        ("text.bmp", "no image type"),
        ("empty.png", "no image type"),
        ("folder.png", "cannot be read"),
        ("absent.bmp", "no such frame"),
    ]:
        with pytest.raises(UserError, match=reason) as failure:
            read_frame(tmp_path / name)
        assert str(tmp_path / name) in str(failure.value)
        assert "\n" not in str(failure.value)
    with pytest.raises(UserError, match="no image type"):
        read_image_size(tmp_path / "text.bmp")


def test_size_comes_from_the_header_alone(tmp_path):
    path = save(tmp_path / "0.bmp", np.zeros((30, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:1100])  # the header and palette without most of the pixels
    assert read_image_size(path) == (30, 40)


def test_natural_order_of_known_names():
    names = ["10.bmp", "2.bmp", "1.bmp", "frame10.png", "frame9.png", "a.png", "0003.bmp", "A2_b10", "a2_b9"]
    expected = ["1.bmp", "2.bmp", "0003.bmp", "10.bmp", "a.png", "a2_b9", "A2_b10", "frame9.png", "frame10.png"]
    assert sorted(names, key=natural_key) == sorted(expected, key=natural_key)
    assert [n for n in sorted(names, key=natural_key) if n[0].isdigit()] == expected[:4]
    assert sorted(["a2_b10", "a2_b9", "a10_b1"], key=natural_key) == ["a2_b9", "a2_b10", "a10_b1"]


@UNHURRIED
@given(st.sets(st.integers(0, 10**6), min_size=1), st.sampled_from(["", "f_", "data5_"]), st.integers(0, 8))
def test_natural_order_is_numeric_for_any_padding(numbers, prefix, width):
    names = [f"{prefix}{number:0{width}d}.bmp" for number in sorted(numbers)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names


@UNHURRIED
@given(st.lists(st.text(max_size=8)))
def test_any_names_can_be_ordered(names):
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered[::-1], key=natural_key) == ordered


def test_sequence_frames_takes_images_only(tmp_path):
    for name in ("10.bmp", "9.PNG", "2.bmp", "._2.bmp", "notes.txt", "video.avi"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "3.bmp").mkdir()
    assert [path.name for path in sequence_frames(tmp_path)] == ["2.bmp", "9.PNG", "10.bmp"]


def test_folder_without_frames_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no image in this folder"):
        sequence_frames(tmp_path)
    with pytest.raises(UserError, match="absent.*cannot list"):
        sequence_frames(tmp_path / "absent")


def test_runs_split_at_a_jump():
    runs = split_runs(numbered(*range(26), *range(2701, 2721)))  # DAUB's data5 in small
    assert [(run[0].name, run[-1].name) for run in runs] == [("0.bmp", "25.bmp"), ("2701.bmp", "2720.bmp")]
    assert lengths(["0.bmp", "5.bmp", "10.bmp", "20.bmp", "25.bmp"]) == [3, 2]  # the usual step is 5
    assert lengths(["1.bmp", "2.bmp", "4.bmp"]) == [2, 1]  # equally common steps: the smaller one
    assert lengths(["0.bmp", "100.bmp"]) == [2]  # the only step is the usual one


def test_runs_of_other_names():
    assert lengths(["first.png", "second.png", "third.png"]) == [3]
    assert lengths(["seq5_0008_v2.png", "seq5_0009_v2.png", "seq5_0012_v2.png", "seq5_0013_v2.png"]) == [2, 2]
    assert lengths(["a_1.png", "a_2.png", "a_3.png", "b_1.png", "b_2.png"]) == [3, 2]
    assert lengths(["1.png", "2.png", "3.png", "background.png"]) == [3, 1]
    assert lengths([f"img_{n:06}_{t}C.png" for n, t in enumerate((21, 24, 21, 25, 20, 24, 30))]) == [7]  # a temperature
    assert lengths([f"img_{n:06}_{t}C.png" for n, t in zip((1, 2, 3, 9), (21, 24, 21, 25), strict=True)]) == [3, 1]
    assert split_runs([]) == []


@UNHURRIED
@given(st.sets(st.integers(0, 60), min_size=1))
def test_runs_keep_every_frame_in_order(numbers):
    paths = numbered(*sorted(numbers))
    runs = split_runs(paths)
    assert [path for run in runs for path in run] == paths
    assert all(runs)


def test_a_frame_in_two_file_types_is_refused(tmp_path):
    for name in ("1.bmp", "2.bmp", "2.png"):
        save(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="2.png: the same frame as 2.bmp; keep one file type"):
        sequence_frames(tmp_path)


def test_times_that_jitter_are_no_jumps():
    names = [f"{time}.png" for time in (0, 33, 67, 100, 133, 200, 233)]
    assert lengths(names) == [5, 2]
    assert lengths(["1.png", "2.png", "3.png", "5.png", "6.png"]) == [3, 2]  # one frame is missing


def clock(milliseconds: int, form: str) -> str:
    hours, minutes, seconds = milliseconds // 3_600_000, milliseconds // 60_000 % 60, milliseconds // 1000 % 60
    return form.format(h=hours, m=minutes, s=seconds, ms=milliseconds % 1000)


@pytest.mark.parametrize("form", ["20230506_{h:02}{m:02}{s:02}_{ms:03}.png", "{h:02}-{m:02}-{s:02}-{ms:03}.png"])
def test_the_next_second_is_no_jump(form):
    times = [12 * 3_600_000 + 59_000 + 40 * n + 3 * (n % 2) for n in range(100)]  # over the end of a minute
    assert lengths([clock(time, form) for time in times]) == [100]
    times = times[:50] + [time + 400 for time in times[50:]]
    assert lengths([clock(time, form) for time in times]) == [50, 50]
    assert lengths([f"shot{k}_{n:04}.png" for k in (1, 2) for n in range(1000)]) == [1000, 1000]


@pytest.mark.parametrize("unit", [100, 1000, 10**6, 10**9])
def test_seconds_with_any_usual_fraction(unit):
    """ROS names frames second_nanosecond."""
    digits = len(str(unit)) - 1
    times = [7 * unit + round(n * unit / 30) for n in range(100)]
    assert lengths([f"{time // unit}_{time % unit:0{digits}}.png" for time in times]) == [100]


@pytest.mark.parametrize("jitter", [0.3e-3, 3e-3, 5e-3])
def test_jittering_times_of_any_precision(jitter):
    """Nanoseconds: no two steps are alike."""
    rng = np.random.default_rng(0)
    seconds = 12 + np.arange(100) / 30 + rng.uniform(-jitter, jitter, 100)
    assert lengths([f"{time:.9f}".replace(".", "_") + ".png" for time in seconds]) == [100]
    seconds[60:] += 5.0  # the fraction may rise over the gap
    assert lengths([f"{time:.9f}".replace(".", "_") + ".png" for time in seconds]) == [60, 40]


def test_a_number_in_front_that_seldom_changes_ends_a_run():
    assert lengths([f"s{1 + n // 100}_{n:04}.png" for n in range(200)]) == [100, 100]
    assert lengths([f"frame{n:03}_{40 * n}.png" for n in range(50)]) == [50]  # counted and timed
    assert lengths(["12-00-00-720.png", "12-00-00-760.png", "12-10-00-800.png", "12-10-00-840.png"]) == [2, 2]


def test_numbers_of_a_hash_are_none_of_a_frame():
    names = [f"frame_{n:04}_jpg.rf.{part}.jpg" for n, part in enumerate(["ab", "4c1", "7d7e2", "x"])]
    assert lengths(names) == [4]


@pytest.mark.parametrize("left_out", [3, 4])
def test_every_nth_frame_left_out_is_no_jump(left_out):
    numbers = [n for n in range(60) if n % left_out]
    assert len(split_runs([Path(f"{n}.png") for n in numbers])) == 1
    assert len(split_runs([Path(f"{n}.png") for n in (*numbers, 70, 71, 73)])) == 2
