"""How the camera of annotated sequences moves: `python -m utils.camera_statistics --annotations FILE`.

A Markdown table with a row for each sequence and one for all: steps of the background over one frame and over the four
of a clip, how steady they are, and whether they follow the target. With `--detections`, the `detections.json` of an
evaluation on these frames, another one: what was found, by how far the camera moved over the clip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.cli import Unset, UserError, run_command
from utils.evaluation_input import FileResults
from utils.frames import Intensity, check_intensity
from utils.pd_fa import CENTRE_DISTANCE
from utils.results_file import read_results
from utils.synthetic_footage import Footage, Run, find_runs, read_footage, track_camera

CLIP = 4  # steps from the first frame of a clip to its key frame
FEWEST = 2 * CLIP  # frames of a run that is measured
SLEW = 0.6  # pixels a frame: the camera is being steered
STEADY = 0.3  # pixels a frame from which a step has a direction
WAYS = (0.0, 0.5, 1.5, 3.0)  # pixels of the camera over a clip, where the rows of what was found begin
FOUND_COLUMNS = ("camera over the clip, pixels", "targets", "median confidence", "Pd, %")
COLUMNS = ("one frame: quartiles, 90 %", "four frames: quartiles, 90 %", "frames over 0.6", "next step", "target")


@dataclass
class Config:
    """Measure how the camera moves."""

    annotations: Path
    """Annotation list or COCO JSON; relative paths count from its folder, or the one above `annotations`."""
    frames: int = 100
    """Most frames of each run to measure, from its start."""
    detections: Unset[Path] = None
    """COCO results on these frames, of get_map_coco.py's form."""
    confidence: float = 0.5
    """Detections from this one on are what Pd counts."""
    intensity: Intensity = "full"
    """How 16-bit and float frames become grey: full, or LOW HIGH, values that become 0 and 255."""

    def __post_init__(self) -> None:
        check_intensity(self.intensity)
        if self.frames < FEWEST:
            raise UserError(f"--frames {self.frames}: must be {FEWEST} or more")
        if not 0 <= self.confidence <= 1:
            raise UserError(f"--confidence {self.confidence}: must be from 0 to 1")


@dataclass(frozen=True)
class Found:
    """Of targets whose clip is whole: the camera's way over it (n,), and the best confidence on them (n,), 0: none."""

    camera: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Motion:
    """Of one run or several: lengths in pixels, cosines between neighbouring steps and between camera and target."""

    steps: np.ndarray
    over_clip: np.ndarray
    next_step: np.ndarray
    target: np.ndarray


def measure_camera(footage: Footage) -> Motion:
    """Motion of the frame's middle over the scene; the target's counts where a frame has one target alone."""
    camera = track_camera(footage.frames)
    middle = np.array(footage.frames.shape[:0:-1]) / 2
    places = np.array([camera.to_scene(k, middle) for k in range(len(footage.frames))])  # (N, 2)
    targets = np.full_like(places, np.nan)
    for k, boxes in enumerate(footage.boxes):
        if len(boxes) == 1:
            targets[k] = camera.to_scene(k, (boxes[0, :2] + boxes[0, 2:]) / 2)
    steps, over_clip = np.diff(places, axis=0), places[CLIP:] - places[:-CLIP]
    return Motion(
        np.hypot(*steps.T),
        np.hypot(*over_clip.T),
        _cosines(steps[:-1], steps[1:], STEADY),
        _cosines(over_clip, targets[CLIP:] - targets[:-CLIP], CLIP * STEADY),
    )


def _cosines(first: np.ndarray, second: np.ndarray, shortest: float) -> np.ndarray:
    """Cosines (n,) of the pairs of ways (N, 2) that are known and not shorter than that; a target always moves."""
    lengths = np.stack([np.hypot(*first.T), np.hypot(*second.T)])
    known = (lengths[0] > shortest) & np.isfinite(lengths[1]) & (lengths[1] > min(shortest, STEADY))
    return (first[known] * second[known]).sum(1) / lengths[:, known].prod(0)


def join(motions: Sequence[Motion]) -> Motion:
    """Motion of several runs as one."""
    names = Motion.__dataclass_fields__
    return Motion(**{name: np.concatenate([getattr(motion, name) for motion in motions]) for name in names})


def find_targets(run: Run, motion: Motion, results: FileResults) -> Found:
    """The best detection, of any class, within 3 pixels of each target of a run's key frames, from the fifth frame on.

    Unlike the evaluation's, a detection may count for two targets; those of small-target sets keep further apart.
    """
    ways, best = [], []
    for record, way in zip(run[CLIP:], motion.over_clip, strict=True):
        own = results.image_ids == record.image_id
        centres, scores = results.boxes[own, :2] + results.boxes[own, 2:] / 2, results.scores[own]
        for box in record.boxes:
            near = np.hypot(*(centres - (box[:2] + box[2:4]) / 2).T) <= CENTRE_DISTANCE
            ways.append(way)
            best.append(scores[near].max(initial=0.0))
    return Found(np.array(ways), np.array(best))


def found_table(found: Sequence[Found], confidence: float) -> str:
    """Markdown: a row for each range of the camera's way over the clip."""
    way, best = (np.concatenate([getattr(part, name) for part in found]) for name in ("camera", "confidence"))
    lines = ["| " + " | ".join(FOUND_COLUMNS) + " |", "|---" * len(FOUND_COLUMNS) + "|"]
    for low, high in zip(WAYS, (*WAYS[1:], np.inf), strict=True):
        scores = best[(way >= low) & (way < high)]
        name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"
        values = f"{np.median(scores):.2f} | {100 * (scores >= confidence).mean():.1f}" if len(scores) else " | "
        lines.append(f"| {name} | {len(scores)} | {values} |")
    return "\n".join(lines)


def table(rows: Sequence[tuple[str, Motion]]) -> str:
    """Markdown: a row a sequence."""
    lines = ["| sequence | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, motion in rows:
        lengths = [
            ", ".join(f"{value:.2f}" for value in np.percentile(way, [25, 50, 75, 90]))
            for way in (motion.steps, motion.over_clip)
        ]
        cosines = [f"{way.mean():.2f}" if len(way) else "" for way in (motion.next_step, motion.target)]
        lines.append(f"| {name} | " + " | ".join([*lengths, f"{(motion.steps > SLEW).mean():.0%}", *cosines]) + " |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Print the table, or both."""
    runs = find_runs(config.annotations, FEWEST)
    results = read_results(config.detections) if config.detections else None
    known = {record.image_id for run in runs for record in run}
    if results is not None and known.isdisjoint(results.image_ids.tolist()):
        raise UserError(
            f"{config.detections}: no detection on any frame of {config.annotations}; pass the detections of an "
            "evaluation on these annotations"
        )
    found: list[Found] = []
    motions: dict[Path, list[Motion]] = {}
    for run in tqdm(runs, unit="run", disable=None, leave=False):
        run = run[: config.frames]
        motion = measure_camera(read_footage(run, config.intensity))
        motions.setdefault(run[0].path.parent, []).append(motion)
        if results is not None:
            found.append(find_targets(run, motion, results))
    names = Counter(folder.name for folder in motions)
    rows = [(f.name if names[f.name] == 1 else str(f), join(parts)) for f, parts in motions.items()]
    print(table([*rows, ("all", join([motion for _, motion in rows]))]))
    if found:
        print("\n" + found_table(found, config.confidence))


if __name__ == "__main__":
    run_command(main, Config)
