"""Synthetic clutter: large textured ground, sky and sea scenes that a camera can drift over.

A scene is a float32 picture (rows, columns) of zero mean and unit deviation, `SUPERSAMPLING` times finer than the
frames taken of it, so that sub-pixel drift neither blurs nor aliases. Its texture has a 1/f^beta power spectrum, as
natural scenes have; what makes it clutter are the structures drawn over it: edges, roads, roofs, walls, poles, trees
and small bright points that look like targets in a single frame.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import fft

SUPERSAMPLING = 2

Rng = np.random.Generator


def spectral_texture(
    rng: Rng, shape: tuple[int, int], beta: float, stretch: float = 1.0, largest: float = 400.0, tilt: float = 0.0
) -> np.ndarray:
    """Gaussian texture of unit deviation, power falling as frequency^-beta.

    `stretch` > 1 lengthens it along the rows (ground and sea seen from a slant), or `tilt` degrees off them; periods
    longer than `largest` pixels hold no more power than that period.
    """
    rows, columns = (fft.next_fast_len(side, real=True) for side in shape)
    fy = fft.fftfreq(rows).astype(np.float32)[:, None]
    fx = fft.rfftfreq(columns).astype(np.float32)[None]
    cosine, sine = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    along, across = (cosine * fx + sine * fy) * stretch, cosine * fy - sine * fx
    power = np.maximum(across * across + along * along, 1.0 / largest**2)
    noise = rng.standard_normal((rows, columns), dtype=np.float32)
    texture = fft.irfft2(fft.rfft2(noise) * power ** (-beta / 4), s=(rows, columns))
    texture = texture[: shape[0], : shape[1]]
    return ((texture - texture.mean()) / (texture.std() + 1e-6)).astype(np.float32)


class Canvas:
    """A scene being drawn; lengths and positions in frame pixels, levels in deviations of the base texture."""

    def __init__(self, rng: Rng, shape: tuple[int, int], picture: np.ndarray):
        self.rng, self.shape, self.picture = rng, shape, picture

    def depth(self, y: float) -> float:
        """Apparent size of things at row y: half at the top (far), one and a half at the bottom (near)."""
        return 0.5 + y / self.shape[0]

    def place(self) -> tuple[float, float]:
        """A random position (x, y)."""
        return self.rng.uniform(0, self.shape[1]), self.rng.uniform(0, self.shape[0])

    def polygon(self, points: np.ndarray, level: float, picture: np.ndarray | None = None) -> None:
        """Fill a polygon, points (n, 2) x, y."""
        corners = np.round(np.asarray(points) * (SUPERSAMPLING * 16)).astype(np.int32)
        cv2.fillPoly(self.picture if picture is None else picture, [corners], float(level), shift=4)

    def line(self, points: np.ndarray, width: float, level: float) -> None:
        """Draw an open polyline, points (n, 2) x, y."""
        corners = np.round(np.asarray(points) * (SUPERSAMPLING * 16)).astype(np.int32)
        thickness = max(1, round(width * SUPERSAMPLING))
        cv2.polylines(self.picture, [corners], False, float(level), thickness, shift=4)


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


def _spots(canvas: Canvas, count: int, level: tuple[float, float], radius: tuple[float, float]) -> None:
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
    _spots(canvas, some(4.0), level=(-1.8, -0.6), radius=(0.6, 2.2))
    _buildings(canvas, some(0.5))
    for _ in range(some(0.3)):
        _wood(canvas)
    _trees(canvas, some(0.9))
    _poles(canvas, some(0.9))
    _spots(canvas, some(1.5), level=(2.0, 5.0), radius=(0.3, 0.7))
    canvas.picture += 0.06 * spectral_texture(rng, fine, beta=1.2, largest=30)
    if rng.random() < 0.3:
        _haze(canvas)
    return canvas.picture


def _speckle(rng: Rng, shape: tuple[int, int], stretch: tuple[float, float]) -> np.ndarray:
    """Fine texture of zero mean and unit deviation whose bright points stand out, as those of leaves and stones do."""
    texture = spectral_texture(rng, shape, rng.uniform(1.4, 2.4), rng.uniform(*stretch), largest=rng.uniform(6, 30))
    lit = np.exp(rng.uniform(-0.2, 0.5) * texture)
    return (lit - lit.mean()) / lit.std()


def rough_scene(rng: Rng, shape: tuple[int, int], density: float) -> np.ndarray:
    """Country as `ground_scene`'s, but nothing in it is smooth: woods, scrub and gravel down to single pixels."""
    fine = shape[0] * SUPERSAMPLING, shape[1] * SUPERSAMPLING
    canvas = Canvas(rng, shape, rng.uniform(0.1, 0.5) * spectral_texture(rng, fine, rng.uniform(2.6, 3.2), stretch=2.0))
    units = density * shape[0] * shape[1] / 128**2
    upright, grain = _speckle(rng, fine, (0.25, 0.6)), _speckle(rng, fine, (0.8, 2.5))

    def some(mean: float) -> int:
        return int(rng.poisson(mean * units))

    field = spectral_texture(rng, fine, beta=3.0, stretch=rng.uniform(1.5, 5.0))
    kinds = int(rng.integers(3, 7))
    classes = np.digitize(field, np.quantile(field[::4, ::4], np.sort(rng.uniform(0.05, 0.95, kinds - 1))))
    levels = rng.normal(0, 0.7, kinds).astype(np.float32)
    roughness = np.exp(rng.uniform(np.log(0.05), np.log(0.6), kinds)).astype(np.float32)
    wooded = (rng.random(kinds) < 0.5)[classes]
    canvas.picture += cv2.GaussianBlur(levels[classes], (0, 0), 0.5 * SUPERSAMPLING)
    canvas.picture += roughness[classes] * np.where(wooded, upright, grain)
    for _ in range(rng.integers(0, 3)):  # gravel and quarries
        over = spectral_texture(rng, fine, beta=rng.uniform(2.4, 3.0), stretch=rng.uniform(1.5, 4.0))
        over = np.clip(4 * (over - np.quantile(over[::4, ::4], 1 - rng.uniform(0.01, 0.12))), 0, 1)
        canvas.picture += over * (rng.uniform(-0.5, 3.5) + rng.uniform(0.5, 1.8) * grain)
    _roads(canvas, some(0.5))
    _spots(canvas, some(4.0), level=(-1.8, -0.6), radius=(0.4, 2.2))
    _buildings(canvas, some(0.3))
    before = canvas.picture.copy()
    _trees(canvas, some(0.7))
    trees = canvas.picture != before
    canvas.picture[trees] += rng.uniform(0.1, 0.5) * upright[trees]
    _poles(canvas, some(0.6))
    _spots(canvas, some(3.0), level=(1.0, 4.0), radius=(0.3, 0.7))
    if rng.random() < 0.2:
        _haze(canvas)
    return canvas.picture


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
    _spots(canvas, int(rng.poisson(5 * units)), level=(1.5, 4.0), radius=(0.3, 0.7))
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
    "rough": rough_scene,
    "sky": sky_scene,
    "sea": sea_scene,
    "overcast": overcast_scene,
    "horizon": horizon_scene,
}


def paint_scene(rng: Rng, kind: str, shape: tuple[int, int], density: float, lens: float) -> np.ndarray:
    """Scene of a kind for `shape` frame pixels -> float32 (rows, columns) x SUPERSAMPLING.

    `lens` is the blur of the optics, a deviation in frame pixels.
    """
    return cv2.GaussianBlur(SCENES[kind](rng, shape, density), (0, 0), lens * SUPERSAMPLING)


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
