"""Synthetic clutter: large textured ground, sky and sea scenes that a camera can drift over.

A scene is a float32 picture (rows, columns) of zero mean and unit deviation, `SUPERSAMPLING` times finer than the
frames taken of it, so that sub-pixel drift neither blurs nor aliases. Its texture has a 1/f^beta power spectrum, as
natural scenes have; what makes it clutter are the structures drawn over it.
"""

from __future__ import annotations

import cv2
import numpy as np

from utils.synthetic_canvas import LENS_SIGMA, SUPERSAMPLING, Canvas, Rng, spectral_texture
from utils.synthetic_ground import draw_spots, draw_tree, ground_scene


def sky_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Clouds before a graded sky, in part with a tree line at the bottom."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    billow = spectral_texture(rng, fine, beta=rng.uniform(2.8, 3.4), stretch=rng.uniform(1.0, 2.0))
    detail = spectral_texture(rng, fine, beta=2.2, stretch=1.3)
    cover = 1 / (1 + np.exp(-3.0 * (billow + 0.3 * detail - rng.uniform(-0.8, 0.8))))
    grade = np.linspace(-1, 1, fine[0], dtype=np.float32)[:, None] * rng.uniform(0, 1.5)
    picture = grade + cover * (rng.uniform(1.0, 2.5) + 0.5 * detail)
    canvas = Canvas(rng, shape, np.ascontiguousarray(picture, dtype=np.float32))
    if rng.random() < 0.4 * density:
        height, width = shape
        tall, level = rng.uniform(0.08, 0.2) * height, rng.uniform(-1.5, 2.5)
        for x in rng.permutation(np.arange(0, width, 0.25 * tall)):
            draw_tree(canvas, x, height + 4, tall * rng.uniform(0.6, 1.3), level + rng.normal(0, 0.2))
    return canvas.picture


def sea_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Waves that shorten towards the horizon, with glints and, in part, a strip of sky."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    swell = spectral_texture(rng, fine, beta=2.4, stretch=rng.uniform(3, 6))
    waves = spectral_texture(rng, fine, beta=1.4, stretch=rng.uniform(2, 4), largest=50)
    near = np.linspace(0.4, 1.2, fine[0], dtype=np.float32)[:, None]
    canvas = Canvas(rng, shape, (swell + 0.6 * near * waves).astype(np.float32))
    units = density * shape[0] * shape[1] / 128**2
    draw_spots(canvas, int(rng.poisson(5 * units)), level=(1.5, 4.0), radius=(0.3, 0.7))
    if rng.random() < 0.4:
        edge = int(rng.uniform(0.1, 0.35) * fine[0])
        canvas.picture[:edge] = rng.uniform(-2.5, 2.5) + 0.3 * spectral_texture(rng, (edge, fine[1]), beta=2.8)
    return canvas.picture


def overcast_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Layers of cloud without gaps, long and slanted, brighter towards the horizon, their detail in part of the sky."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    stretch, tilt = rng.uniform(1.5, 5.0), rng.normal(0, 12)
    layers = spectral_texture(rng, fine, rng.uniform(3.2, 3.8), stretch, largest=600, tilt=tilt)
    detail = spectral_texture(rng, fine, rng.uniform(2.4, 3.0), 0.6 * stretch, largest=80, tilt=2 * tilt)
    where = np.clip(0.4 + spectral_texture(rng, fine, 3.4, stretch, largest=600, tilt=tilt), 0, 2)
    grade = np.linspace(-1, 1, fine[0], dtype=np.float32)[:, None] * rng.uniform(0.2, 1.2)
    picture = grade + layers + density * rng.uniform(0.03, 0.2) * where * detail
    return np.ascontiguousarray(picture, dtype=np.float32)


def _skyline(rng: Rng, columns: int, tall: float) -> np.ndarray:
    """Height (columns,) of what stands on the horizon, up to about `tall`: crowns of trees, or roofs."""
    if rng.random() < 0.85:
        crowns = spectral_texture(rng, (16, columns), beta=rng.uniform(2.6, 3.3), largest=150)[0]
        return tall * np.clip(rng.uniform(0.3, 0.6) + 0.25 * crowns, 0, 1.2)
    ends = np.sort(rng.choice(columns, max(2, columns // int(rng.uniform(30, 90))), replace=False))
    heights = rng.uniform(0.1, 1.0, len(ends) + 1) * (rng.random(len(ends) + 1) < 0.8)
    return tall * heights[np.searchsorted(ends, np.arange(columns))]


def horizon_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Smooth sky over a warm, saturated skyline and field; local gain leaves the sky dark just above them."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    height, width = shape
    hills = spectral_texture(rng, (16, fine[1]), beta=3.6)[0] * rng.uniform(0, 0.03)
    edge = (rng.uniform(0.62, 0.88) + hills) * height
    y = (np.arange(fine[0], dtype=np.float32)[:, None] + 0.5) / SUPERSAMPLING
    above = (edge - y) / height
    halo = rng.uniform(0.4, 1.6) * np.exp(-np.clip(above, 0, None) / rng.uniform(0.04, 0.16))
    sky = rng.uniform(-0.4, 0.4) * above - halo + rng.uniform(0.005, 0.04) * spectral_texture(rng, fine, beta=3.2)
    if rng.random() < 0.6:  # low clouds
        bank = spectral_texture(rng, fine, beta=rng.uniform(2.7, 3.4), stretch=rng.uniform(2.0, 7.0), largest=250)
        cover = np.clip(rng.uniform(0.7, 2) * (bank - np.quantile(bank[::4, ::4], rng.uniform(0.75, 0.97))), 0, 1)
        low = np.exp(-(((above - rng.uniform(0, 0.3)) / rng.uniform(0.04, 0.2)) ** 2))
        sky += rng.uniform(0.3, 3.0) * cover * low
    grain = spectral_texture(rng, fine, beta=rng.uniform(1.6, 2.4), stretch=rng.uniform(2.0, 5.0), largest=60)
    field = rng.uniform(0.2, 1.2) + rng.uniform(0.5, 2.0) * np.exp(10 * np.clip(above, -1, 0))
    canvas = Canvas(rng, shape, np.where(above > 0, sky, field + rng.uniform(0.03, 0.25) * grain).astype(np.float32))
    tops = edge - density * rng.uniform(0.02, 0.16) * height * _skyline(rng, fine[1], 1.0)
    streaks = spectral_texture(rng, fine, beta=2.0, stretch=rng.uniform(0.3, 0.8), largest=40)
    wood = rng.uniform(1.2, 3.5) + rng.uniform(0.1, 0.5) * streaks
    canvas.picture = np.where((y > tops) & (above > -2 / height), wood, canvas.picture).astype(np.float32)
    for _ in range(rng.integers(1, 7) if rng.random() < 0.3 else 0):
        x, foot = rng.uniform(0, width), float(edge.max()) + 2
        canvas.line(np.array([(x, foot), (x, foot - rng.uniform(0.06, 0.2) * height)]), 0.7, rng.uniform(1.5, 3.5))
    return canvas.picture


SCENES = {
    "ground": ground_scene,
    "sky": sky_scene,
    "sea": sea_scene,
    "overcast": overcast_scene,
    "horizon": horizon_scene,
}


def paint_scene(rng: Rng, kind: str, shape: tuple[int, int], density: float) -> np.ndarray:
    """Scene of a kind for `shape` frame pixels -> float32 (rows, columns) x SUPERSAMPLING, blurred by the optics."""
    return cv2.GaussianBlur(SCENES[kind](rng, shape, density), (0, 0), LENS_SIGMA * SUPERSAMPLING)


def crop_scene(rng: Rng, picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scene for `shape` frame pixels out of a real picture (h, w): a random crop, mirrored by chance.

    The crop is between half the picture and all of it that has the scene's proportions, so that small targets stay
    small beside what the picture shows.
    """
    fit = min(picture.shape[0] / shape[0], picture.shape[1] / shape[1]) * rng.uniform(0.5, 1.0)
    height, width = (max(1, round(side * fit)) for side in shape)
    top = int(rng.integers(picture.shape[0] - height + 1))
    left = int(rng.integers(picture.shape[1] - width + 1))
    crop = picture[top : top + height, left : left + width].astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    size = shape[1] * SUPERSAMPLING, shape[0] * SUPERSAMPLING
    shrinks = size[0] < width
    return cv2.resize(np.ascontiguousarray(crop), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
