"""Synthetic infrared sequences with small moving targets: one sequence, from background to annotations.

A sequence is made of a scene that stands still, a camera that drifts over it, targets that move relative to the scene,
distractors that look the same but do not, occluders, and a sensor; real footage can take the place of scene, camera
and sensor. Everything is drawn from one random generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from utils.scr import measure_scr
from utils.synthetic_background import crop_scene, paint_scene
from utils.synthetic_camera import Camera, make_sensor, plan_camera, take_frames
from utils.synthetic_canvas import Rng
from utils.synthetic_footage import Footage, annotated_blobs, round_to_grey, track_camera
from utils.synthetic_occluders import paint_occluder
from utils.synthetic_presets import Range, SceneModel
from utils.synthetic_targets import (
    INSIDE,
    Blob,
    calibrate,
    hide,
    make_blob,
    paint,
    plan_track,
    still_track,
    stuck_track,
)


@dataclass(frozen=True)
class Track:
    """What is annotated of one target: frames (n,) and their boxes (n, 4) x1, y1, x2, y2 and measured SCR (n,)."""

    frames: np.ndarray
    boxes: np.ndarray
    scr: np.ndarray
    asked_scr: float | None  # None: annotated in footage, never painted


@dataclass(frozen=True)
class Sequence:
    """Frames (N, H, W) uint8 and the tracks of their targets."""

    frames: np.ndarray
    tracks: tuple[Track, ...]
    scene: str


def make_sequence(
    rng: Rng, model: SceneModel, frames: int, frame_size: tuple[int, int], picture: np.ndarray | None = None
) -> Sequence:
    """Draw one sequence of a scene model, before a scene of its own or, if given, a real picture (h, w)."""
    camera = plan_camera(
        rng,
        frames,
        frame_size,
        speed=rng.uniform(*model.camera_speed),
        jitter=rng.uniform(*model.camera_jitter),
        turn=rng.uniform(*model.rotation),
        zoom=rng.uniform(*model.zoom),
        slew=rng.uniform(*model.camera_slew) if model.camera_slew[1] else 0.0,
    )
    kinds, shares = zip(*model.scenes, strict=True)
    kind = str(rng.choice(kinds, p=np.array(shares) / sum(shares)))
    if picture is None:
        scene = paint_scene(rng, kind, camera.scene_size, model.density)
    else:
        scene = crop_scene(rng, picture, camera.scene_size)
    sensor = make_sensor(
        rng,
        frames,
        frame_size,
        deviation=_scale(rng, model.deviation),
        noise=_scale(rng, model.noise),
        columns=rng.uniform(*model.columns),
        pattern=_scale(rng, model.pattern),
        dead_pixels=int(rng.integers(model.dead_pixels[0], model.dead_pixels[1] + 1)),
        vignetting=rng.uniform(*model.vignetting),
        mean=_scale(rng, model.mean),
    )
    levels = sensor.expose(take_frames(scene, camera))
    blobs = _place_blobs(rng, model, camera, levels, [])
    cover = _occlude(rng, model, camera, scene, kind, blobs)
    if cover is not None:
        levels = sensor.expose(take_frames(scene, camera))
    return Sequence(*_finish(rng, levels, blobs, cover, sensor.read_out), kind)


def make_sequence_in(rng: Rng, model: SceneModel, footage: Footage) -> Sequence:
    """Paint targets and distractors of a scene model into real footage; the tracks annotated in it stay, first."""
    camera = track_camera(footage.frames)
    levels = footage.frames.astype(np.float32)
    annotated = annotated_blobs(footage)
    blobs = _place_blobs(rng, model, camera, levels, annotated)
    frames, tracks = _finish(rng, levels, blobs, None, round_to_grey)
    return Sequence(frames, (*(_track(blob, frames) for blob in annotated), *tracks), "footage")


def _scale(rng: Rng, limits: Range) -> float:
    """A ratio or level between two limits, uniform in its logarithm; limits that are one need no draw."""
    if limits[0] == limits[1]:
        return limits[0]
    return float(np.exp(rng.uniform(*np.log(limits))))


def _place_blobs(rng: Rng, model: SceneModel, camera: Camera, levels: np.ndarray, present: list[Blob]) -> list[Blob]:
    """Targets, one after another in each of several slots, and distractors, apart from each other and those present."""
    blobs: list[Blob] = []
    frames = len(levels)

    def place(path: Callable[[float], np.ndarray], moving: bool, shaded: float = 0.0) -> Blob:
        return _best_blob(rng, model, camera, levels, [*present, *blobs], path, moving, shaded)

    for _ in range(rng.integers(model.targets[0], model.targets[1] + 1)):
        start = 0
        while start <= frames - 8:
            enters = not model.confined and (start > 0 or rng.random() < 0.5)
            enters = enters and model.speed[1] * (frames - start) > INSIDE  # or it would never be seen
            track = partial(
                plan_track,
                rng,
                camera,
                start,
                enters,
                model.turn,
                model.confined,
                band=model.band,
                followed=bool(model.followed) and rng.random() < model.followed,
            )
            blob = place(track, True)
            if not blob.shown.any():
                start += 8
                continue
            blobs.append(blob)
            start = int(np.flatnonzero(blob.shown)[-1]) + 1 + int(rng.integers(3, 12))
    still = ((still_track, model.distractors, model.shaded), (stuck_track, model.stuck, 0.0))
    for track, (fewest, most), shaded in still:
        for _ in range(rng.integers(fewest, most + 1)):
            blob = place(lambda speed, track=track: track(rng, camera), False, shaded)
            if blob.shown.any():
                blobs.append(blob)
    return blobs


def _best_blob(
    rng: Rng,
    model: SceneModel,
    camera: Camera,
    levels: np.ndarray,
    others: list[Blob],
    path: Callable[[float], np.ndarray],
    moving: bool,
    shaded: float,
    tries: int = 12,
) -> Blob:
    """The candidate, of several, that keeps clear of the others and reaches its SCR; `path` draws one for a speed."""
    best, best_fault = None, np.inf
    scr = _scale(rng, model.scr)
    extent = rng.uniform(*model.target_size)
    side = max(model.box_side, round(extent)) if model.box_side else round(extent + 2 * model.box_margin)
    speed = _scale(rng, model.speed)
    for _ in range(tries):
        blob = make_blob(rng, camera, path(speed), extent, side, model.box_jitter, scr, moving, shaded)
        fault = _crowding(blob, others, side)
        if blob.shown.sum() < min(8, len(levels) // 2) or fault > best_fault:
            fault += 10.0
        elif fault < 1:
            measured = calibrate(rng, blob, levels)
            fault += abs(np.log(np.median(measured) / scr)) + 0.2 * np.abs(np.log(measured / scr)).mean()
            amplitude = np.median(blob.amplitude[blob.shown])
            fault += abs(np.log(amplitude / np.clip(amplitude, *model.amplitude)))
        if fault < best_fault:
            best, best_fault = blob, fault
        if best_fault < 0.12:
            break
    return best


def _crowding(blob: Blob, others: list[Blob], side: int) -> float:
    """0 when a blob keeps more than a box and its ring's half from the others, up to 2 when it meets one."""
    clear = side + 6.0
    worst = 0.0
    for other in others:
        both = blob.shown & other.shown
        if both.any():
            nearest = np.hypot(*(blob.centre[both] - other.centre[both]).T).min()
            worst = max(worst, 2 * (1 - nearest / clear))
    return worst


def _occlude(
    rng: Rng, model: SceneModel, camera: Camera, scene: np.ndarray, kind: str, blobs: list[Blob]
) -> np.ndarray | None:
    """Draw occluders on the way of some targets; returns their cover (N, H, W) of every frame.

    As many stand where no target passes, so that an occluder does not give a target away.
    """
    mask = np.zeros_like(scene)
    for blob in blobs:
        shown = np.flatnonzero(blob.shown)
        if not blob.moving or len(shown) < 16 or rng.random() >= model.occlusion:
            continue
        middle = int(shown[int(len(shown) * rng.uniform(0.35, 0.65))])
        pace = np.hypot(*(blob.scene[middle] - blob.scene[middle - 1]))
        width = max(3.0, pace * rng.uniform(3, 7))
        paint_occluder(rng, kind, scene, mask, blob.scene[middle], width)
        decoy = rng.uniform(0, 1, 2) * camera.scene_size[::-1]
        paint_occluder(rng, kind, scene, mask, decoy, width)
    if not mask.any():
        return None
    cover = np.clip(take_frames(mask, camera), 0, 1)
    for blob in blobs:
        hide(blob, cover)
    return cover


def _finish(
    rng: Rng,
    levels: np.ndarray,
    blobs: list[Blob],
    cover: np.ndarray | None,
    read_out: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, tuple[Track, ...]]:
    """Paint the blobs and read the sensor out: frames (N, H, W) uint8, and the targets as measured in them."""
    blobs = [blob for blob in blobs if blob.shown.any()]
    painted = levels.copy()
    for blob in blobs:
        calibrate(rng, blob, levels, cover)
        paint(blob, painted, cover)
    for blob in blobs:  # again, now that the others stand in its surroundings
        paint(blob, painted, cover, sign=-1)
        calibrate(rng, blob, painted, cover)
        paint(blob, painted, cover)
    frames = read_out(painted)
    return frames, tuple(_track(blob, frames) for blob in blobs if blob.moving)


def _track(blob: Blob, frames: np.ndarray) -> Track:
    """What is annotated of a target, with its SCR in the frames as written."""
    shown = np.flatnonzero(blob.shown)
    scr = np.array([measure_scr(frames[k], blob.boxes[k]) for k in shown])
    return Track(shown, blob.boxes[shown], scr, blob.asked_scr)
