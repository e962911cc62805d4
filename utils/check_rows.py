"""Checks of annotation rows and of frames against each other: boxes, splits, identical frames."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.annotations import Annotations, Inspection
from utils.cli import UserError
from utils.frame_checks import FolderFacts
from utils.frames import Intensity, few_levels, read_values, sequence_frames, split_runs, to_grey
from utils.letterbox import Letterbox

GIGANTIC = 0.25  # share of the image that no small target covers
SizedBoxes = tuple[tuple[int, int], np.ndarray | list]  # size (h, w) of a frame, boxes (n, 5) in its pixels

SAMPLED = 20  # sequences of which a frame is looked at before a training
COMPARED = 3  # pairs of a pair of folders whose pixels are compared


def box_faults(inspection: Inspection) -> list[str]:
    """Boxes that stand twice in a frame."""
    return [
        f"{row.where}: box {','.join(map(str, box))} stands there {count} times; keep it once"
        for row in inspection.rows
        for box, count in Counter(row.boxes).items()
        if count > 1
    ]


def row_warnings(inspection: Inspection) -> list[str]:
    """Gigantic boxes, a line each, and frames without a box, in one."""
    warnings = []
    for row in inspection.rows:
        area = row.size[0] * row.size[1] if row.size else None
        for box in row.boxes:
            share = max(0, box[2] - box[0]) * max(0, box[3] - box[1]) / area if area else 0.0
            if GIGANTIC < share <= 1:
                warnings.append(
                    f"{row.where}: box {','.join(map(str, box))} covers {share:.0%} of the image, which no "
                    "small target does; check it"
                )
    if empty := [row for row in inspection.rows if not row.boxes]:
        warnings.append(
            f"{empty[0].where}: {empty[0].name} and {len(empty) - 1} more of {len(inspection.rows)} frames have no "
            "box; they count as frames without targets"
        )
    return warnings


def across_splits(inspections: Mapping[str, Inspection]) -> list[str]:
    """Sequences that are in both splits: validation would score neighbours of what was trained on."""
    if len(inspections) < 2:
        return []
    first: dict[str, dict[Path, str]] = {}
    for split, inspection in inspections.items():
        first[split] = {}
        for row, path in zip(inspection.rows, inspection.paths, strict=True):
            first[split].setdefault(path.parent, row.where)
    return [
        f"{where}: sequence {folder} is in the training list too ({first['train'][folder]}); keep a sequence in one "
        "split"
        for folder, where in first["val"].items()
        if folder in first["train"]
    ]


def identical_frames(
    facts: Sequence[FolderFacts], folders: Mapping[str, set[Path]]
) -> tuple[list[str], list[str]]:
    """Frames of two sequences with the same pixels, a line for a pair of folders: errors (across splits), warnings."""
    by_digest: dict[bytes, list[tuple[FolderFacts, str]]] = defaultdict(list)
    for found in facts:
        for name, digest in found.digests.items():
            by_digest[digest].append((found, name))
    pairs: dict[tuple[int, int], list[tuple[str, str]]] = defaultdict(list)
    order = {id(found): place for place, found in enumerate(facts)}
    for members in by_digest.values():
        for (first, name), (second, other) in pairwise(members):
            if first is not second:
                pairs[order[id(first)], order[id(second)]].append((name, other))
    errors, warnings = [], []
    for (one, two), names in pairs.items():
        first, second = facts[one], facts[two]
        same = [pair for pair in names[:COMPARED] if _same_pixels(first.folder / pair[0], second.folder / pair[1])]
        if not same:
            continue
        line = (
            f"{second.label}: {len(names)} frames are identical to frames of {first.folder}, such as {same[0][1]} to "
            f"{same[0][0]} there; "
        )
        if any((first.folder in part) != (second.folder in part) for part in folders.values()):
            errors.append(line + "validation would score what was trained on: keep them in one split")
        else:
            warnings.append(line + "keep one of them")
    return errors, warnings


def _same_pixels(first: Path, second: Path) -> bool:
    """Whether two frames show the same; frames of one grey level show nothing, and broken ones are named elsewhere."""
    try:
        one, two = read_values(first), read_values(second)
    except UserError:
        return False
    return bool(one.min() < one.max()) and np.array_equal(one, two)


def lost_boxes(frames: Iterable[SizedBoxes], input_size: tuple[int, int]) -> tuple[int, int]:
    """How many boxes are too small in the network's input to be targets there, and how many there are.

    Boxes are x1, y1, x2, y2, class.
    """
    by_size: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    for size, boxes in frames:
        by_size[size].append(np.asarray(boxes, np.float64).reshape(-1, 5))
    together = {size: np.concatenate(boxes) for size, boxes in by_size.items()}
    kept = sum(len(Letterbox(size, input_size).boxes_to_input(boxes)) for size, boxes in together.items())
    total = sum(map(len, together.values()))
    return total - kept, total


def lost_boxes_warning(source: Path, frames: Iterable[SizedBoxes], input_size: tuple[int, int]) -> list[str]:
    """That some boxes are no targets in training."""
    lost, total = lost_boxes(frames, input_size)
    if not lost:
        return []
    height, width = input_size
    return [
        f"{source}: {lost} of {total} boxes are 1 pixel or less across at --input-size {height} {width}, so training "
        "takes them for background; give a larger --input-size"
    ]


def sized_boxes(data: Annotations) -> Iterator[SizedBoxes]:
    """The size of each frame and its boxes."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in data.coco["images"]}
    return ((sizes[record.image_id], record.boxes) for record in data.records)


def training_warnings(
    train: Annotations, val: Annotations, input_size: tuple[int, int], intensity: Intensity
) -> list[str]:
    """What a person should know before the first step: sequences in both splits, jumps, lost targets, lost contrast."""
    splits = {"training": train, "validation": val}
    folders = {split: {record.path.parent for record in data.records} for split, data in splits.items()}
    warnings = []
    if not any(len(record.boxes) for record in train.records):
        warnings.append(f"{train.source}: no box in it, so all that can be learned is that nothing is a target")
    for data in splits.values():
        warnings += lost_boxes_warning(data.source, sized_boxes(data), input_size)
    if shared := sorted(folders["training"] & folders["validation"]):
        warnings.append(
            f"{len(shared)} sequences are in both splits, the first is {shared[0]}: validation scores neighbours of "
            "what is trained on; keep a sequence in one split"
        )
    for split, data in splits.items():
        warnings += [*jump_warning(split, data), *contrast_warning(data, intensity)]
    return warnings


def jump_warning(what: str, data: Annotations) -> list[str]:
    """What to say where frame numbers jump within folders of annotated frames, if anything."""
    folders = sorted({record.path.parent for record in data.records})
    jumped = [folder for folder in folders if len(split_runs(sequence_frames(folder))) > 1]
    if not jumped:
        return []
    where = f"{len(jumped)} of {len(folders)} sequences, the first is {jumped[0]}"
    return [f"{what}: frame numbers jump in {where}; clips do not reach across"]


def contrast_warning(data: Annotations, intensity: Intensity) -> list[str]:
    """What to say where `intensity` leaves few grey levels of the first frame of a folder, if anything."""
    first = {record.path.parent: record.path for record in reversed(data.records)}
    notes = (note_of_levels(path, intensity) for path in list(first.values())[:SAMPLED])
    return list(filter(None, notes))[:1]


def note_of_levels(path: Path, intensity: Intensity) -> str | None:
    """`few_levels` of a frame's file."""
    values = read_values(path)
    note = few_levels(values, to_grey(values, intensity, path), intensity)
    return note and f"{path}: {note}"
