"""Moving pictures at the edges: frames of an image, a folder, a glob or a video in, an MP4 out.

A source is opened once (which finds most faults) and then read lazily, one frame in memory at a time.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from utils.cli import UserError
from utils.frames import (
    DECODING_ERRORS,
    Intensity,
    is_image_name,
    natural_key,
    read_frame,
    read_image_size,
    refuse_twins,
    sequence_frames,
    split_runs,
    to_grey,
)

IMAGE_FPS = 25.0  # of a video made of images that no rate is given for
HIGHEST_FPS = 65535.0  # that MPEG-4 can say; a header with more says nothing
TEXT_CODEC = "ansi"  # FFmpeg plays text files as "ANSI art"
GREY16 = b"Y1\x00\x10"  # pixel format of 16-bit grey video that OpenCV hands on as it is


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source. The frames of a run are consecutive; no clip reaches into another run."""

    index: int  # from 1
    name: str  # below the source: an image's path, or 000001.png for a video's first frame
    path: Path  # where it lies; of a video's frame the name that annotations know it by, VIDEO/000001.png
    image: np.ndarray  # (h, w) uint8 grey
    run: int


class ImageSource:
    """Image files as a source: each folder's frames in natural order, a new run wherever numbers jump."""

    def __init__(self, runs: list[list[Path]], root: Path, fps: float | None = None) -> None:
        self.runs = runs
        self.root = root
        self.size = read_image_size(runs[0][0])  # (h, w)
        self.fps = fps or IMAGE_FPS
        self.intensity: Intensity = "full"  # how 16-bit and float frames become grey; to be set before they are read
        self.total: int | None = sum(map(len, runs))
        self.complaint: str | None = None
        for path in self.paths():  # what the headers say is said before the work begins
            _check_size(path, read_image_size(path), self.size)
            _refuse_stack(path)

    def paths(self) -> Iterator[Path]:
        """The path of every frame, without reading any."""
        return (path for paths in self.runs for path in paths)

    def __iter__(self) -> Iterator[Frame]:
        paths = ((run, path) for run, paths in enumerate(self.runs) for path in paths)
        for index, (run, path) in enumerate(paths, start=1):
            image = read_frame(path, self.intensity)
            yield Frame(index, path.relative_to(self.root).as_posix(), path, image, run)


class VideoSource:
    """A video that OpenCV decodes. Colour becomes luminance, 16-bit grey follows `intensity`, as in images."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.path = path
        self.intensity: Intensity = "full"  # to be set before frames are read
        capture = _open_video(path)
        ok, image = capture.read()
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if not ok:
            raise UserError(f"{path}: holds no frame that can be decoded; replace the file by a whole copy")
        self.size: tuple[int, int] = image.shape[:2]
        self.fps = fps or (rate if math.isfinite(rate) and 0 < rate <= HIGHEST_FPS else IMAGE_FPS)
        self.total = int(count) if math.isfinite(count) and 0 < count < 2**31 else None
        self.complaint: str | None = None  # after reading: what was wrong with the file, if anything

    def paths(self) -> Iterator[Path]:
        """The path of every frame that the header promises, without reading any."""
        return map(self._frame_path, range(1, (self.total or 0) + 1))

    def _frame_path(self, index: int) -> Path:
        return self.path.with_suffix("") / f"{index:06d}.png"

    def __iter__(self) -> Iterator[Frame]:
        capture = _open_video(self.path)
        index = 0
        try:
            while True:
                ok, image = capture.read()
                if not ok:
                    break
                index += 1
                path = self._frame_path(index)
                grey = to_grey(_grey_values(image), self.intensity, path)
                _check_size(f"{self.path}: frame {index}", grey.shape, self.size)
                yield Frame(index, path.name, path, grey, 0)
        finally:
            capture.release()
        if self.total is not None and index < self.total:
            self.complaint = (
                f"{self.path}: {index} of the {self.total} frames that its header promises could be read; "
                "if that is too few, the file is damaged: replace it by a whole copy"
            )


Source = ImageSource | VideoSource


def open_source(source: str | os.PathLike, fps: float | None = None) -> Source:
    """Open an image, a folder of frames, a glob of images or a video; `UserError` if it is none of these.

    `fps` is the rate of the source in frames a second; by default a video's own, and 25 for images.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise UserError(f"a rate of {fps} frames a second: expected a number above 0")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, fps)
    if not path.exists() and glob.has_magic(str(source)):
        return _from_glob(str(source), fps)
    if not path.is_file():
        raise UserError(f"{source}: no such file or folder; give an image, a folder of frames, a glob or a video")
    if not is_image_name(path.name) or path.suffix.lower() == ".gif":
        return VideoSource(path, fps)
    return ImageSource([[path]], path.parent, fps)


def _from_folder(folder: Path, fps: float | None) -> ImageSource:
    return ImageSource(split_runs(sequence_frames(folder)), folder, fps)


def _from_glob(pattern: str, fps: float | None) -> Source:
    """All images that match, folder by folder; or the one video that does."""
    matches = [Path(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)]
    images = [path for path in matches if is_image_name(path.name)]
    if not matches:
        raise UserError(f"{pattern}: no file matches; check the pattern (and quote it, or the shell expands it)")
    if not images:
        if len(matches) > 1:
            raise UserError(f"{pattern}: matches {len(matches)} files but no image; give one video at a time")
        return open_source(matches[0], fps)
    images.sort(key=lambda path: (natural_key(path.parent.as_posix()), natural_key(path.name)))
    refuse_twins(images)
    runs = [run for _, group in groupby(images, key=lambda path: path.parent) for run in split_runs(list(group))]
    root = Path(os.path.commonpath([path.parent for path in images]))
    return ImageSource(runs, root, fps)


def _refuse_stack(path: Path) -> None:
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
    except DECODING_ERRORS:
        return  # reading the frame says what is wrong
    if count > 1:
        raise UserError(f"{path}: {count} images in one file; save them as single images in a folder")


def _check_size(what: str | Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if found != tuple(size):
        (height, width), (first_height, first_width) = found, size
        raise UserError(
            f"{what}: {width} x {height} pixels, but the first frame has {first_width} x {first_height}; "
            "give frames of one size at a time"
        )


def silence_decoders() -> None:
    """OpenCV and FFmpeg write whatever they meet to standard error; what matters is said in one line of ours."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if hasattr(cv2, "setLogLevel"):  # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _open_video(path: Path) -> cv2.VideoCapture:
    silence_decoders()
    place = os.path.abspath(path)  # of "12:30.mp4" FFmpeg takes the start for a protocol
    capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG)
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)) if capture.isOpened() else -1
    if codec < 0 or codec.to_bytes(4, "little").decode("latin-1") == TEXT_CODEC:
        raise UserError(
            f"{path}: not a video that OpenCV can decode, or a damaged one; "
            "give a whole MP4, AVI or MKV file, an image, or a folder of frames"
        )
    pixels = (int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT)) & 0xFFFFFFFF).to_bytes(4, "little")
    if _loses_bits(pixels):
        raise UserError(
            f"{path}: grey of more than 8 bits in a form of which OpenCV reads the upper 8 alone; "
            "convert it to FFV1 with gray16le, or to 16-bit PNG frames"
        )
    if pixels == GREY16:
        # Without this the values come back with their lower eight bits cut off.
        capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
    return capture


def _loses_bits(pixels: bytes) -> bool:
    """Whether a pixel format is one of FFmpeg's deep greys, "Y1", 0 and the bits or the same backwards, but for
    `GREY16`."""
    deep = any(p[:3] == b"Y1\x00" and 8 < p[3] <= 16 for p in (pixels, pixels[::-1]))
    return deep and pixels != GREY16


def _grey_values(image: np.ndarray) -> np.ndarray:
    """A decoded picture, (h, w, 3) uint8 BGR or (h, w) uint8 or uint16 -> grey (h, w) of its own depth."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image


class VideoWriter:
    """Write RGB frames (h, w, 3) uint8 to an MP4 (MPEG-4) of the given size (h, w) and rate.

    MPEG-4 has even sides: an odd one is completed by its last row or column once more. A context manager:
    leaving it, by an exception too, makes the file playable. OpenCV says nothing of a full disk: whoever leaves in
    order gets a `UserError` where the file does not hold all frames.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self.path = Path(path)
        self.frames = 0
        height, width = size
        self.padding = (height % 2, width % 2)
        silence_decoders()
        padded = (width + width % 2, height + height % 2)
        self._writer = cv2.VideoWriter(os.path.abspath(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, padded)
        if not self._writer.isOpened():
            raise UserError(
                f"{path}: OpenCV cannot write this video ({width} x {height} at {fps:g} frames a second); "
                "check that the folder can be written, or save frames instead (--save frames)"
            )

    def write(self, frame: np.ndarray) -> None:
        """Append one RGB frame (h, w, 3)."""
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if any(self.padding):
            bgr = cv2.copyMakeBorder(bgr, 0, self.padding[0], 0, self.padding[1], cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.release()
        if kind is None and self.frames:
            capture = cv2.VideoCapture(os.path.abspath(self.path), cv2.CAP_FFMPEG)
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            capture.release()
            if written != self.frames:
                raise UserError(f"{self.path}: {max(written, 0)} of {self.frames} frames in it; make room on the disk")
