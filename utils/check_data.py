"""Find every fault of a data set in one run: `python -m utils.check_data --data-root datasets/DAUB`.

Annotation files and frame headers are read completely, and so are the pixels with --decode; without it those of a few
windows of every sequence are, for order and contrast. Errors are what training would stop at or learn nonsense
from; warnings are what a person should know. Exit status 1 with errors, 0 with warnings alone.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.annotations import Inspection, inspect_annotations
from utils.check_rows import across_splits, box_faults, identical_frames, lost_boxes_warning, row_warnings
from utils.class_file import class_fault, read_class_names
from utils.cli import Unset, UserError, run_command
from utils.data_summary import SplitSummary, save_summary_figure
from utils.evaluation_input import parse_ground_truth
from utils.evaluation_report import make_folder
from utils.frame_checks import FolderFacts, FolderJob, inspect_folder
from utils.frames import Intensity, check_intensity

DEFAULT_LISTS = {"train": "instances_train2017.json", "val": "instances_test2017.json"}


@dataclass
class Config:
    """Check a data set: every fault with its place and remedy, and a summary as text and picture."""

    data_root: Path = Path("datasets/DAUB")
    """Folder of the data set; paths in the annotations are resolved against it."""
    train_list: Unset[Path] = None
    """Annotation list or COCO JSON of the training frames (with neither list given: both of the layout's own,
    annotations/instances_{train,test}2017.json)."""
    val_list: Unset[Path] = None
    """Annotation list or COCO JSON of the validation frames."""
    num_classes: Unset[int] = None
    """Classes of the network (default: as many as the files use)."""
    classes: Unset[Path] = None
    """File of the network's class names, one a line, which the annotations must have."""
    files: bool = True
    """Look at the frames; without, the annotation files alone are checked."""
    decode: bool = False
    """Decode every frame, not a few windows of each sequence."""
    intensity: Intensity = "full"
    """How 16-bit and float frames become grey, as in training: full, or LOW HIGH."""
    input_size: tuple[int, int] = (512, 512)
    """Height and width of the network's input in pixels, as in training: which boxes are too small in it."""
    output: Path = Path("runs/check_data")
    """Folder for report.txt, which has every line, and summary.png."""
    lines: int = 200
    """Most errors, and most warnings, to print."""
    workers: int = max(1, os.cpu_count() or 1)
    """Processes."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: must be 1 or more")
        if self.lines < 1:
            raise UserError(f"--lines {self.lines}: must be 1 or more")
        if self.num_classes is not None and self.classes is not None:
            raise UserError("--num-classes and --classes: give one of them")
        check_intensity(self.intensity)

    def sources(self) -> dict[str, Path]:
        """The annotation file of each split that is to be checked."""
        given = {"train": self.train_list, "val": self.val_list}
        if not any(given.values()):
            return {split: self.data_root / "annotations" / name for split, name in DEFAULT_LISTS.items()}
        return {split: path for split, path in given.items() if path}


@dataclass
class Report:
    """Everything that a check found."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    splits: list[SplitSummary] = field(default_factory=list)

    def text(self, most: int | None = None) -> str:
        """Errors, warnings and summary, a line each; at most so many of the first two."""
        lines = []
        for kind, found in (("error", self.errors), ("warning", self.warnings)):
            lines += [f"{kind}: {line}" for line in found[:most]]
            if most is not None and len(found) > most:
                lines.append(f"{kind}: {len(found) - most} more are in report.txt")
        for split in self.splits:
            lines += ["", *split.lines()]
        return "\n".join([*lines, "", f"{len(self.errors)} errors, {len(self.warnings)} warnings"])


def check(config: Config) -> Report:
    """Run all checks."""
    report = Report()
    inspections: dict[str, Inspection] = {}
    class_names = read_class_names(config.classes) if config.classes else ()
    for split, path in config.sources().items():
        try:
            count = len(class_names) or config.num_classes
            inspections[split] = inspect_annotations(path, config.data_root, count, config.files)
        except UserError as error:
            report.errors.append(str(error))
    for split, inspection in inspections.items():
        report.errors += inspection.faults + box_faults(inspection) + _missing(inspection)
        report.warnings += inspection.notes + row_warnings(inspection)
        report.errors += _other_classes(inspection, class_names, config.classes)
        report.errors += _not_scored(inspection) if split == "val" else []
        sized = ((row.size, row.boxes) for row in inspection.rows if row.size)
        report.warnings += lost_boxes_warning(inspection.source, sized, config.input_size)
    report.errors += across_splits(inspections)
    jobs = {split: _jobs(found, config) if config.files else [] for split, found in inspections.items()}
    seen: dict[Path, FolderFacts] = {}
    for facts in _inspect([job for part in jobs.values() for job in part], config.workers):
        seen[facts.folder] = facts
        report.errors += facts.errors
        report.warnings += facts.warnings
    folders = {split: {job.folder for job in part} for split, part in jobs.items()}
    errors, warnings = identical_frames(list(seen.values()), folders)
    report.errors += errors
    report.warnings += warnings
    for split, inspection in inspections.items():
        report.splits.append(_summary(f"{split} ({inspection.source})", inspection, [seen[f] for f in folders[split]]))
    return report


def _other_classes(inspection: Inspection, class_names: Sequence[str], class_file: Path | None) -> list[str]:
    """That the categories are not the network's classes, where these are known and not too few, which is a fault."""
    names = [name for _, name in inspection.categories]
    fault = class_fault(inspection.source, names, class_names, class_file) if len(names) <= len(class_names) else None
    return [fault] if fault else []


def _not_scored(inspection: Inspection) -> list[str]:
    """What an evaluation would refuse of ground truth that is otherwise sound, such as a crowd region's box."""
    if inspection.faults or not inspection.coco:
        return []
    try:
        parse_ground_truth(inspection.coco, str(inspection.source))
    except UserError as error:
        return [str(error)]
    return []


def _missing(inspection: Inspection) -> list[str]:
    """A line for each missing frame; one for a folder of which nothing is there."""
    by_folder = defaultdict(list)
    for row, path in inspection.missing:
        by_folder[path.parent].append((row, path))
    faults = []
    for folder, found in by_folder.items():
        if not folder.is_dir():
            faults.append(
                f"{found[0][0].where}: no folder {folder}, so {len(found)} frames are missing, the first is "
                f"{found[0][0].name}; add the sequence, or pass another --data-root"
            )
        else:
            faults += [f"{row.where}: no frame {path}; add it, or take the line out" for row, path in found]
    return faults


def _jobs(inspection: Inspection, config: Config) -> list[FolderJob]:
    """The folders of an annotation file's frames."""
    rows = defaultdict(dict)
    for row, path in zip(inspection.rows, inspection.paths, strict=True):
        rows[path.parent].setdefault(path.name, row)
    return [
        FolderJob(
            folder,
            {name: row.where for name, row in frames.items()},
            {name: np.array([box[:4] for box in row.boxes]) for name, row in frames.items() if row.boxes},
            config.decode,
            config.intensity,
        )
        for folder, frames in rows.items()
        if folder.is_dir()
    ]


def _inspect(jobs: Sequence[FolderJob], workers: int) -> Iterator[FolderFacts]:
    """Facts of all folders, in their order."""
    bar = {"total": len(jobs), "desc": "sequences", "unit": "sequence", "disable": None, "leave": False}
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from tqdm(map(inspect_folder, jobs), **bar)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from tqdm(pool.map(inspect_folder, jobs), **bar)


def _summary(name: str, inspection: Inspection, facts: Sequence[FolderFacts]) -> SplitSummary:
    boxes = [box for row in inspection.rows for box in row.boxes]
    written = Counter(row.size for row in inspection.rows if row.size)
    return SplitSummary(
        name=name,
        frames=len(inspection.rows),
        sequences=Counter(str(path.parent) for path in inspection.paths),
        targets=Counter(len(row.boxes) for row in inspection.rows),
        sides=[((x2 - x1) * (y2 - y1)) ** 0.5 for x1, y1, x2, y2, _ in boxes if x2 > x1 and y2 > y1],
        sizes=sum((found.sizes for found in facts), Counter()) or written,
        scr=[value for found in facts for value in found.scr],
        orders=[order for found in facts for order in found.orders],
        deep=[values for found in facts for values in found.deep],
    )


def main(config: Config, flag: str = "--output") -> int:
    """Print the report, write it and the picture; returns the exit status. `flag` is what names the folder."""
    make_folder(config.output, flag)
    report = check(config)
    place = config.output.resolve()
    if any(Path(folder).resolve() == place for split in report.splits for folder in split.sequences):
        raise UserError(f"{config.output}: holds frames, among which the picture would count; give another {flag}")
    try:
        (config.output / "report.txt").write_text(report.text() + "\n", encoding="utf-8", errors="backslashreplace")
        save_summary_figure(report.splits, config.output / "summary.png")
    except OSError as error:
        raise UserError(f"{config.output}: cannot be written ({error.strerror}); give another {flag}") from None
    print(report.text(config.lines))
    print(f"report: {config.output / 'report.txt'}, picture: {config.output / 'summary.png'}")
    return 1 if report.errors else 0


if __name__ == "__main__":
    run_command(main, Config)
