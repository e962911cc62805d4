"""Things that hide synthetic targets for a moment: drawn into the scene, and into a mask of what they cover."""

from __future__ import annotations

import cv2
import numpy as np

from utils.synthetic_canvas import LENS_SIGMA, SUPERSAMPLING, Canvas, Rng, spectral_texture
from utils.synthetic_ground import draw_tree


def _clump(canvas: Canvas, x: float, y: float, width: float) -> None:
    for dx in np.linspace(-0.5, 0.5, 5) * width:
        draw_tree(canvas, x + dx, y + 1.2 * width, width * canvas.rng.uniform(2.0, 2.6), 1.0)


def _mast(canvas: Canvas, x: float, y: float, width: float) -> None:
    foot = y + width * canvas.rng.uniform(3, 6)
    canvas.line(np.array([(x, y - 2 * width), (x, foot)]), 0.7 * width, 1.0)


def _tower(canvas: Canvas, x: float, y: float, width: float) -> None:
    canvas.line(np.array([(x, y - 2 * width), (x, canvas.shape[0] + width)]), 0.7 * width, 1.0)


def _house(canvas: Canvas, x: float, y: float, width: float) -> None:
    half, up = 0.6 * width, 0.5 * width
    corners = [(x - half, y + up), (x + half, y + up), (x + half, y - up), (x, y - 1.6 * up), (x - half, y - up)]
    canvas.polygon(np.array(corners), 1.0)


def _ship(canvas: Canvas, x: float, y: float, width: float) -> None:
    half, up = 1.5 * width, 0.45 * width
    hull = [(x - half, y - 0.2 * up), (x + half, y - 0.2 * up), (x + 0.8 * half, y + up), (x - 0.8 * half, y + up)]
    canvas.polygon(np.array(hull), 1.0)
    canvas.polygon(np.array([(x - 0.4 * half, y), (x + 0.3 * half, y), (x + 0.3 * half, y - 2 * up)]), 1.0)


def _cloud(canvas: Canvas, x: float, y: float, width: float) -> None:
    rows, columns = canvas.picture.shape
    down = (np.arange(rows, dtype=np.float32)[:, None] / SUPERSAMPLING - y) / (1.1 * width)
    across = (np.arange(columns, dtype=np.float32) / SUPERSAMPLING - x) / (1.6 * width)
    ragged = 0.25 * spectral_texture(canvas.rng, (rows, columns), beta=2.6, largest=8 * width)
    canvas.picture += np.clip(3 * (1 - np.hypot(down, across) + ragged), 0, 1)


OCCLUDERS = {
    "ground": (_clump, _mast, _house),
    "sky": (_cloud, _cloud, _tower),
    "overcast": (_cloud, _cloud, _tower),
    "horizon": (_cloud, _tower, _tower),
    "sea": (_ship, _mast, _house),
}


def paint_occluder(
    rng: Rng, kind: str, scene: np.ndarray, mask: np.ndarray, centre: tuple[float, float], width: float
) -> None:
    """Draw what a `kind` of scene has to hide a target, `width` frame pixels across, over `centre` (x, y).

    Trees, poles and houses on the ground, clouds and masts in the sky, ships and masts at sea; drawn into the scene,
    while `mask` (the scene's shape) becomes 1 where a target passes behind.
    """
    shape = scene.shape[0] // SUPERSAMPLING, scene.shape[1] // SUPERSAMPLING
    canvas = Canvas(rng, shape, np.zeros_like(mask))
    OCCLUDERS[kind][rng.integers(len(OCCLUDERS[kind]))](canvas, *centre, width)
    stamp = cv2.GaussianBlur(canvas.picture, (0, 0), LENS_SIGMA * SUPERSAMPLING)
    level = scene.mean() + scene.std() * rng.choice([-1.3, 1.3]) * rng.uniform(0.7, 1.4)
    grain = 0.3 * scene.std() * spectral_texture(rng, scene.shape, beta=2.0, largest=40)
    scene += stamp * (level + grain - scene)
    np.maximum(mask, stamp, out=mask)
