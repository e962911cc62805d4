"""Where the frames of an annotation file lie on this machine."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.cli import UserError

Folders = dict[str, list[Path]]  # last part of a folder's path -> such folders below the data root

DEPTH = 6  # folders below the data root to search: enough for DATASETS/DAUB/images/train/data5, too little for a disk


def refuse(_: int, message: str) -> None:
    """Raise the fault of a name."""
    raise UserError(message)


def resolve_frames(
    names: Sequence[str], data_root: Path, report: Callable[[int, str], None] = refuse, search_below: bool = True
) -> list[Path]:
    """Where the frames of an annotation file lie: relative to `data_root`, or absolute.

    The tree of another machine in front of a name is cut off: the longest tail that exists in `data_root` counts, or
    else, with `search_below`, in one folder below it. A name that fits two such folders is reported with its place in
    `names`. The search is made once a folder; a folder that is nowhere gets the usual cut of those found.
    """
    split = [name.replace("\\", "/").rpartition("/") for name in names]
    first_of: dict[str, int] = {}
    for place, (parent, _, _) in enumerate(split):
        first_of.setdefault(parent, place)
    folders: dict[str, Path] = {}
    cuts: Counter[int] = Counter()
    below: Folders | None = None
    for parent, place in first_of.items():
        file_name = split[place][2]
        if _is_absolute(parent) and os.path.isfile(Path(parent, file_name)):
            folders[parent] = Path(parent)
            continue
        cut = _find_cut(data_root, parent, file_name)
        if cut is not None:
            folders[parent] = data_root.joinpath(*_parts(parent)[cut:])
            cuts[cut] += 1
            continue
        if search_below:
            below = _folders_below(data_root) if below is None else below
            found = _find_below(below, parent, file_name)
            if len(found) > 1:
                report(
                    place,
                    f"{names[place]!r} may be {found[0] / file_name} or {found[1] / file_name}; pass the folder that "
                    f"holds the data set with --data-root (now {data_root})",
                )
            if found:
                folders[parent] = found[0]
                continue
        if _is_absolute(parent) and os.path.isdir(parent):  # only this frame is missing
            folders[parent] = Path(parent)
    usual_cut = max(cuts, key=cuts.__getitem__, default=0)
    for parent in first_of:
        folders.setdefault(parent, data_root.joinpath(*_parts(parent)[usual_cut if _is_absolute(parent) else 0 :]))
    return [folders[parent] / file_name for parent, _, file_name in split]


def _is_absolute(parent: str) -> bool:
    return bool(re.match(r"/|[A-Za-z]:", parent))


def _parts(parent: str) -> list[str]:
    return [part for part in parent.split("/") if part not in ("", ".")]


def _find_cut(data_root: Path, parent: str, file_name: str) -> int | None:
    """How many leading folders to cut so that the frame, or else its folder, exists in `data_root`.

    Of a relative name only what ends in the data root's own name is cut: `test/1` is not `1` in a folder `train`.
    """
    parts = _parts(parent)
    own = {data_root.name.casefold(), data_root.resolve().name.casefold()}
    cuts = [0, *(n for n, part in enumerate(parts, start=1) if _is_absolute(parent) or part.casefold() in own)]
    tails = {cut: data_root.joinpath(*parts[cut:]) for cut in cuts}
    found = [cut for cut, folder in tails.items() if os.path.isfile(folder / file_name)]
    found = found or [cut for cut, folder in tails.items() if cut < len(parts) and os.path.isdir(folder)]
    return found[0] if found else None


def _folders_below(data_root: Path) -> Folders:
    """All folders down to `DEPTH` below the data root, hidden ones aside, by the last part of their path."""
    folders: Folders = {}
    for folder, below, _ in os.walk(data_root):
        deep = len(Path(folder).relative_to(data_root).parts) >= DEPTH
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        for name in below:
            folders.setdefault(name, []).append(Path(folder, name))
    return folders


def _find_below(below: Folders, parent: str, file_name: str) -> list[Path]:
    """The folders below the data root that hold the frame, or else would, and share the longest tail with its name.

    Of an absolute name at least two folders must agree: `masks/5` is not `images/5`. A relative name must fit whole.
    """
    parts = _parts(parent)
    fits: dict[Path, int] = {}
    for folder in below.get(parts[-1], []) if parts else []:
        theirs = folder.parts
        tail = next((k for k in range(len(parts)) if k >= len(theirs) or parts[-1 - k] != theirs[-1 - k]), len(parts))
        if tail >= (2 if _is_absolute(parent) else len(parts)):
            fits[folder] = tail
    fits = {folder: tail for folder, tail in fits.items() if os.path.isfile(folder / file_name)} or fits
    longest = max(fits.values(), default=0)
    return [folder for folder, tail in fits.items() if tail == longest]
