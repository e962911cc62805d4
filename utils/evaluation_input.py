"""COCO ground truth and COCO results as checked arrays: what an evaluation starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.cli import UserError


@dataclass(frozen=True)
class GroundTruth:
    """Targets as arrays; `image` and `category` are positions in `image_ids` and `category_ids`."""

    image_ids: np.ndarray  # (I,) int64, ascending
    file_names: tuple[str, ...]  # I names as written
    sizes: np.ndarray  # (I, 2) height, width in pixels; 0 where the file does not say
    category_ids: np.ndarray  # (K,) int64, ascending
    category_names: tuple[str, ...]
    image: np.ndarray  # (G,) int64
    category: np.ndarray  # (G,) int64
    boxes: np.ndarray  # (G, 4) x, y, w, h in image pixels
    areas: np.ndarray  # (G,) square pixels
    crowd: np.ndarray  # (G,) bool: a region to ignore, neither target nor false alarm

    def centres(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Centres x, y (n, 2) of some boxes."""
        return self.boxes[which, :2] + self.boxes[which, 2:] / 2

    def only_annotated(self) -> GroundTruth:
        """The same without the frames that have no annotation."""
        used = np.unique(self.image)
        return replace(
            self,
            image_ids=self.image_ids[used],
            file_names=tuple(self.file_names[i] for i in used),
            sizes=self.sizes[used],
            image=np.searchsorted(used, self.image),
        )


@dataclass(frozen=True)
class Results:
    """Detections as arrays; `image` and `category` are positions in the ground truth's id arrays."""

    image: np.ndarray  # (D,) int64
    category: np.ndarray  # (D,) int64
    boxes: np.ndarray  # (D, 4) x, y, w, h in image pixels
    scores: np.ndarray  # (D,)

    def __len__(self) -> int:
        return len(self.scores)

    def centres(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Centres x, y (n, 2) of some boxes."""
        return self.boxes[which, :2] + self.boxes[which, 2:] / 2

    def select(self, keep: np.ndarray) -> Results:
        """The detections of a mask or an index array."""
        return Results(self.image[keep], self.category[keep], self.boxes[keep], self.scores[keep])


def parse_ground_truth(coco: dict, source: str = "ground truth") -> GroundTruth:
    """Check a COCO ground truth dict and turn it into arrays; the dict is not changed.

    Raises `UserError` naming `source` and the faulty entry. `area` (default w * h) and `iscrowd` (default 0)
    may be missing, as may `info`, `height` and `width`.
    """
    if not isinstance(coco, dict) or any(
        not isinstance(coco.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(f"{source}: no COCO ground truth (needs lists 'images', 'annotations', 'categories')")
    if not coco["categories"]:
        raise UserError(f"{source}: 'categories' is empty; name at least one")
    image_ids, order = _unique_ids(coco["images"], f"{source}: images")
    names = _column(coco["images"], "file_name", f"{source}: images")
    sizes = [(image.get("height") or 0, image.get("width") or 0) for image in coco["images"]]
    category_ids, category_order = _unique_ids(coco["categories"], f"{source}: categories")
    categories = [coco["categories"][i] for i in category_order]
    where = f"{source}: annotations"
    annotations = coco["annotations"]
    boxes = _boxes(annotations, where)
    areas = [a.get("area", w * h) for a, (w, h) in zip(annotations, boxes[:, 2:].tolist(), strict=True)]
    return GroundTruth(
        image_ids=image_ids,
        file_names=tuple(str(names[i]) for i in order),
        sizes=_not_negative(sizes, f"{source}: images", "height and width", width=2)[order],
        category_ids=category_ids,
        category_names=tuple(str(category.get("name", category["id"])) for category in categories),
        image=_positions(_ids(annotations, "image_id", where), "image_id", image_ids, where),
        category=_positions(_ids(annotations, "category_id", where), "category_id", category_ids, where),
        boxes=boxes,
        areas=_not_negative(areas, where, "area"),
        crowd=_crowd(annotations, where),
    )


def _crowd(annotations: list[dict], where: str) -> np.ndarray:
    """Which annotations are regions to ignore."""
    flags = [annotation.get("iscrowd", 0) for annotation in annotations]
    bad = next((n for n, flag in enumerate(flags) if flag not in (0, 1, None)), None)
    if bad is not None:
        raise UserError(f"{where}: entry {bad} (from 0): iscrowd is not 0 or 1: {flags[bad]!r}")
    return np.array(flags, dtype=bool)


@dataclass(frozen=True)
class FileResults:
    """Detections as arrays with the ids of their file, before they are looked up in a ground truth."""

    image_ids: np.ndarray  # (D,) int64
    category_ids: np.ndarray  # (D,) int64
    boxes: np.ndarray  # (D, 4) x, y, w, h in image pixels
    scores: np.ndarray  # (D,)


def tabulate(results: list[dict], source: str = "detections", first: int = 0) -> FileResults:
    """Check a COCO results list and turn it into arrays; the list is not changed.

    Each entry has `image_id`, `category_id`, `bbox` (x, y, w, h in image pixels) and `score`. Raises `UserError`
    naming `source` and the entry, counted from `first`: missing key, NaN, negative side.
    """
    if not isinstance(results, list):
        raise UserError(f"{source}: not a COCO results file (a list of detections expected)")
    return FileResults(
        image_ids=_ids(results, "image_id", source, first),
        category_ids=_ids(results, "category_id", source, first),
        boxes=_boxes(results, source, first),
        scores=_numbers(_column(results, "score", source, first), source, "score", first),
    )


def parse_results(results: list[dict] | FileResults, truth: GroundTruth, source: str = "detections") -> Results:
    """Detections as arrays of positions in the ground truth; `UserError` as `tabulate`, and for unknown ids."""
    table = results if isinstance(results, FileResults) else tabulate(results, source)
    return Results(
        image=_positions(table.image_ids, "image_id", truth.image_ids, source),
        category=_positions(table.category_ids, "category_id", truth.category_ids, source),
        boxes=table.boxes,
        scores=table.scores,
    )


def _column(rows: list, key: str, source: str, first: int = 0) -> list:
    """`row[key]` of every row."""
    try:
        return [row[key] for row in rows]
    except (KeyError, TypeError, IndexError):
        bad = next(n for n, row in enumerate(rows) if not isinstance(row, dict) or key not in row)
        raise UserError(f"{source}: entry {first + bad} (from 0) has no {key!r}") from None


def _numbers(values: list, source: str, what: str, first: int = 0, width: int = 0) -> np.ndarray:
    """A column of finite numbers as float64 (n,), or of rows of `width` numbers (n, width)."""
    shape = (width,) if width else ()
    numbers = _array(values) if values else np.zeros((0, *shape))
    if numbers.dtype.kind not in "iuf" or numbers.shape != (len(values), *shape):
        alone = map(_array, values)
        bad = next((n for n, one in enumerate(alone) if one.dtype.kind not in "iuf" or one.shape != shape), 0)
        raise UserError(f"{source}: entry {first + bad} (from 0): {what} is not a number: {values[bad]!r}")
    finite = np.isfinite(numbers).all(axis=1) if width else np.isfinite(numbers)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise UserError(f"{source}: entry {first + bad} (from 0): {what} is not finite: {values[bad]!r}; remove it")
    return numbers.astype(np.float64)


def _array(value: Any) -> np.ndarray:
    """As NumPy takes it, rows of unequal length as objects."""
    try:
        return np.array(value)
    except ValueError:
        return np.array(None)


def _not_negative(values: list, source: str, what: str, first: int = 0, width: int = 0) -> np.ndarray:
    """As `_numbers`, none of them below 0."""
    numbers = _numbers(values, source, what, first, width)
    negative = (numbers < 0).any(axis=1) if width else numbers < 0
    if negative.any():
        bad = int(np.argmax(negative))
        raise UserError(f"{source}: entry {first + bad} (from 0): {what} is negative: {values[bad]!r}")
    return numbers


def _boxes(rows: list, source: str, first: int = 0) -> np.ndarray:
    """The `bbox` of every row, (n, 4) x, y, w, h."""
    column = _column(rows, "bbox", source, first)
    bad = next((n for n, box in enumerate(column) if not isinstance(box, Sequence) or len(box) != 4), None)
    if bad is not None:
        raise UserError(f"{source}: entry {first + bad} (from 0): bbox is not [x, y, w, h]: {column[bad]!r}")
    boxes = _numbers(column, source, "bbox", first, width=4)
    negative = (boxes[:, 2:] < 0).any(axis=1)
    if negative.any():
        bad = int(np.argmax(negative))
        raise UserError(f"{source}: entry {first + bad} (from 0): bbox has a negative side: {column[bad]!r}")
    return boxes


def _ids(rows: list, key: str, source: str, first: int = 0) -> np.ndarray:
    """A column of whole numbers as int64."""
    column = _column(rows, key, source, first)
    try:
        ids = np.array(column) if column else np.zeros(0, dtype=np.int64)
    except ValueError:  # a list among the numbers
        ids = np.array(column, dtype=object)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        bad = next((n for n, value in enumerate(column) if not isinstance(value, (int, np.integer))), 0)
        raise UserError(f"{source}: entry {first + bad} (from 0): {key} is not a whole number: {column[bad]!r}")
    return ids.astype(np.int64)


def _unique_ids(rows: list, source: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a table in ascending order, and the order that sorts its rows so."""
    ids = _ids(rows, "id", source)
    order = np.argsort(ids, kind="stable")
    repeated = ids[order][1:][np.diff(ids[order]) == 0]
    if len(repeated):
        raise UserError(f"{source}: id {repeated[0]} appears twice; ids must be unique")
    return ids[order], order


def _positions(ids: np.ndarray, key: str, known: np.ndarray, source: str) -> np.ndarray:
    """Where each row's id stands in the ascending `known` ids."""
    at = np.searchsorted(known, ids)
    strange = np.ones(len(ids), dtype=bool)
    inside = at < len(known)
    strange[inside] = known[at[inside]] != ids[inside]
    if strange.any():
        names = np.unique(ids[strange])
        some = ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"{source}: {strange.sum()} entries whose {key} the ground truth lacks ({some}); give the "
            "ground truth that they were made for"
        )
    return at
