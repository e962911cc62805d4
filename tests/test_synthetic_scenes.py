"""Backgrounds of synthetic sequences: texture, and what tells one kind of scene from another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from utils.synthetic_background import SCENES, paint_scene
from utils.synthetic_canvas import SUPERSAMPLING, spectral_texture


def test_texture_lies_along_its_tilt():
    texture = spectral_texture(np.random.default_rng(0), (256, 256), beta=2.5, stretch=5.0, tilt=30.0)
    power = np.abs(np.fft.fft2(texture)) ** 2
    fy, fx = np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]
    mid = (np.hypot(fx, fy) > 0.05) & (np.hypot(fx, fy) < 0.3)
    twice = 2 * np.arctan2(fy + 0 * fx, fx + 0 * fy)[mid]  # of an axis: directions that differ by half a turn are one
    axis = np.rad2deg(np.angle((power[mid] * np.exp(1j * twice)).sum()) / 2)
    assert axis % 180 == pytest.approx(120, abs=5)  # the spectrum is long across the streaks


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_texture_has_the_spectrum_asked_for(beta):
    texture = spectral_texture(np.random.default_rng(0), (256, 256), beta)
    assert texture.mean() == pytest.approx(0, abs=1e-3)
    assert texture.std() == pytest.approx(1, abs=1e-2)
    power = np.abs(np.fft.fft2(texture)) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    edges = np.geomspace(0.02, 0.4, 9)
    level = [power[(radius >= low) & (radius < high)].mean() for low, high in pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(level), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.15)


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_are_finer_than_the_frames_and_finite(kind):
    scene = paint_scene(np.random.default_rng(1), kind, (96, 128), density=1.0)
    assert scene.shape == (96 * SUPERSAMPLING, 128 * SUPERSAMPLING) and scene.dtype == np.float32
    assert np.isfinite(scene).all() and scene.std() > 0.1
