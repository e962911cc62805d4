"""What synthetic scenes are drawn with: texture, and a canvas finer than the frames that are taken of it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy import fft

SUPERSAMPLING = 2
LENS_SIGMA = 0.45  # blur of the optics, frame pixels

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
