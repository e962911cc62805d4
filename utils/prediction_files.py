"""The files of a prediction, written frame by frame: whole and readable whenever the writing stops."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.cli import UserError
from utils.evaluation_report import make_folder, recorded
from utils.frames import DECODING_ERRORS
from utils.video import Frame, Source, VideoSource, VideoWriter

Save = Literal["video", "frames", "both"]
SOFTWARE = "SSTNet vid_predict.py"  # said in every PNG written here, so that a later run knows it as its own
TRACK_KEY = "track_id"
TRACKS, TRACK_METRICS = "tracks.txt", "track_metrics.json"
NAMES = "backslashreplace"  # how names of files that are no text are written
CSV_HEADER = ("image_id", "file_name", "category_id", "category", "score", "x", "y", "w", "h", "cx", "cy")


class JsonList:
    """A JSON list on disk that grows; the file is valid JSON after every `extend`, and after one that failed."""

    TAIL = b"\n]\n"

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)  # what a full disk refused must not wait in a buffer
        self._end = 0  # where the next entry goes; behind it stands only the tail
        self._append(b"[")

    def extend(self, entries: Iterable[dict]) -> None:
        """Append entries, all of them or none."""
        texts = [json.dumps(entry).encode() for entry in entries]
        between = b"\n" if self._end == 1 else b",\n"
        if texts:
            self._append(between + b",\n".join(texts))

    def _append(self, text: bytes) -> None:
        try:
            self._write(text + self.TAIL)
        except BaseException:
            self._restore()
            raise
        self._end += len(text)

    def _write(self, content: bytes) -> None:
        self._file.seek(self._end)
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _restore(self) -> None:
        """Take back what was written of the last entries; the tail finds room where it stood before."""
        self._file.truncate(self._end + len(self.TAIL))
        self._write(self.TAIL)

    def close(self) -> None:
        """Close the list."""
        self._file.close()


class OutputFolder:
    """detections.json, detections.csv and, as `save` says, detections.mp4 and frames/*.png; a context manager.

    With `tracks` also tracks.txt in the format of the MOT challenge, and the number of its track in each detection.

    Where frames are written, those of an earlier run are removed first: PNG files below frames/ whose `Software`
    text is `SOFTWARE`. Another one that has a frame's name is refused, as are a detections.json and .csv of somebody
    else. tracks.txt and track_metrics.json beside an earlier run's detections.csv with tracks are removed
    too: they are of other detections. Other files stay; `older` names a video or frames among them that this run does
    not write, and that are of other detections.
    """

    def __init__(
        self, folder: Path, source: Source, save: Save, tracks: bool = False, annotations: Path | None = None
    ) -> None:
        self.folder = folder
        self.frames = folder / "frames" if save != "video" else None
        video = folder / "detections.mp4" if save != "frames" else None
        motion, track_metrics = folder / TRACKS, folder / TRACK_METRICS
        files = [folder / "detections.json", folder / "detections.csv", video, motion, track_metrics]
        _refuse_own_input(source, annotations, [path for path in files if path], self.frames)
        if weights := recorded(folder / "detections.json")[0].get("weights"):
            raise UserError(f"{folder}: holds the evaluation of {weights}, which would be lost; give another --output")
        for path in files[:2]:
            if path.exists() and not _header(files[1]).startswith(",".join(CSV_HEADER)):
                raise UserError(f"{path}: not written by this command, and would be lost; give another --output")
        make_folder(self.frames or folder)
        kept = [folder / "detections.mp4"] * (video is None) + [folder / "frames"] * (self.frames is None)
        with ExitStack() as stack, self._writing():
            self.older = [path for path in kept if path.exists()] if _header(files[1]) else []
            # First what may refuse: nothing of an earlier run is lost then.
            self._video = stack.enter_context(VideoWriter(video, source.size, source.fps)) if video else None
            if self.frames:
                _remove_own_frames(self.frames, source)
            if _told_tracks(files[1]):
                motion.unlink(missing_ok=True)
                track_metrics.unlink(missing_ok=True)
            self._json = JsonList(files[0])
            stack.callback(self._json.close)
            self._csv_file = stack.enter_context(files[1].open("w", newline="", encoding="utf-8", errors=NAMES))
            self._csv = csv.writer(self._csv_file)
            self._csv.writerow((*CSV_HEADER, TRACK_KEY) if tracks else CSV_HEADER)
            self._tracks = stack.enter_context(motion.open("w", encoding="utf-8")) if tracks else None
            self._open = stack.pop_all()

    def write(
        self,
        frame: Frame,
        picture: np.ndarray,
        results: list[dict],
        class_names: list[str],
        tracks: Sequence[int] | None = None,
    ) -> None:
        """Add a frame: its annotated RGB picture (h, w, 3), its COCO results, their classes' names and tracks."""
        name = frame.name
        rows = [_with_centre(result, name) for result in results]
        for row, number in zip(rows, tracks or (), strict=tracks is not None):
            row[TRACK_KEY] = number
        with self._writing():
            self._json.extend(rows)
            for row, class_name in zip(rows, class_names, strict=True):
                shared = (row["image_id"], name, row["category_id"], class_name, row["score"])
                own = () if tracks is None else (row[TRACK_KEY],)
                self._csv.writerow((*shared, *row["bbox"], *row["centre"], *own))
            self._csv_file.flush()
            if self._tracks:
                self._tracks.writelines(_mot_line(frame.index, row) for row in rows)
                self._tracks.flush()
            if self._video:
                self._video.write(picture)
            if self.frames:
                path = self.frames / PurePosixPath(name).with_suffix(".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_picture(path, picture)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror or error}); choose another --output or make room"
            ) from None

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
            self._open.__exit__(*exception)


def _mot_line(frame: int, row: dict) -> str:
    """A line of the MOT challenge: frame and track from 1, left, top, width, height, confidence, no place in 3-D."""
    return ",".join(map(str, (frame, row[TRACK_KEY], *row["bbox"], row["score"], -1, -1, -1))) + "\n"


def _write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG (h, w, 3) RGB that is signed as ours, whole or not at all; never over a file that is there."""
    signature = PngInfo()
    signature.add_text("Software", SOFTWARE)
    content = BytesIO()
    Image.fromarray(picture).save(content, "png", compress_level=1, pnginfo=signature)
    with path.open("xb") as file:
        try:
            file.write(content.getvalue())
            file.flush()
        except BaseException:
            path.unlink()
            raise


def _remove_own_frames(folder: Path, source: Source) -> None:
    """Remove the PNG files of an earlier run, so that its frames do not pass for frames of this one.

    `UserError`, before anything is removed, where somebody else's has the name of a frame of the source.
    """
    root = source.path.with_suffix("") if isinstance(source, VideoSource) else source.root
    names = {path.relative_to(root).with_suffix(".png") for path in source.paths()}
    ours = []
    for path in folder.rglob("*.png"):
        try:
            with Image.open(path) as image:
                signed = image.info.get("Software") == SOFTWARE
        except DECODING_ERRORS:
            signed = False  # nobody knows whose it is
        if signed:
            ours.append(path)
        elif path.relative_to(folder) in names:
            raise UserError(f"{path}: not written by this command, and would be lost; give another --output")
    for path in ours:
        path.unlink()


def _header(detections: Path) -> str:
    """The first line of a detections.csv; nothing where there is none."""
    try:
        with detections.open(encoding="utf-8", errors=NAMES) as file:
            return file.readline().rstrip("\n")
    except FileNotFoundError:
        return ""


def _told_tracks(detections: Path) -> bool:
    """Whether a detections.csv is of a run with tracks."""
    return _header(detections) == ",".join((*CSV_HEADER, TRACK_KEY))


def refuse_prediction(folder: Path) -> None:
    """`UserError` where an evaluation's detections.json would take a prediction's place, whose other files stay."""
    if (folder / "detections.json").exists() and _header(folder / "detections.csv").startswith(",".join(CSV_HEADER)):
        raise UserError(f"{folder}: holds what vid_predict.py wrote, which would be lost; give another --output")


def _with_centre(result: dict, name: str) -> dict:
    """A COCO result with its frame's name and its centre; a hundredth of a pixel is enough."""
    x, y, w, h = result["bbox"]
    return {
        "image_id": result["image_id"],
        "file_name": name,
        "category_id": result["category_id"],
        "bbox": [round(value, 2) for value in (x, y, w, h)],
        "centre": [round(x + w / 2, 2), round(y + h / 2, 2)],
        "score": round(result["score"], 5),
    }


def _refuse_own_input(source: Source, annotations: Path | None, files: Sequence[Path], frames: Path | None) -> None:
    """Writing over what is being read would destroy it."""
    read = [annotations] if annotations else []
    if isinstance(source, VideoSource):
        read.append(source.path)
    elif frames is not None:
        folders = {path.parent.resolve() for path in source.paths()}
        if any(frames.resolve() in (folder, *folder.parents) for folder in folders):
            raise UserError(f"{frames}: is the source itself and would be overwritten; choose another --output")
    for path in files:
        for own in read:
            if path.exists() and own.exists() and path.samefile(own):
                raise UserError(f"{path}: is {own} itself, which would be overwritten; choose another --output")
