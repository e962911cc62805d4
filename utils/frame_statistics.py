"""Statistics of annotated sequences, to compare data sets: `python -m utils.frame_statistics --annotations FILE`.

A Markdown table with a row for each sequence: grey mean and deviation, slope and fine part of the spectrum, noise,
difference of neighbouring frames, contrast and size of the targets, and their speed relative to the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import groupby, pairwise
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.cli import UserError, run_command
from utils.frames import Intensity, check_intensity
from utils.scr import RING, measure_scr
from utils.synthetic_camera import Camera
from utils.synthetic_footage import Footage, find_runs, read_footage, track_camera

FEWEST = 8  # frames of a run that is measured
SPEED_STEP = 5  # frames over which a target's way is measured: boxes lie on whole pixels
BAND = (0.02, 0.25)  # cycles a pixel, of the slope's fit: below, the window shows; above, noise and optics
FINE, COARSE = (0.4, 0.45), (0.1, 0.15)  # cycles a pixel, of the fine part
STILL = 0.06  # pixels a frame: the camera stands


@dataclass
class Config:
    """Measure annotated sequences."""

    annotations: Path
    """Annotation list or COCO JSON; relative paths count from its folder, or the one above `annotations`."""
    frames: int = 100
    """Most frames of each run to measure, from its start."""
    intensity: Intensity = "full"
    """How 16-bit and float frames become grey: full, or LOW HIGH, values that become 0 and 255."""

    def __post_init__(self) -> None:
        check_intensity(self.intensity)
        if self.frames < FEWEST:
            raise UserError(f"--frames {self.frames}: must be {FEWEST} or more")


@dataclass(frozen=True)
class Statistics:
    """Of one sequence: means over frames, medians over targets; grey levels and pixels."""

    mean: float
    deviation: float
    slope: float  # power falls as frequency^-slope
    fine: float  # power in fine texture, % of that in coarse one, without noise
    noise: float
    difference: float  # mean absolute, of neighbours
    scr: float
    size: float  # diameter of what is above half of the target's peak
    speed: float  # a frame, relative to the background


COLUMNS = (
    "grey mean", "deviation", "spectrum slope", "fine part, %", "noise", "frame difference",
    "SCR", "target size", "speed",
)  # fmt: skip


def measure_run(footage: Footage) -> Statistics:
    """Statistics of consecutive frames with their boxes."""
    frames, camera = footage.frames, track_camera(footage.frames)
    sample = frames[:: max(1, len(frames) // 10)]
    boxes = [(frame, box) for frame, found in zip(frames, footage.boxes, strict=True) for box in found]
    steps = [np.abs(after.astype(np.int16) - before).mean() for before, after in pairwise(frames)]
    return Statistics(
        mean=float(frames.mean()),
        deviation=float(frames.std((1, 2)).mean()),
        slope=float(np.mean([spectrum_slope(frame) for frame in sample])),
        fine=fine_part(frames, camera),
        noise=float(np.median([noise_level(frame) for frame in sample])),
        difference=float(np.mean(steps)),
        scr=_median([measure_scr(frame, box) for frame, box in boxes]),
        size=_median([target_diameter(frame, box) for frame, box in boxes]),
        speed=_median(target_speeds(footage, camera)),
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def spectrum_slope(frame: np.ndarray) -> float:
    """Exponent b of a power spectrum that falls as frequency^-b, fitted over all directions."""
    power, frequency = np.abs(_spectrum(frame)) ** 2, _frequencies(frame.shape)
    edges = np.geomspace(*BAND, 13)
    middle, level = [], []
    for low, high in pairwise(edges):
        ring = (frequency >= low) & (frequency < high)
        if ring.any():
            middle.append(np.sqrt(low * high))
            level.append(power[ring].mean() + 1e-12)
    return float(-np.polyfit(np.log(middle), np.log(level), 1)[0])


def fine_part(frames: np.ndarray, camera: Camera) -> float:
    """Power at the finest frequencies in % of that at coarser ones; nan where the camera never stands
    or the frames are flat.

    Of what neighbouring frames share while it does, the real part of their cross-spectrum: their noise is not shared.
    """
    middle = np.array(frames.shape[:0:-1]) / 2
    steps = np.diff([camera.to_scene(k, middle) for k in range(len(frames))], axis=0)
    still = np.flatnonzero(np.hypot(*steps.T) < STILL)
    shared = [(_spectrum(frames[k]) * _spectrum(frames[k + 1]).conj()).real for k in still[:: max(1, len(still) // 20)]]
    if not shared:
        return float("nan")
    frequency = _frequencies(frames.shape[1:])
    fine, coarse = ((frequency >= low) & (frequency < high) for low, high in (FINE, COARSE))
    power = np.mean(shared, axis=0)
    if not fine.any() or power[coarse].sum() <= 0:  # tiny frames, and such as show nothing
        return float("nan")
    return float(100 * power[fine].mean() / power[coarse].mean())


def _spectrum(frame: np.ndarray) -> np.ndarray:
    window = np.outer(*map(np.hanning, frame.shape))
    return np.fft.rfft2((frame - frame.mean()) * window)


def _frequencies(shape: tuple[int, ...]) -> np.ndarray:
    """Cycles a pixel of each entry of a spectrum."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])


def noise_level(frame: np.ndarray, block: int = 16) -> float:
    """Deviation of the noise: of the second differences (Immerkaer, 1996) in the smoothest tenth of the blocks."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    rough = cv2.filter2D(frame.astype(np.float32), -1, kernel)
    rows, columns = (side // block for side in frame.shape)
    tiles = rough[: rows * block, : columns * block].reshape(rows, block, columns, block)
    return float(np.percentile(tiles.std((1, 3)), 10))


def target_diameter(frame: np.ndarray, box: np.ndarray) -> float:
    """Diameter of a disc with as many pixels as differ from the surroundings by half of the target's peak or more."""
    x1, y1, x2, y2 = (int(side) for side in box)
    around = frame[max(y1 - RING, 0) : y2 + RING, max(x1 - RING, 0) : x2 + RING]
    inside = frame[y1:y2, x1:x2].astype(np.float32) - float(np.median(around))
    peak = inside.flat[np.abs(inside).argmax()]
    if not peak:
        return 0.0
    above = (inside * np.sign(peak) >= abs(peak) / 2).astype(np.uint8)
    _, labels = cv2.connectedComponents(above, connectivity=4)
    return float(2 * np.sqrt((labels == labels.flat[np.abs(inside).argmax()]).sum() / np.pi))


def target_speeds(footage: Footage, camera: Camera) -> list[float]:
    """Pixels a frame of the only target, relative to the background, over `SPEED_STEP` frames; frames with several
    targets are left out, because boxes do not say which is which."""
    places = [
        camera.to_scene(k, (boxes[0, :2] + boxes[0, 2:]) / 2) if len(boxes) == 1 else None
        for k, boxes in enumerate(footage.boxes)
    ]
    pairs = zip(places, places[SPEED_STEP:], strict=False)
    return [float(np.hypot(*(b - a))) / SPEED_STEP for a, b in pairs if a is not None and b is not None]


def table(rows: Sequence[tuple[str, int, Statistics]]) -> str:
    """Markdown: a row a sequence (name, frames, statistics)."""
    lines = ["| sequence | frames | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, frames, statistics in rows:
        values = " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in astuple(statistics))
        lines.append(f"| {name} | {frames} | {values} |")
    return "\n".join(lines)


def main(config: Config) -> None:
    """Print the table; the runs of a sequence count by their frames."""
    runs = [run[: config.frames] for run in find_runs(config.annotations, FEWEST)]
    rows = []
    with tqdm(total=len(runs), unit="run", disable=None, leave=False) as bar:
        for folder, members in groupby(runs, key=lambda run: run[0].path.parent):
            measured, lengths = [], []
            for run in members:
                measured.append(astuple(measure_run(read_footage(run, config.intensity))))
                lengths.append(len(run))
                bar.update()
            known = np.ma.masked_invalid(measured)  # where the camera never stands, or without a target, a part is not
            mean = np.ma.average(known, axis=0, weights=lengths).filled(np.nan)
            rows.append((folder.name, sum(lengths), Statistics(*map(float, mean))))
    print(table(rows))


if __name__ == "__main__":
    run_command(main, Config)
