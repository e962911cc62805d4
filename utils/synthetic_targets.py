"""Synthetic point targets: their tracks relative to the background, their look, and their contrast.

A blob is a Gaussian point spread integrated over pixels. Targets move through the scene; distractors are the same
blobs standing still in it, so that one frame alone does not tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import erf

from utils.scr import CORE, RING, patch_scr
from utils.synthetic_camera import Camera
from utils.synthetic_canvas import Rng

INSIDE = 2.0  # a target is shown and annotated while its centre is this far inside the frame, pixels
FOLLOWED_TRAVEL = 1.5  # pixels that a camera must travel for its heading to mean anything
FOLLOWED_SPREAD = 25.0  # degrees, deviation of a followed target's heading from the camera's


@dataclass(frozen=True)
class Shade:
    """Dark side of a bright point, as a roof's edge or a pole has: a Gaussian like the point's own, taken away."""

    offset: tuple[float, float]  # x, y from the point's centre, pixels
    strength: float  # of the point's amplitude
    sigma: float  # pixels


@dataclass
class Blob:
    """One target or distractor; arrays run over all frames of the sequence."""

    scene: np.ndarray  # (N, 2) x, y in scene coordinates
    centre: np.ndarray  # (N, 2) x, y in the frames
    shown: np.ndarray  # (N,) bool: in view and not hidden
    boxes: np.ndarray  # (N, 4) int x1, y1, x2, y2, valid where shown
    sigma: float  # pixels
    asked_scr: float | None  # None: annotated in footage, never painted
    amplitude: np.ndarray  # (N,) grey levels of a centred pixel
    moving: bool
    shade: Shade | None = None


def draw_shade(rng: Rng, sigma: float) -> Shade:
    """A dark side beside a point of some sigma (pixels): once to twice as wide, a fifth to all of its strength."""
    width = sigma * rng.uniform(1, 2)
    distance = 0.5 + (sigma + width) * rng.uniform(1, 2)
    towards = rng.uniform(0, 2 * np.pi)
    offset = (float(distance * np.cos(towards)), float(distance * np.sin(towards)))
    return Shade(offset, float(rng.uniform(0.2, 1.0)), float(width))


def point_spread(length: int, centre: float, sigma: float) -> np.ndarray:
    """Gaussian integrated over `length` pixels from 0, 1 at a pixel that is centred on it."""
    edges = (np.arange(length + 1) - centre) / (np.sqrt(2) * sigma)
    return (np.diff(erf(edges)) / (2 * erf(0.5 / (np.sqrt(2) * sigma)))).astype(np.float32)


def plan_track(
    rng: Rng,
    camera: Camera,
    start: int,
    enters: bool,
    turn: float,
    confined: bool,
    speed: float,
    band: tuple[float, float] = (0.0, 1.0),
    followed: bool = False,
) -> np.ndarray:
    """Scene positions (N, 2) of a target from frame `start` on (NaN before): steady, with slow turns.

    `speed` in pixels a frame relative to the background, `turn` the deviation of the heading's rate (degrees a frame).
    A target that `enters` starts on the edge of its part of the frame, which is all columns and a `band` of the rows
    (shares of the height); a `confined` one turns back before it leaves that part. The camera follows a `followed` one:
    it flies where the camera turns to, if that goes anywhere.
    """
    frames = len(camera.transforms)
    height, width = camera.frame_size
    low = np.array([0.0, band[0] * height])
    size = np.array([width, (band[1] - band[0]) * height])
    if enters:
        place = low + rng.uniform(0.1, 0.9, 2) * size
        axis, end = rng.integers(2), rng.integers(2)
        place[axis] = low[axis] + end * size[axis]
        aim = low + rng.uniform(0.3, 0.7, 2) * size - place
        heading = np.arctan2(aim[1], aim[0])
    else:
        place = low + rng.uniform(0.12, 0.88, 2) * size
        heading = rng.uniform(0, 2 * np.pi)
    if followed and np.hypot(*camera.travel(start)) > FOLLOWED_TRAVEL:
        heading = np.arctan2(*camera.travel(start)[::-1]) + rng.normal(0, np.deg2rad(FOLLOWED_SPREAD))
    track = np.full((frames, 2), np.nan)
    position = camera.to_scene(start, place)
    rate, phase = 0.0, rng.uniform(0, 2 * np.pi)
    period = rng.uniform(40, 120)
    for frame in range(start, frames):
        track[frame] = position
        rate = 0.9 * rate + 0.44 * rng.normal(0, np.deg2rad(turn))
        bend = rate
        if confined:
            bend += _turn_back(camera.to_frame(frame, position) - low, size, heading)
        heading += bend
        pace = speed * (1 + 0.15 * np.sin(2 * np.pi * frame / period + phase))
        position = position + pace * np.array([np.cos(heading), np.sin(heading)])
    return track


def _turn_back(place: np.ndarray, size: np.ndarray, heading: float) -> float:
    """Turn (radians) towards the middle of a part of the frame, rising from none at 20 % of it off its edge."""
    off = np.min(np.minimum(place, size - place) / size)
    aim = size / 2 - place
    error = (np.arctan2(aim[1], aim[0]) - heading + np.pi) % (2 * np.pi) - np.pi
    return float(np.clip((0.2 - off) / 0.12, 0, 1) * np.clip(error, -0.25, 0.25))


def still_track(rng: Rng, camera: Camera) -> np.ndarray:
    """Scene positions (N, 2) of a distractor: fixed to the background, in view at some random moment."""
    frames = len(camera.transforms)
    place = rng.uniform(0.03, 0.97, 2) * np.array(camera.frame_size[::-1])
    return np.tile(camera.to_scene(int(rng.integers(frames)), place), (frames, 1))


def stuck_track(rng: Rng, camera: Camera) -> np.ndarray:
    """Scene positions (N, 2) of a distractor that is fixed to the sensor: the camera carries it over the scene."""
    place = np.floor(rng.uniform(0.03, 0.97, 2) * np.array(camera.frame_size[::-1])) + rng.uniform(0.2, 0.8, 2)
    return np.array([camera.to_scene(frame, place) for frame in range(len(camera.transforms))])


def make_blob(
    rng: Rng,
    camera: Camera,
    scene: np.ndarray,
    extent: float,
    side: int,
    jitter: float,
    scr: float,
    moving: bool,
    shaded: float = 0.0,
) -> Blob:
    """Blob along scene positions (N, 2); `extent` = four sigma, `side` and centre `jitter` of its box in pixels.

    `shaded` is the probability that it has a dark side; none needs no draw.
    """
    frames = len(scene)
    height, width = camera.frame_size
    linear, shift = camera.transforms[..., :2], camera.transforms[..., 2]
    centre = np.linalg.solve(linear, (scene - shift)[..., None])[..., 0]
    shown = np.all((centre > INSIDE) & (centre < np.array([width, height]) - INSIDE), axis=1)  # NaN: not shown
    if moving and shown.any():
        gone = np.flatnonzero(~shown & (np.arange(frames) > np.flatnonzero(shown)[0]))
        if gone.size:
            shown[gone[0] :] = False  # who left does not come back under the same identity
    wobble = np.clip(rng.normal(0, jitter, (frames, 2)), -0.95, 0.95) if jitter else 0.0
    low = np.rint(np.nan_to_num(centre) + wobble - side / 2)
    boxes = np.concatenate([low, low + side], axis=1).clip(0, np.tile([width, height], 2)).astype(int)
    sigma = max(extent, 0.8) / 4
    shade = draw_shade(rng, sigma) if shaded and rng.random() < shaded else None
    return Blob(scene, centre, shown, boxes, sigma, scr, np.zeros(frames), moving, shade)


def spread_patch(blob: Blob, frame: int, frame_size: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns and point spread of a blob over its box and ring in one frame."""
    x1, y1, x2, y2 = blob.boxes[frame]
    rows = slice(max(y1 - RING, 0), min(y2 + RING, frame_size[0]))
    columns = slice(max(x1 - RING, 0), min(x2 + RING, frame_size[1]))
    x, y = blob.centre[frame]
    return rows, columns, _spread_over(rows, columns, x, y, blob.sigma)


def _spread_over(rows: slice, columns: slice, x: float, y: float, sigma: float) -> np.ndarray:
    """Point spread over some rows and columns of a frame."""
    down = point_spread(rows.stop - rows.start, y - rows.start, sigma)
    return down[:, None] * point_spread(columns.stop - columns.start, x - columns.start, sigma)


def hide(blob: Blob, cover: np.ndarray) -> None:
    """Stop showing a blob where the occluders' `cover` (N, H, W) takes more than a third of its light."""
    for frame in np.flatnonzero(blob.shown):
        rows, columns, spread = spread_patch(blob, frame, cover.shape[1:])
        if (spread * cover[frame, rows, columns]).sum() > spread.sum() / 3:
            blob.shown[frame] = False


def calibrate(rng: Rng, blob: Blob, frames: np.ndarray, cover: np.ndarray | None = None) -> np.ndarray:
    """Set a blob's amplitudes so that its median measured SCR is the asked one; returns the SCR of its shown frames.

    frames: grey levels (N, H, W) float without the blob. The SCR is that of its light alone, without its shade. The
    amplitude follows what the local clutter asks for, but slowly, as a target's brightness does: single frames may
    differ from the asked SCR, a track does not.
    """
    shown = np.flatnonzero(blob.shown)
    patches, spreads, boxes, needed = [], [], [], []
    for frame in shown:
        rows, columns, spread = spread_patch(blob, frame, frames.shape[1:])
        if cover is not None:
            spread = spread * (1 - cover[frame, rows, columns])
        box = tuple(blob.boxes[frame] - (columns.start, rows.start, columns.start, rows.start))
        patch = frames[frame, rows, columns]
        _, mean, deviation = patch_scr(patch, box)
        core = cv2.blur(spread, (CORE, CORE))
        best = np.unravel_index(np.argmax(core), core.shape)
        needed.append((blob.asked_scr * deviation + mean - cv2.blur(patch, (CORE, CORE))[best]) / core[best])
        patches.append(patch)
        spreads.append(spread)
        boxes.append(box)
    floor = 0.1 * max(np.median(needed), 10.0)
    amplitude = np.exp(gaussian_filter1d(np.log(np.clip(needed, floor, 400)), 4.0, mode="nearest"))
    amplitude *= np.exp(0.1 * np.sin(2 * np.pi * shown / rng.uniform(20, 60) + rng.uniform(0, 2 * np.pi)))
    for _ in range(12):
        digital = (np.clip(np.rint(p + a * s), 0, 255) for p, a, s in zip(patches, amplitude, spreads, strict=True))
        measured = np.array([patch_scr(p, box)[0] for p, box in zip(digital, boxes, strict=True)])
        measured = np.maximum(measured, 1e-6)  # exactly 0 where surroundings and target are saturated
        error = blob.asked_scr / np.median(measured)
        if abs(error - 1) < 0.02:
            break
        amplitude *= np.clip(error, 0.6, 1.7)
    blob.amplitude[:] = 0
    blob.amplitude[shown] = amplitude
    return measured


def paint(blob: Blob, frames: np.ndarray, cover: np.ndarray | None = None, sign: int = 1) -> None:
    """Add (sign 1) or take away (-1) a blob, in place, in grey levels (N, H, W) float; `cover` hides parts of it."""
    for frame in np.flatnonzero(blob.shown):
        rows, columns, spread = spread_patch(blob, frame, frames.shape[1:])
        if blob.shade:
            x, y = blob.centre[frame] + blob.shade.offset
            spread = spread - blob.shade.strength * _spread_over(rows, columns, x, y, blob.shade.sigma)
        if cover is not None:
            spread = spread * (1 - cover[frame, rows, columns])
        frames[frame, rows, columns] += sign * blob.amplitude[frame] * spread
