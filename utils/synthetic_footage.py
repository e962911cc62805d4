"""Synthetic targets in real footage: windows of annotated sequences, and how their camera moved.

Points painted into real frames meet real clutter, real noise and real camera motion. Some move relative to the
background and are annotated, others look the same and stand still: what tells them apart is motion alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import cv2
import numpy as np

from utils.annotations import FrameRecord, load_annotations
from utils.cli import UserError
from utils.frames import Intensity, natural_key, read_frame, sequence_frames, split_runs
from utils.synthetic_camera import Camera
from utils.synthetic_targets import Blob

ECC_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
ECC_BLUR = 5  # pixels; noise moves nothing


Run = tuple[FrameRecord, ...]  # consecutive frames of one folder


@dataclass(frozen=True)
class Footage:
    """Consecutive frames (N, h, w) uint8, and the boxes (n, 4) x1, y1, x2, y2 annotated in each of them."""

    frames: np.ndarray
    boxes: tuple[np.ndarray, ...]

    @property
    def slots(self) -> int:
        """The most boxes of a frame."""
        return max(map(len, self.boxes))


def find_runs(annotation_file: Path, frames: int) -> list[Run]:
    """Runs of at least `frames` consecutive annotated frames, by folder, in natural order.

    Relative frame names count from the annotation file's folder, or from the one above where that is `annotations`.
    """
    folder = annotation_file.resolve().parent
    root = folder.parent if folder.name == "annotations" else folder
    records = load_annotations(annotation_file, root, check_files=False, files_if_there=True).records
    if missing := [record for record in records if not record.path.is_file()]:
        raise UserError(
            f"{annotation_file}: {len(missing)} of {len(records)} frames are missing, the first is {missing[0].name} "
            f"(looked for {missing[0].path}); names count from {root}: put the file there, or write whole paths"
        )
    runs = []
    by_folder = sorted(records, key=lambda record: (str(record.path.parent), natural_key(record.path.name)))
    for _, members in groupby(by_folder, key=lambda record: record.path.parent):
        record_of = {record.path: record for record in members}
        for run in split_runs(sequence_frames(next(iter(record_of)).parent)):  # neighbours are those of the folder
            for annotated, part in groupby(run, key=record_of.__contains__):
                stretch = tuple(record_of[path] for path in part) if annotated else ()
                runs += [stretch] if len(stretch) >= frames else []
    if not runs:
        raise UserError(f"{annotation_file}: no {frames} consecutive frames in any sequence; lower --frames")
    return runs


def read_footage(window: Run, intensity: Intensity = "full") -> Footage:
    """Read consecutive frames."""
    pictures = [read_frame(record.path, intensity) for record in window]
    for record, picture in zip(window, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise UserError(
                f"{record.path}: {picture.shape} pixels (height, width), but {window[0].path.name} beside it has "
                f"{pictures[0].shape}; bring the frames of a sequence to one size"
            )
    return Footage(np.stack(pictures), tuple(record.boxes[:, :4].astype(int) for record in window))


def track_camera(frames: np.ndarray) -> Camera:
    """The camera's motion (shift and rotation) over frames (N, h, w), each registered with the one before.

    Scene coordinates are those of the first frame. Enhanced correlation coefficient, started from phase correlation,
    which alone counts where the former does not converge.
    """
    height, width = frames.shape[1:]
    transforms = np.zeros((len(frames), 2, 3))
    transforms[0] = np.eye(2, 3)
    smooth = [cv2.GaussianBlur(frame.astype(np.float32), (ECC_BLUR, ECC_BLUR), 0) for frame in frames]
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    for number, (before, after) in enumerate(pairwise(smooth), start=1):
        step = _register(after, before, window)  # places of this frame -> places of the one before
        transforms[number, :, :2] = transforms[number - 1, :, :2] @ step[:, :2]
        transforms[number, :, 2] = transforms[number - 1, :, :2] @ step[:, 2] + transforms[number - 1, :, 2]
    return Camera(transforms, (height, width), (height, width))


def _register(frame: np.ndarray, onto: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Rigid transform (2, 3), in continuous pixel coordinates, from places of a frame to places of another."""
    shift, _ = cv2.phaseCorrelate(frame * window, onto * window)  # its own window changes its inputs
    step = np.eye(2, 3, dtype=np.float32)
    step[:, 2] = shift
    try:
        _, found = cv2.findTransformECC(frame, onto, step.copy(), cv2.MOTION_EUCLIDEAN, ECC_STEPS, None, 1)
    except cv2.error:  # it says so in this way when it does not converge
        found = step
    found = found.astype(float)
    found[:, 2] += 0.5 - 0.5 * found[:, :2].sum(1)  # from pixel numbers, which are centres
    return found


def annotated_blobs(footage: Footage) -> list[Blob]:
    """The footage's own targets as blobs, never painted: the k-th box of every frame makes the k-th one.

    Where frames have several boxes these need not be one target's.
    """
    blobs = []
    for slot in range(footage.slots):
        shown = np.array([len(boxes) > slot for boxes in footage.boxes])
        boxes = np.array([boxes[slot] if len(boxes) > slot else np.zeros(4, int) for boxes in footage.boxes])
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        blobs.append(Blob(centre, centre, shown, boxes, 0.5, None, np.zeros(len(boxes)), True))
    return blobs


def round_to_grey(levels: np.ndarray) -> np.ndarray:
    """Grey levels (N, h, w) float -> uint8: the real sensor has left its traces already."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
