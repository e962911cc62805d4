"""Annotations: an annotation list or a COCO JSON -> one record a frame, checked before training begins."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.annotation_files import (
    FileRow,
    list_categories,
    list_to_coco,
    parse_coco,
    parse_list,
    raise_first,
    with_sizes,
    write_list,
)
from utils.cli import UserError
from utils.frame_paths import resolve_frames
from utils.frames import is_image_name, read_image_size

__all__ = ["Annotations", "FrameRecord", "load_annotations", "write_list"]


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One annotated frame.

    `name` is the path as the file has it, `path` where it lies; `boxes` (n, 5) float32 x1, y1, x2, y2, class
    are whole pixels of the image, read-only.
    """

    image_id: int
    name: str
    path: Path
    boxes: np.ndarray


@dataclass(frozen=True, eq=False)
class Annotations:
    """The frames of one annotation file; `coco` is its COCO ground truth, made of the rows for a list."""

    source: Path
    records: tuple[FrameRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # category id of class 0, 1, ...
    coco: dict[str, Any]
    notes: tuple[str, ...] = ()  # what is read in another way than it is written


def load_annotations(
    path: str | os.PathLike,
    data_root: str | os.PathLike,
    num_classes: int | None = None,
    check_files: bool = True,
    check_beside: bool = False,
    files_if_there: bool = False,
) -> Annotations:
    """Read an annotation list or (`*.json`) a COCO file; frame paths are resolved against `data_root`.

    A path may be relative to `data_root`, absolute, or absolute on another machine: then its longest tail
    that exists under `data_root` counts. With `check_files` every frame must exist and have the size
    that the file says, as its header shows, and with `check_beside` the frames of
    its folder too, which clips may reach. Without it, `files_if_there` finds and checks frames that exist as
    `check_files` does; the others may be missing. Faults raise `UserError`: the place in the file, the remedy.
    """
    inspection = inspect_annotations(path, data_root, num_classes, check_files, check_beside, files_if_there)
    raise_first(inspection.faults)
    if inspection.missing:
        row, frame = inspection.missing[0]
        raise UserError(
            f"{row.where}: {len(inspection.missing)} of {len(inspection.rows)} frames are missing, the first is "
            f"{row.name} (looked for {frame}); pass the folder that holds the data set with --data-root "
            f"(now {data_root})"
        )
    rows, categories = inspection.rows, inspection.categories
    records = tuple(
        FrameRecord(row.image_id, row.name, frame, _box_array(row))
        for row, frame in zip(rows, inspection.paths, strict=True)
    )
    category_ids, class_names = zip(*categories, strict=True)
    coco = with_sizes(inspection.coco, rows) if inspection.coco else list_to_coco(rows, categories)
    return Annotations(inspection.source, records, class_names, category_ids, coco, tuple(inspection.notes))


def is_list(path: Path) -> bool:
    """Whether an annotation file is a list, which cannot say how many classes there are; a JSON does."""
    return path.suffix.lower() != ".json"


def match_categories(annotations: Annotations, class_names: tuple[str, ...]) -> tuple[tuple[int, ...], str | None]:
    """The category id of each of a network's classes, and what to warn of, if anything.

    By name, where a JSON has a category of each class's name, else in the order of both. `UserError` where there are
    fewer categories than classes.
    """
    path, theirs = annotations.source, annotations.class_names
    if len(class_names) > len(theirs):
        raise UserError(
            f"{path}: {len(theirs)} classes, but the network has {len(class_names)} ({', '.join(class_names)}); "
            "give annotations naming them all"
        )
    if is_list(path) or not set(class_names) <= set(theirs):
        several = len(theirs) > 1 and not is_list(path)
        names = f"categories {', '.join(theirs)}, but the network's are {', '.join(class_names)}"
        return annotations.category_ids, f"{path}: {names}: matched by order" if several else None
    ids = dict(zip(theirs, annotations.category_ids, strict=True))
    return tuple(ids[name] for name in class_names), None


@dataclass
class Inspection:
    """All that reading one annotation file finds: its rows, where their frames lie, and every fault."""

    source: Path
    rows: list[FileRow]
    paths: list[Path]  # of each row
    categories: list[tuple[int, str]]
    coco: dict[str, Any] | None  # of a JSON without faults
    faults: list[str]
    missing: list[tuple[FileRow, Path]]  # rows whose frame is not there
    notes: list[str]  # what is read all the same


def inspect_annotations(
    path: str | os.PathLike,
    data_root: str | os.PathLike,
    num_classes: int | None = None,
    check_files: bool = True,
    check_beside: bool = True,
    files_if_there: bool = False,
) -> Inspection:
    """Read an annotation file and gather its faults; `UserError` only where nothing can be read at all."""
    path, data_root = Path(path), Path(data_root)
    if check_files and not data_root.is_dir():
        raise UserError(f"{data_root}: no such folder; pass the folder of the data set with --data-root")
    faults: list[str] = []
    parsed = parse_list(path, faults) if is_list(path) else parse_coco(path, faults)
    rows = [row for row in parsed.rows if is_image_name(row.name)]  # the others are faults already
    categories = parsed.categories or list_categories(rows, num_classes)
    if num_classes is not None and len(categories) > num_classes:
        faults.append(
            f"{path}: {len(categories)} categories; expected at most {num_classes}, as the network has; training takes "
            "the names of more with --classes FILE"
        )
    faults += _box_faults(rows, len(categories))

    def ambiguous(place: int, message: str) -> None:
        faults.append(f"{rows[place].where}: {message}")

    look = check_files or (files_if_there and data_root.is_dir())
    paths = resolve_frames([row.name for row in rows], data_root, ambiguous, search_below=look)
    faults += _duplicates(rows, paths)
    missing = _missing(rows, paths) if look else []
    if look:
        absent = {id(row) for row, _ in missing}
        present = [(row, frame) for row, frame in zip(rows, paths, strict=True) if id(row) not in absent]
        unsized = [row for row, _ in present if row.size is None]
        in_clips = present + (_beside(present) if check_beside else [])
        faults += _check_sizes(in_clips)
        faults += _box_faults(unsized, len(categories), only_outside=True)
        faults += _mixed_sizes(in_clips)
    return Inspection(path, rows, paths, categories, parsed.coco, faults, missing if check_files else [], parsed.notes)


def _box_array(row: FileRow) -> np.ndarray:
    array = np.array(row.boxes, np.float32).reshape(-1, 5)
    array.setflags(write=False)
    return array


def _box_faults(rows: Iterable[FileRow], num_classes: int, only_outside: bool = False) -> list[str]:
    """Inverted and empty boxes, classes out of range, and boxes outside the image; `only_outside` of it.

    Only the last needs the image's size; where it is not known, a box counts as outside left of and above 0.
    """
    faults = []
    for row in rows:
        height, width = row.size or (math.inf, math.inf)
        for x1, y1, x2, y2, rank in row.boxes:
            box = f"{row.where}: box {x1},{y1},{x2},{y2},{rank}"
            image = f"image of {width} x {height} pixels (width x height)" if row.size else "image"
            if x2 <= x1 or y2 <= y1:
                fault = "is inverted or empty; expected x1 < x2 and y1 < y2 in whole pixels"
            elif not 0 <= rank < num_classes:
                fault = f"has class {rank}; expected 0 to {num_classes - 1}; training takes more with --classes FILE"
            elif x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                if not only_outside or (x1 >= 0 and y1 >= 0):
                    faults.append(f"{box} reaches outside the {image}; correct or clip it")
                continue
            else:
                continue
            if not only_outside:
                faults.append(f"{box} {fault}")
    return faults


def _duplicates(rows: list[FileRow], paths: list[Path]) -> list[str]:
    first: dict[Path, FileRow] = {}
    return [
        f"{row.where}: {row.name} stands there already ({first[path].where}); keep each frame once"
        for row, path in zip(rows, paths, strict=True)
        if first.setdefault(path, row) is not row
    ]


def _missing(rows: list[FileRow], paths: list[Path]) -> list[tuple[FileRow, Path]]:
    """The rows whose frame is not there; each folder is listed once, no frame is opened."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for row, path in zip(rows, paths, strict=True):
        folder = path.parent
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            except OSError as error:
                raise UserError(
                    f"{row.where}: {folder} cannot be read ({error.strerror}); allow reading it"
                ) from None
        if path.name not in listings[folder]:
            missing.append((row, path))
    return missing


def _beside(frames: list[tuple[FileRow, Path]]) -> list[tuple[FileRow, Path]]:
    """The frames beside annotated ones that no row names: clips reach back to them, so they are checked too."""
    named = {path for _, path in frames}
    first: dict[Path, FileRow] = {}
    for row, path in frames:
        first.setdefault(path.parent, row)
    return [
        (FileRow(f"{row.where}: sequence {folder}", row.image_id, path.name, []), path)
        for folder, row in first.items()
        for path in sorted(folder.iterdir())
        if path not in named and is_image_name(path.name) and path.is_file()
    ]


def _mixed_sizes(frames: list[tuple[FileRow, Path]]) -> list[str]:
    """Sequences whose frames differ in size, a line each: clips need frames of one size."""
    first: dict[Path, FileRow] = {}
    mixed: dict[Path, str] = {}
    for row, path in frames:
        other = first.setdefault(path.parent, row) if row.size else row
        if row.size != other.size and row.size and path.parent not in mixed:
            (height, width), (their_height, their_width) = row.size, other.size
            mixed[path.parent] = (
                f"{row.where}: {path} has {width} x {height} pixels (width x height), but {other.name} of the same "
                f"sequence {their_width} x {their_height}; bring the frames of a sequence to one size"
            )
    return list(mixed.values())


def _check_sizes(frames: list[tuple[FileRow, Path]], chunk: int = 256) -> list[str]:
    """Compare the sizes that rows say with the frames' headers and fill in those that they do not say."""

    def read(part: list[tuple[FileRow, Path]]) -> list[str]:
        faults = []
        for row, path in part:
            try:
                size = read_image_size(path)
            except UserError as error:
                faults.append(f"{row.where}: {error}")
                continue
            if row.size is not None and row.size != size:
                faults.append(
                    f"{row.where}: says {row.size[1]} x {row.size[0]} pixels (width x height), but {path} has "
                    f"{size[1]} x {size[0]}; correct the file, or put the frame there that was annotated"
                )
            row.size = size
        return faults

    parts = [frames[start : start + chunk] for start in range(0, len(frames), chunk)]
    with ThreadPoolExecutor(8) as pool:  # the threads wait for a slow disk together
        return [fault for faults in pool.map(read, parts) for fault in faults]
