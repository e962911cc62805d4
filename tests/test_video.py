"""Frame sources and the video writer: what comes out of which source, and one clear line for each bad one."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.cli import UserError
from utils.video import ImageSource, VideoSource, VideoWriter, open_source

SAMPLES = Path(__file__).parent / "data" / "drone_ir"
VIDEO = SAMPLES / "IR_HELICOPTER_045.mp4"


def write_frames(folder: Path, numbers: list[int], size: tuple[int, int] = (12, 16), suffix: str = "bmp") -> None:
    """Frames whose grey value is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(np.full(size, number, np.uint8)).save(folder / f"{number}.{suffix}")


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    """All frames as RGB, and the rate."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def test_a_folder_comes_in_natural_order_and_in_runs(tmp_path):
    write_frames(tmp_path / "data6", [0, 1, 2, 9, 10, 11])
    source = open_source(tmp_path / "data6")
    frames = list(source)
    assert [frame.image[0, 0] for frame in frames] == [0, 1, 2, 9, 10, 11]
    assert [frame.run for frame in frames] == [0, 0, 0, 1, 1, 1]
    assert [frame.index for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert [frame.name for frame in frames] == ["0.bmp", "1.bmp", "2.bmp", "9.bmp", "10.bmp", "11.bmp"]
    assert (source.size, source.fps, source.total) == ((12, 16), 25, 6)
    assert [frame.path for frame in frames] == list(source.paths())


def test_a_glob_keeps_folders_apart(tmp_path):
    write_frames(tmp_path / "data10", [0, 1])
    write_frames(tmp_path / "data9", [5, 6])
    frames = list(open_source(str(tmp_path / "data*" / "*.bmp"), fps=50))
    assert [(frame.name, frame.run) for frame in frames] == [
        ("data9/5.bmp", 0),
        ("data9/6.bmp", 0),
        ("data10/0.bmp", 1),
        ("data10/1.bmp", 1),
    ]


def test_one_image_and_a_folder_with_a_glob_character(tmp_path):
    write_frames(tmp_path / "data[1]", [7])
    for source in (tmp_path / "data[1]" / "7.bmp", tmp_path / "data[1]"):
        (frame,) = open_source(source)
        assert frame.name == "7.bmp" and frame.image.shape == (12, 16) and frame.image.dtype == np.uint8


def test_a_video_is_read_frame_by_frame():
    source = open_source(VIDEO)
    assert isinstance(source, VideoSource)
    assert (source.size, source.fps, source.total) == ((256, 320), 30, 325)
    expected, _ = read_video(VIDEO)
    frames = list(source)
    assert len(frames) == len(expected) == 325 and source.complaint is None
    assert (frames[4].name, frames[4].run) == ("000005.png", 0)
    assert frames[4].path == SAMPLES / "IR_HELICOPTER_045" / "000005.png"
    for frame, picture in zip(frames[::60], expected[::60], strict=True):
        np.testing.assert_array_equal(frame.image, cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    assert len(list(source)) == 325  # a source can be read again


def write_grey16(path: Path, codec: str, values: np.ndarray) -> None:
    """Three frames of 16-bit grey values (48, 64)."""
    settings = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (64, 48), settings)
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no 16-bit video")
    for _ in range(3):
        writer.write(values)
    writer.release()


def test_sixteen_bit_video_that_opencv_cuts_to_eight_is_refused(tmp_path):
    write_grey16(tmp_path / "grey16.mov", "png ", np.zeros((48, 64), np.uint16))  # big-endian
    with pytest.raises(UserError, match=r"grey16.mov: .* convert it to FFV1"):
        open_source(tmp_path / "grey16.mov")


def test_sixteen_bit_video_follows_the_rule_of_sixteen_bit_images(tmp_path):
    path = tmp_path / "grey16.mkv"
    values = (np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16)
    write_grey16(path, "FFV1", values)
    frames = list(open_source(path))
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[0].image, np.rint(values / 257).astype(np.uint8))
    source = open_source(path)
    source.intensity = (1000, 1255)
    np.testing.assert_array_equal(next(iter(source)).image, np.clip(values.astype(int) - 1000, 0, 255))


def test_a_damaged_video_gives_what_can_be_read_and_says_so(tmp_path):
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(30):
        writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    source = open_source(cut)
    count = len(list(source))
    assert 5 < count < 25
    assert f"{count} of the 30 frames" in source.complaint and "cut.avi" in source.complaint


def bad_source(kind: str, folder: Path) -> tuple[str, str]:
    """A source that cannot be used, and what its error must say."""
    if kind == "missing":
        return str(folder / "nothing.mp4"), "nothing.mp4: no such file"
    if kind == "empty glob":
        return str(folder / "*.png"), "no file matches"
    if kind == "empty folder":
        (folder / "empty").mkdir()
        return str(folder / "empty"), "no image in this folder"
    if kind == "text":
        (folder / "notes.txt").write_text("hello\n" * 100)
        return str(folder / "notes.txt"), "notes.txt: not a video"
    if kind == "no video":
        (folder / "fake.mp4").write_bytes(bytes(range(256)) * 20)
        return str(folder / "fake.mp4"), "fake.mp4: not a video"
    if kind == "truncated video":
        (folder / "cut.mp4").write_bytes(VIDEO.read_bytes()[:30_000])
        return str(folder / "cut.mp4"), "cut.mp4: not a video that OpenCV can decode, or a damaged one"
    if kind == "two videos":
        for name in "ab":
            (folder / f"{name}.mp4").write_bytes(VIDEO.read_bytes())
        return str(folder / "*.mp4"), "one video at a time"
    if kind == "twins":
        write_frames(folder, [1, 2])
        write_frames(folder, [2], suffix="png")
        return str(folder), "the same frame as"
    if kind == "stack":
        pages = [Image.fromarray(np.zeros((8, 8), np.uint8))] * 3
        pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
        return str(folder / "stack.tif"), "3 images in one file"
    if kind == "sizes":
        write_frames(folder / "sizes", [0, 1])
        write_frames(folder / "sizes", [2], size=(16, 16))
        return str(folder / "sizes"), "2.bmp: 16 x 16 pixels, but the first frame has 16 x 12"
    (folder / "0.bmp").write_bytes(b"BM" + bytes(20))
    return str(folder / "0.bmp"), "0.bmp"


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty glob", "empty folder", "text", "no video", "truncated video", "two videos", "twins", "stack"]
    + ["sizes", "truncated image"],
)
def test_a_bad_source_is_one_clear_error(kind, tmp_path, capfd):
    source, message = bad_source(kind, tmp_path)
    with pytest.raises(UserError) as caught:
        list(open_source(source))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # nor do the decoders chatter


def test_a_bad_rate_is_refused():
    for fps in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            open_source(VIDEO, fps)


@pytest.mark.parametrize("size", [(48, 64), (37, 51)])
def test_what_is_written_can_be_played(tmp_path, size):
    """Rate, size (odd sides completed to even ones) and colour order survive, also after an exception."""
    path = tmp_path / "out.mp4"
    red = np.zeros((*size, 3), np.uint8)
    red[..., 0] = 200
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, size, 12.5) as writer:
        for _ in range(6):
            writer.write(red)
        raise KeyboardInterrupt
    frames, fps = read_video(path)
    assert len(frames) == 6 and fps == 12.5
    assert frames[0].shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.abs(frames[3].astype(int).mean(axis=(0, 1)) - [200, 0, 0]).max() < 12


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_video_that_the_disk_does_not_hold_is_said(tmp_path):
    import resource

    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        writer = VideoWriter(tmp_path / "out.mp4", (48, 64), 25)
        with pytest.raises(UserError, match="0 of 40 frames in it; make room"), writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
            for shift in range(40):
                writer.write(np.roll(noise, shift, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_unwritable_video_is_one_clear_error(tmp_path, capfd):
    with pytest.raises(UserError, match="cannot write this video"):
        VideoWriter(tmp_path / "no folder" / "out.mp4", (48, 64), 25)
    assert capfd.readouterr() == ("", "")


def test_an_image_source_reads_nothing_before_it_is_asked(tmp_path):
    """A damaged last frame shows when it is reached, not before, and the first ones are given."""
    write_frames(tmp_path, [0, 1, 2])
    (tmp_path / "2.bmp").write_bytes((tmp_path / "2.bmp").read_bytes()[:70])
    source = open_source(tmp_path)
    assert isinstance(source, ImageSource)
    frames = iter(source)
    assert next(frames).image[0, 0] == 0 and next(frames).image[0, 0] == 1
    with pytest.raises(UserError, match="2.bmp: truncated or broken"):
        next(frames)
