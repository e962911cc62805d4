"""Synthetic data sets on disk, in DAUB's layout: frames, COCO JSON, annotation lists and their settings."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.annotation_files import write_coco, write_list
from utils.annotations import FrameRecord
from utils.cli import UserError
from utils.converted import refuse_source, write_frame
from utils.frames import Intensity, read_frame, sequence_frames
from utils.json_files import write_json
from utils.synthetic import make_sequence, make_sequence_in
from utils.synthetic_footage import Run, find_runs, read_footage
from utils.synthetic_presets import SceneModel

SPLITS = ("train", "test")
LISTS = {"train": "coco_train_DAUB.txt", "test": "coco_val_DAUB.txt"}
SETTINGS = "synthetic.json"


@dataclass(frozen=True)
class SequenceJob:
    """One sequence to make: everything a worker needs."""

    folder: Path
    seed: int
    split: int
    index: int
    model: SceneModel
    frames: int
    frame_size: tuple[int, int]
    pictures: tuple[Path, ...]  # real backgrounds to choose from; none: a scene is drawn
    window: tuple[FrameRecord, ...]  # consecutive annotated frames to paint into, in place of a scene; or none
    intensity: Intensity  # of pictures and footage


@dataclass(frozen=True)
class SequenceRecord:
    """What one written sequence holds: (frame, track, box x1 y1 x2 y2, scr) rows in frame order."""

    name: str
    scene: str
    frame_size: tuple[int, int]
    rows: tuple[tuple[int, int, tuple[int, int, int, int], float], ...]
    asked_scr: tuple[float | None, ...]  # of each track; None where it was annotated in footage
    untold: int  # first tracks that are boxes of footage with several a frame: which belong together is not known


def write_sequence(job: SequenceJob) -> SequenceRecord:
    """Make one sequence and write its frames; the same job gives the same bytes in any process."""
    rng = np.random.default_rng(np.random.SeedSequence([job.seed, job.split, job.index]))
    if job.window:
        footage = read_footage(job.window, job.intensity)
        sequence = make_sequence_in(rng, job.model, footage)
        untold = footage.slots if footage.slots > 1 else 0
    else:
        untold = 0
        picture = read_frame(job.pictures[rng.integers(len(job.pictures))], job.intensity) if job.pictures else None
        sequence = make_sequence(rng, job.model, job.frames, job.frame_size, picture)
    for number, frame in enumerate(sequence.frames):
        write_frame(frame, job.folder / f"{number}.bmp")
    rows = [
        (int(frame), track, tuple(int(side) for side in box), round(float(scr), 2))
        for track, item in enumerate(sequence.tracks)
        for frame, box, scr in zip(item.frames, item.boxes, item.scr, strict=True)
    ]
    asked = tuple(None if item.asked_scr is None else round(item.asked_scr, 3) for item in sequence.tracks)
    size = sequence.frames.shape[1:]
    return SequenceRecord(job.folder.name, sequence.scene, size, tuple(sorted(rows)), asked, untold)


def write_dataset(
    output: Path,
    model: SceneModel,
    seed: int,
    sequences: tuple[int, int],
    frames: int,
    frame_size: tuple[int, int],
    backgrounds: Path | None = None,
    footage: Path | None = None,
    workers: int = 1,
    overwrite: bool = False,
    intensity: Intensity = "full",
) -> dict[str, list[SequenceRecord]]:
    """Write train and test sequences under `output`; returns their records by split.

    Sequences are numbered through both splits (train data1.., then test), each with backgrounds and targets of its own.
    `backgrounds` is a folder of real pictures: every fifth, at least one, serves the test split alone. `footage` is an
    annotation list or COCO JSON of real frames, which lie beside it or in the folder above; frames keep their size.
    Every fifth of its sequences serves the test split alone, unless no test sequence is wanted.
    """
    _check(output, model, seed, sequences, frames, frame_size, workers)
    if backgrounds and footage:
        raise UserError("--backgrounds and --footage: give one of them")
    pictures = _split_pictures(backgrounds)
    runs = _split_footage(footage, frames, sequences[1] > 0)
    sources = {run[0].path.parent for split in SPLITS for run in runs[split]}
    refuse_source(output, folders=[backgrounds] if backgrounds else sources)
    _prepare(output, overwrite)
    # First: a set that was broken off is then known as this command's own, which --overwrite may replace.
    settings = {"seed": seed, "sequences": sequences, "frames": frames, "image_size": None if footage else frame_size}
    settings["backgrounds"] = None if backgrounds is None else str(backgrounds)
    settings["footage"] = None if footage is None else str(footage)
    settings["intensity"] = intensity
    write_json(output / SETTINGS, {**settings, "scene_model": asdict(model)}, indent=1)
    jobs = {split: [] for split in SPLITS}
    for number, split in enumerate(SPLITS):
        for index in range(sequences[number]):
            name = f"data{1 + index + number * sequences[0]}"
            folder = output / "images" / split / name
            window = _choose_window(runs[split], frames, [seed, number, index]) if footage else ()
            source = (pictures[split], window, intensity)
            jobs[split].append(SequenceJob(folder, seed, number, index, model, frames, frame_size, *source))
    made = _run([job for split in SPLITS for job in jobs[split]], workers)
    records = {split: [next(made) for _ in jobs[split]] for split in SPLITS}
    for split in SPLITS:
        _write_annotations(output, split, records[split], frames)
    return records


def _check(output, model, seed, sequences, frames, frame_size, workers) -> None:
    """Refuse settings that cannot be made, before anything is written."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; give a folder as --output")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    if min(sequences) < 0 or sum(sequences) < 1:
        raise UserError(f"--sequences {sequences[0]} {sequences[1]}: give two counts, at least one of them above 0")
    if frames < 8:
        raise UserError(f"--frames {frames}: a sequence needs at least 8 frames for targets to move through")
    if min(frame_size) < 64 or max(frame_size) > 2048:
        raise UserError(f"--image-size {frame_size[0]} {frame_size[1]}: sides must be 64 to 2048 pixels")
    if workers < 1:
        raise UserError(f"--workers {workers}: must be 1 or more")
    if not 0 <= model.shaded <= 1:
        raise UserError(f"--shaded {model.shaded:g}: a share of the distractors, 0 to 1")
    limits = {"scr": (0.5, 50), "target_size": (0.8, 15), "speed": (0.02, 8), "targets": (0, 20)}
    limits |= {"distractors": (0, 50), "stuck": (0, 50)}
    for name, (low, high) in limits.items():
        first, last = getattr(model, name)
        if not low <= first <= last <= high:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} {first} {last}: give LOW and HIGH with {low} <= LOW <= HIGH <= {high}")


def _split_pictures(folder: Path | None) -> dict[str, tuple[Path, ...]]:
    """Pictures of a folder by split, none of them in both."""
    if folder is None:
        return {split: () for split in SPLITS}
    if not folder.is_dir():
        raise UserError(f"--backgrounds {folder}: no such folder; give a folder of pictures")
    pictures = sequence_frames(folder)
    if len(pictures) < 2:
        raise UserError(f"--backgrounds {folder}: {len(pictures)} pictures; train and test need at least one each")
    test = set(pictures[4::5] or pictures[-1:])
    return {"train": tuple(p for p in pictures if p not in test), "test": tuple(p for p in pictures if p in test)}


def _split_footage(annotation_file: Path | None, frames: int, for_test: bool) -> dict[str, list[Run]]:
    """Runs of real frames by split, no folder in both."""
    if annotation_file is None:
        return {split: [] for split in SPLITS}
    runs = find_runs(annotation_file, frames)
    folders = sorted({run[0].path.parent for run in runs})
    if for_test and len(folders) < 2:
        raise UserError(
            f"--footage {annotation_file}: one sequence has {frames} frames; train and test need one each"
        )
    if len({int(number) for run in runs for record in run for number in record.boxes[:, 4]}) > 1:
        raise UserError(f"--footage {annotation_file}: targets of several classes, but a painted set has one class")
    test = set(folders[4::5] or folders[-1:]) if for_test else set()
    return {
        "train": [run for run in runs if run[0].path.parent not in test],
        "test": [run for run in runs if run[0].path.parent in test],
    }


def _choose_window(runs: list[Run], frames: int, seed: list[int]) -> Run:
    """`frames` consecutive frames out of all runs; every place is as likely as any other."""
    places = np.array([len(run) - frames + 1 for run in runs])
    place = int(np.random.default_rng(np.random.SeedSequence([*seed, 1])).integers(places.sum()))
    number = int(np.searchsorted(places.cumsum(), place, side="right"))
    start = place - int(places[:number].sum())
    return runs[number][start : start + frames]


def _prepare(output: Path, overwrite: bool) -> None:
    """An output folder without sequences of an earlier run; only a folder that this command wrote is emptied."""
    try:
        if output.exists() and any(output.iterdir()):
            if not overwrite:
                raise UserError(f"{output}: folder is not empty; give another --output, or --overwrite to replace it")
            if not (output / SETTINGS).is_file():
                raise UserError(
                    f"{output}: no {SETTINGS} in it, so this command did not write it; give another --output"
                )
            for name in LISTS.values():  # first: a list without frames is seen, one beside other frames is not
                (output / name).unlink(missing_ok=True)
            for part in ("annotations", "images"):
                shutil.rmtree(output / part, ignore_errors=True)
        (output / "annotations").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made or written ({error.strerror}); give another --output") from None


def _run(jobs: list[SequenceJob], workers: int) -> Iterator[SequenceRecord]:
    """Records of all jobs, in their order."""
    bar = {"total": len(jobs), "desc": "sequences", "disable": None, "leave": False}
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from tqdm(map(write_sequence, jobs), **bar)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from tqdm(pool.map(write_sequence, jobs), **bar)


def _write_annotations(output: Path, split: str, records: list[SequenceRecord], frames: int) -> None:
    """COCO JSON and annotation list of one split; the list has a line for every frame, boxes or not."""
    images, annotations, tracks, rows = [], [], [], []
    for record in records:
        height, width = record.frame_size
        boxes = {number: [] for number in range(frames)}
        for number, track, box, scr in record.rows:
            boxes[number].append((len(tracks) + 1 + track, box, scr))
        for number in range(frames):
            name = f"images/{split}/{record.name}/{number}.bmp"
            images.append({"height": height, "width": width, "id": len(images) + 1, "file_name": name})
            for track, (x1, y1, x2, y2), scr in boxes[number]:
                shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                link = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1}
                told = {} if track <= len(tracks) + record.untold else {"track_id": track}
                annotations.append({**link, **shape, "iscrowd": 0, **told, "scr": scr})
            rows.append((name, [(*box, 0) for _, box, _ in boxes[number]]))
        for asked in record.asked_scr:
            origin = {"sequence": record.name, "scene": record.scene}
            tracks.append({"id": len(tracks) + 1, **origin, "asked_scr": asked})
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "none", "id": 1, "name": "target"}],
        "tracks": tracks,
    }
    write_coco(output / "annotations" / f"instances_{split}2017.json", coco)
    write_list(output / LISTS[split], rows)
