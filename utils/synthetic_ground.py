"""Synthetic ground seen from a slant: fields, woods, roads, roofs, poles, and small points that look like targets."""

from __future__ import annotations

import cv2
import numpy as np

from utils.synthetic_canvas import SUPERSAMPLING, Canvas, Rng, spectral_texture


def _land(canvas: Canvas) -> None:
    """Patches of land: thresholds of a smooth field, each with its own level and roughness; straight field edges."""
    rng, fine = canvas.rng, canvas.picture.shape
    field = spectral_texture(rng, fine, beta=3.2, stretch=rng.uniform(1.5, 3.5))
    kinds = int(rng.integers(2, 5))
    classes = np.digitize(field, np.quantile(field[::4, ::4], np.sort(rng.uniform(0.1, 0.9, kinds - 1))))
    levels = rng.normal(0, 0.8, kinds).astype(np.float32)
    roughness = rng.uniform(0.02, 0.2, kinds).astype(np.float32)
    grain = spectral_texture(rng, fine, beta=1.5, stretch=rng.uniform(0.5, 1.5), largest=40)
    canvas.picture += cv2.GaussianBlur(levels[classes], (0, 0), SUPERSAMPLING) + roughness[classes] * grain
    height, width = canvas.shape
    for _ in range(rng.integers(1, 4)):
        y, tilt, depth = rng.uniform(0, height), rng.normal(0, 0.15), rng.uniform(8, 0.3 * height)
        corners = [(0, y), (width, y + tilt * width), (width, y + tilt * width + depth), (0, y + depth)]
        strip = np.zeros(fine, np.float32)
        canvas.polygon(np.array(corners), rng.normal(0, 0.6), strip)
        canvas.picture += strip


def _bare_ground(canvas: Canvas, share: float) -> None:
    """Sunlit bare soil and gravel: the highest `share` of a rough field, bright enough to saturate in part."""
    rng, fine = canvas.rng, canvas.picture.shape
    field = spectral_texture(rng, fine, beta=rng.uniform(2.4, 3.0), stretch=rng.uniform(1.5, 4.0))
    over = np.clip(4 * (field - np.quantile(field[::4, ::4], 1 - share)), 0, 1)
    rough = spectral_texture(rng, fine, beta=1.8, stretch=1.5, largest=30)
    canvas.picture += over * (rng.uniform(0.8, 4.5) + rng.uniform(0.2, 0.6) * rough)


def _roads(canvas: Canvas, count: int) -> None:
    """Roads and walls: long, nearly level, gently bent lines, walls with a shadow below."""
    rng = canvas.rng
    height, width = canvas.shape
    for _ in range(count):
        x = np.linspace(-5, width + 5, 12)
        y = rng.uniform(0, height) + rng.normal(0, 0.2) * x + np.cumsum(rng.normal(0, width / 150, x.size))
        thickness = rng.uniform(0.8, 3.0) * canvas.depth(float(np.clip(y.mean(), 0, height)))
        level = rng.uniform(1.0, 3.0)
        part = slice(*sorted(rng.choice(x.size + 1, 2, replace=False))) if rng.random() < 0.5 else slice(None)
        points = np.stack([x, y], axis=1)[part]
        if rng.random() < 0.5:
            canvas.line(points + (0, 1.2 * thickness), thickness, -1.5)
        canvas.line(points, thickness, level)


def draw_tree(canvas: Canvas, x: float, y: float, height: float, level: float, picture=None) -> None:
    """One tree: a ragged dark cone that stands on (x, y)."""
    half = height * canvas.rng.uniform(0.15, 0.28)
    up = np.array([0.0, 0.25, 0.3, 0.55, 0.6, 1.0])
    side = half * np.array([0.7, 1.0, 0.75, 0.75, 0.5, 0.05]) * canvas.rng.uniform(0.8, 1.2, 6)
    left = np.stack([x - side, y - up * height], axis=1)
    right = np.stack([x + side, y - up * height], axis=1)[::-1]
    canvas.polygon(np.concatenate([left, right]), level, picture)


def _trees(canvas: Canvas, groups: int) -> None:
    """Woods and rows of trees, far ones first."""
    rng = canvas.rng
    for _ in range(groups):
        x0, y0 = canvas.place()
        row = rng.random() < 0.4
        spread = rng.uniform(10, 0.35 * canvas.shape[1]), (1.5 if row else rng.uniform(4, 0.12 * canvas.shape[0]))
        size, shade = rng.uniform(7, 16), rng.uniform(-2.2, -0.8)
        count = int(rng.uniform(0.3, 0.8) * spread[0]) if row else int(min(260, spread[0] * spread[1] / 6))
        xs = x0 + spread[0] * rng.uniform(-1, 1, count)
        ys = np.sort(y0 + spread[1] * np.clip(rng.normal(0, 0.6, count), -1.5, 1.5))
        for x, y in zip(xs, ys, strict=True):
            height = size * canvas.depth(float(np.clip(y, 0, canvas.shape[0]))) * rng.uniform(0.6, 1.3)
            draw_tree(canvas, x, y, height, shade + rng.normal(0, 0.45))


def _wood(canvas: Canvas) -> None:
    """A wood seen from its side: a dark band of upright streaks between ragged lines of trees."""
    rng = canvas.rng
    height, width = canvas.shape
    left, top = canvas.place()
    along = np.linspace(left - 0.2 * width, left + rng.uniform(0.1, 1.0) * width, 10)
    tops = top + rng.normal(0, 0.08) * (along - left) + rng.normal(0, 2, 10)
    bottoms = tops + rng.uniform(0.06, 0.22) * height * np.sin(np.linspace(0.05, np.pi - 0.05, 10)) ** 0.3
    mask = np.zeros_like(canvas.picture)
    outline = np.stack([np.append(along, along[::-1]), np.append(tops, bottoms[::-1])], axis=1)
    canvas.polygon(outline, 1.0, mask)
    shade, size = rng.uniform(-1.8, -0.6), rng.uniform(5, 12) * canvas.depth(top)
    streaks = spectral_texture(rng, mask.shape, beta=1.8, stretch=rng.uniform(0.25, 0.5), largest=40)
    canvas.picture += mask * (shade + rng.uniform(0.2, 0.5) * streaks - canvas.picture)
    for edge, spread in ((tops, 0.3), (bottoms, 0.15)):
        for x in np.arange(along[0], along[-1], 0.3 * size):
            foot = np.interp(x, along, edge) + 0.5 * size
            draw_tree(canvas, x, foot, size * rng.uniform(0.6, 1.3), shade + rng.normal(0, spread))


def _buildings(canvas: Canvas, count: int) -> None:
    """Bright roofs over dark walls."""
    rng = canvas.rng
    for _ in range(count):
        x, y = canvas.place()
        size = canvas.depth(y)
        width, roof, wall = rng.uniform(5, 22) * size, rng.uniform(2, 6) * size, rng.uniform(2, 6) * size
        slant = rng.normal(0, 3)
        canvas.polygon([(x, y), (x + width, y), (x + width, y + wall), (x, y + wall)], rng.uniform(-2, 1))
        top = [(x, y), (x + width, y), (x + width + slant, y - roof), (x + slant, y - roof)]
        canvas.polygon(np.array(top), rng.uniform(1.5, 4.5))


def _poles(canvas: Canvas, count: int) -> None:
    """Thin upright poles, some with a bright head."""
    rng = canvas.rng
    for _ in range(count):
        x, y = canvas.place()
        height = rng.uniform(8, 30) * canvas.depth(y)
        canvas.line(np.array([(x, y), (x + rng.normal(0, 0.3), y - height)]), 0.5, rng.uniform(0.5, 2.5))
        if rng.random() < 0.3:
            _spot(canvas, x, y - height, rng.uniform(0.3, 0.6), rng.uniform(2, 5))


def _spot(canvas: Canvas, x: float, y: float, radius: float, level: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    canvas.polygon(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1), level)


def draw_spots(canvas: Canvas, count: int, level: tuple[float, float], radius: tuple[float, float]) -> None:
    """Small bright (or dark) spots fixed to the ground: stones, lamps, glints, scrub."""
    for _ in range(count):
        x, y = canvas.place()
        _spot(canvas, x, y, canvas.rng.uniform(*radius), canvas.rng.uniform(*level))


def _haze(canvas: Canvas) -> None:
    """Far country fades into an even, graded haze towards the top."""
    rng, rows = canvas.rng, canvas.picture.shape[0]
    height = np.linspace(1, 0, rows, dtype=np.float32)[:, None]
    share = np.clip((height - rng.uniform(0.3, 0.7)) / 0.25, 0, 0.97)
    level = rng.uniform(-1, 1) + rng.uniform(-1.5, 1.5) * height
    canvas.picture += share * (level - canvas.picture)


def ground_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Country seen from a slant; `density` scales how many structures stand on 128 x 128 pixels."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    base = spectral_texture(rng, fine, beta=rng.uniform(2.6, 3.2), stretch=rng.uniform(1.2, 2.5))
    canvas = Canvas(rng, shape, 0.6 * base)
    units = density * shape[0] * shape[1] / 128**2

    def some(mean: float) -> int:
        return int(rng.poisson(mean * units))

    _land(canvas)
    if rng.random() < 0.7:
        _bare_ground(canvas, rng.uniform(0.01, 0.1))
    _roads(canvas, some(0.7))
    draw_spots(canvas, some(4.0), level=(-1.8, -0.6), radius=(0.6, 2.2))
    _buildings(canvas, some(0.5))
    for _ in range(some(0.3)):
        _wood(canvas)
    _trees(canvas, some(0.9))
    _poles(canvas, some(0.9))
    draw_spots(canvas, some(1.5), level=(2.0, 5.0), radius=(0.3, 0.7))
    canvas.picture += 0.06 * spectral_texture(rng, fine, beta=1.2, largest=30)
    if rng.random() < 0.3:
        _haze(canvas)
    return canvas.picture
