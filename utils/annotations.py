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
    write_list,
)
from utils.cli import UserError
from utils.frames import read_image_size, resolve_frames

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


def load_annotations(
    path: str | os.PathLike,
    data_root: str | os.PathLike,
    num_classes: int | None = None,
    check_files: bool = True,
) -> Annotations:
    """Read an annotation list or (`*.json`) a COCO file; frame paths are resolved against `data_root`.

    A path may be relative to `data_root`, absolute, or absolute on another machine: then its longest tail
    that exists under `data_root` counts. With `check_files` every frame must exist, and the headers of frames
    whose size the file does not say are read. Faults raise `UserError`: the place in the file, the remedy.
    """
    path, data_root = Path(path), Path(data_root)
    if check_files and not data_root.is_dir():
        raise UserError(f"{data_root}: no such folder; pass the folder of the data set with --data-root")
    faults: list[str] = []
    parsed = parse_coco(path, faults) if path.suffix.lower() == ".json" else parse_list(path, faults)
    categories = parsed.categories or list_categories(parsed.rows, num_classes)
    if num_classes is not None and len(categories) > num_classes:
        faults.append(
            f"{path}: {len(categories)} categories; expected at most {num_classes}, as the network has"
        )
    faults += _box_faults(parsed.rows, len(categories))
    raise_first(faults)

    paths = resolve_frames([row.name for row in parsed.rows], data_root)
    raise_first(_duplicates(parsed.rows, paths))
    if check_files:
        _check_missing(parsed.rows, paths, data_root)
        unsized = [(row, frame) for row, frame in zip(parsed.rows, paths, strict=True) if row.size is None]
        raise_first(_read_sizes(unsized))
        raise_first(_box_faults((row for row, _ in unsized), len(categories)))
    records = tuple(
        FrameRecord(row.image_id, row.name, frame, _box_array(row))
        for row, frame in zip(parsed.rows, paths, strict=True)
    )
    category_ids, class_names = zip(*categories, strict=True)
    return Annotations(
        path, records, class_names, category_ids, parsed.coco or list_to_coco(parsed.rows, categories)
    )


def _box_array(row: FileRow) -> np.ndarray:
    array = np.array(row.boxes, np.float32).reshape(-1, 5)
    array.setflags(write=False)
    return array


def _box_faults(rows: Iterable[FileRow], num_classes: int) -> list[str]:
    """Inverted and empty boxes, classes out of range, and boxes outside the image where its size is known."""
    faults = []
    for row in rows:
        height, width = row.size or (math.inf, math.inf)
        for x1, y1, x2, y2, rank in row.boxes:
            box = f"{row.where}: box {x1},{y1},{x2},{y2},{rank}"
            if x2 <= x1 or y2 <= y1:
                faults.append(f"{box} is inverted or empty; expected x1 < x2 and y1 < y2 in whole pixels")
            elif not 0 <= rank < num_classes:
                faults.append(f"{box} has class {rank}; expected 0 to {num_classes - 1}")
            elif x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                image = f"image of {width} x {height} pixels (width x height)" if row.size else "image"
                faults.append(f"{box} reaches outside the {image}; correct or clip it")
    return faults


def _duplicates(rows: list[FileRow], paths: list[Path]) -> list[str]:
    first: dict[Path, FileRow] = {}
    return [
        f"{row.where}: {row.name} stands there already ({first[path].where}); keep each frame once"
        for row, path in zip(rows, paths, strict=True)
        if first.setdefault(path, row) is not row
    ]


def _check_missing(rows: list[FileRow], paths: list[Path], data_root: Path) -> None:
    """One `UserError` for all missing frames; each folder is listed once, no frame is opened."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for row, path in zip(rows, paths, strict=True):
        folder = path.parent
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if path.name not in listings[folder]:
            missing.append((row, path))
    if missing:
        row, path = missing[0]
        raise UserError(
            f"{row.where}: {len(missing)} of {len(rows)} frames are missing, the first is {row.name} (looked "
            f"for {path}); pass the folder that holds the data set with --data-root (now {data_root})"
        )


def _read_sizes(frames: list[tuple[FileRow, Path]], chunk: int = 256) -> list[str]:
    """Fill in the sizes of rows from the frames' headers; unreadable ones become faults."""

    def read(part: list[tuple[FileRow, Path]]) -> list[str]:
        faults = []
        for row, path in part:
            try:
                row.size = read_image_size(path)
            except UserError as error:
                faults.append(f"{row.where}: {error}")
        return faults

    parts = [frames[start : start + chunk] for start in range(0, len(frames), chunk)]
    with ThreadPoolExecutor(8) as pool:  # the threads wait for a slow disk together
        return [fault for faults in pool.map(read, parts) for fault in faults]
