"""A camera over a synthetic scene: its path, the frames it takes, and what its sensor adds to them.

Positions are continuous pixel coordinates (x, y): pixel i spans [i, i + 1). "Scene coordinates" have the size of frame
pixels but stand still with the background.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.synthetic_canvas import SUPERSAMPLING, Rng

MEAN_GREY = 127.5  # middle of the range; noise is stated for it
SLEW_SHARE = 0.35  # of the frames, in which a steered camera turns, as DAUB's does
SLEW_FRAMES = 3.5  # that one turn lasts, the mean
SLEW_SPREAD = 30.0  # degrees, deviation of the heading from turn to turn
SLEW_WANDER = 3.0  # degrees a frame, of the heading that turns have in common


@dataclass(frozen=True)
class Camera:
    """Frame-to-scene transforms of every frame, and the scene size (h, w) that holds all of them."""

    transforms: np.ndarray  # (N, 2, 3): scene = transform @ (x, y, 1)
    frame_size: tuple[int, int]
    scene_size: tuple[int, int]

    def to_frame(self, frame: int, position: np.ndarray) -> np.ndarray:
        """Scene position (2,) -> position in a frame (2,)."""
        transform = self.transforms[frame]
        return np.linalg.solve(transform[:, :2], position - transform[:, 2])

    def to_scene(self, frame: int, position: np.ndarray) -> np.ndarray:
        """Position in a frame (2,) -> scene position (2,)."""
        return self.transforms[frame, :, :2] @ position + self.transforms[frame, :, 2]

    def travel(self, start: int) -> np.ndarray:
        """How far the middle of the frame travels over the scene (2,) from a frame to the last one."""
        middle = np.array(self.frame_size[::-1]) / 2
        return self.to_scene(len(self.transforms) - 1, middle) - self.to_scene(start, middle)


def plan_camera(
    rng: Rng,
    frames: int,
    frame_size: tuple[int, int],
    speed: float,
    jitter: float,
    turn: float,
    zoom: float,
    slew: float = 0.0,
) -> Camera:
    """A smooth drift with jitter, slews, slow rotation and slow zoom.

    `speed` is the fastest drift (pixels a frame), `jitter` a deviation (pixels), `turn` an amplitude (degrees), `zoom`
    one too (fraction), `slew` the mean speed (pixels a frame) of the turns by which an operator steers. Drift swings
    to and fro and slews are slowly taken back, so a scene stays bounded however long the sequence is.
    """
    height, width = frame_size
    time = np.arange(frames)
    reach = 0.35 * min(frame_size)
    heading = rng.uniform(0, 2 * np.pi)
    swing = reach * np.sin(speed / reach * time + rng.uniform(0, 2 * np.pi))
    sway = 0.3 * reach * np.sin(0.8 * speed / reach * time + rng.uniform(0, 2 * np.pi))
    path = swing[:, None] * (np.cos(heading), np.sin(heading))
    path += sway[:, None] * (-np.sin(heading), np.cos(heading))
    shake = rng.normal(0, jitter, (frames + 1, 2))
    path += 0.8 * shake[1:] + 0.6 * shake[:-1]
    if slew:
        path += _slews(rng, frames, slew)

    slow = 2 * np.pi * time / rng.uniform(80, 200) + rng.uniform(0, 2 * np.pi)
    angle = np.deg2rad(turn) * np.sin(slow)
    scale = 1 + zoom * np.sin(0.7 * slow + 1)
    linear = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )
    shift = path - linear @ np.array([width / 2, height / 2])
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], float)
    seen = corners @ linear.transpose(0, 2, 1) + shift[:, None]  # (N, 4, 2)
    margin = 4.0  # interpolation and blur reach past the frame
    low, high = seen.min((0, 1)) - margin, seen.max((0, 1)) + margin
    extent = np.ceil(high - low).astype(int)
    transforms = np.concatenate([linear, (shift - low)[..., None]], axis=2)
    return Camera(transforms, frame_size, (int(extent[1]), int(extent[0])))


def _slews(rng: Rng, frames: int, mean: float) -> np.ndarray:
    """Where steering has the camera, (N, 2): it stands, then turns for some frames, mostly on the heading of before."""
    place = np.zeros((frames, 2))
    heading, left, step = rng.uniform(0, 2 * np.pi), 0, np.zeros(2)
    for frame in range(1, frames):
        heading += rng.normal(0, np.deg2rad(SLEW_WANDER))
        if not left and rng.random() < SLEW_SHARE / (1 - SLEW_SHARE) / SLEW_FRAMES:
            left = rng.geometric(1 / SLEW_FRAMES)
            aim = heading + rng.normal(0, np.deg2rad(SLEW_SPREAD))
            step = rng.exponential(mean) * np.array([np.cos(aim), np.sin(aim)])
        place[frame] = 0.99 * place[frame - 1] + (step * rng.uniform(0.6, 1.4) if left else 0.0)
        left = max(left - 1, 0)
    return place


def take_frames(scene: np.ndarray, camera: Camera) -> np.ndarray:
    """Sample a scene (rows, columns) x SUPERSAMPLING at every frame's transform -> float32 (N, H, W)."""
    height, width = camera.frame_size
    frames = np.empty((len(camera.transforms), height, width), np.float32)
    for frame, transform in zip(frames, camera.transforms, strict=True):
        matrix = SUPERSAMPLING * transform
        matrix[:, 2] += 0.5 * matrix[:, :2].sum(1) - 0.5  # pixel centres of both grids
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(scene, matrix, (width, height), frame, flags, cv2.BORDER_REPLICATE)
    return frames


@dataclass(frozen=True)
class Sensor:
    """What one sensor adds, drawn once a sequence; `expose` and `read_out` apply it."""

    gain: np.ndarray  # (H, W) vignetting
    pattern: np.ndarray  # (H, W) noise that stands still in the frame, grey levels
    noise: np.ndarray  # (N, H, W) standard normal
    noise_level: float  # grey levels at the mean grey
    deviation: float  # grey levels of the background
    mean: float  # grey level of every frame, as automatic gain leaves it
    dead: tuple[tuple[int, int, int], ...]  # row, column, stuck grey level

    def expose(self, background: np.ndarray) -> np.ndarray:
        """Background (N, H, W) of any level -> grey levels with noise, every frame's mean at `self.mean`."""
        mean = background.mean((1, 2), keepdims=True)
        frames = (background - mean) * (self.deviation / max(background.std((1, 2)).mean(), 1e-3)) + self.mean
        frames *= self.gain
        frames += self.pattern
        shot = np.sqrt(np.clip(0.5 + 0.5 * frames / MEAN_GREY, 0.1, None))
        frames += self.noise_level * shot * self.noise
        frames += self.mean - frames.mean((1, 2), keepdims=True)
        return self._with_dead_pixels(frames)

    def read_out(self, frames: np.ndarray) -> np.ndarray:
        """Grey levels (N, H, W) float -> uint8."""
        return self._with_dead_pixels(np.clip(np.rint(frames), 0, 255).astype(np.uint8))

    def _with_dead_pixels(self, frames: np.ndarray) -> np.ndarray:
        for row, column, level in self.dead:
            frames[:, row, column] = level
        return frames


def make_sensor(
    rng: Rng,
    frames: int,
    frame_size: tuple[int, int],
    deviation: float,
    noise: float,
    columns: float,
    pattern: float,
    dead_pixels: int,
    vignetting: float,
    mean: float,
) -> Sensor:
    """A sensor with shot and read noise, fixed noise of columns and of pixels, dead pixels and a dark rim.

    `columns` and `pattern` are deviations in grey levels.
    """
    height, width = frame_size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = np.hypot((x - width / 2) / width, (y - height / 2) / height) / np.hypot(0.5, 0.5)
    dead = tuple(
        (int(rng.integers(height)), int(rng.integers(width)), int(rng.choice([0, 255]))) for _ in range(dead_pixels)
    )
    fixed = np.tile(rng.normal(0, columns, width).astype(np.float32), (height, 1))
    if pattern:
        fixed += pattern * rng.standard_normal((height, width), dtype=np.float32)
    return Sensor(
        gain=(1 - vignetting * radius**2).astype(np.float32),
        pattern=fixed,
        noise=rng.standard_normal((frames, height, width), dtype=np.float32),
        noise_level=noise,
        deviation=deviation,
        mean=mean,
        dead=dead,
    )
