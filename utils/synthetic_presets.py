"""Scene models of synthetic sequences: what a sequence draws its own values from, and the presets."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class SceneModel:
    """Ranges that every sequence draws its own values from; lengths in pixels, levels in grey levels."""

    scenes: tuple[tuple[str, float], ...]  # kind of scene, its share
    scr: Range
    target_size: Range  # extent (four sigma) of a target
    targets: tuple[int, int]  # at the same time
    distractors: tuple[int, int]  # stand still on the ground
    speed: Range  # of a target relative to the background, a frame
    frame_size: tuple[int, int] = (256, 256)  # height and width of the frames where no other is asked for
    amplitude: Range = (15.0, 250.0)  # of a target's centre above its surroundings
    turn: float = 1.5  # deviation of a heading's rate, degrees a frame
    confined: bool = False  # targets turn back before they leave the frame; a fast camera or target may not make it
    band: Range = (0.0, 1.0)  # rows of the frame that targets begin in, and confined ones keep to, shares of its height
    occlusion: float = 0.0  # share of targets that pass behind something
    box_side: int | None = None  # fixed box, where the target fits; None: its size plus `box_margin` on every side
    box_margin: float = 1.75
    box_jitter: float = 0.0  # deviation of a box's centre from the target's
    density: float = 1.0  # structures on the ground
    camera_speed: Range = (0.1, 0.6)  # a frame
    camera_jitter: Range = (0.05, 0.2)
    camera_slew: Range = (0.0, 0.0)  # mean speed, a frame, of the turns by which an operator steers
    followed: float = 0.0  # share of targets on whose heading the camera is steered
    rotation: Range = (0.0, 1.5)  # degrees
    zoom: Range = (0.0, 0.02)  # fraction
    mean: Range = (127.5, 127.5)  # of every frame, before what is too dark or too bright is cut off
    deviation: Range = (17.0, 26.0)  # of the background
    noise: Range = (1.5, 2.5)
    columns: Range = (0.3, 1.2)  # fixed column pattern
    pattern: Range = (0.0, 0.0)  # noise of pixels that stands still in the frame
    stuck: tuple[int, int] = (0, 0)  # distractors that stand still in the frame, as dirt and repaired pixels do
    shaded: float = 0.0  # share of the distractors on the ground that have a dark side
    dead_pixels: tuple[int, int] = (0, 2)
    vignetting: Range = (0.0, 0.1)  # loss in the corners, fraction


PRESETS = {
    "easy": SceneModel(
        scenes=(("ground", 0.4), ("sky", 0.35), ("sea", 0.25)),
        scr=(4.0, 8.0),
        target_size=(3.0, 5.0),
        targets=(1, 2),
        distractors=(0, 1),
        speed=(1.0, 2.0),
        occlusion=0.2,
    ),
    "daub": SceneModel(
        scenes=(("ground", 1.0),),
        scr=(1.0, 5.0),
        target_size=(0.8, 2.4),
        targets=(1, 1),
        distractors=(0, 3),
        speed=(0.18, 0.9),
        amplitude=(60.0, 300.0),
        confined=True,
        occlusion=0.05,
        box_side=8,
        box_jitter=0.4,
        camera_speed=(0.0, 0.15),
        camera_jitter=(0.01, 0.08),
        camera_slew=(0.4, 1.8),
        followed=0.9,
        rotation=(0.0, 0.3),
        zoom=(0.0, 0.005),
        deviation=(18.0, 55.0),
        noise=(0.7, 2.4),
        columns=(0.8, 1.6),
        vignetting=(0.0, 0.05),
    ),
    "hard": SceneModel(
        scenes=(("ground", 0.6), ("sky", 0.2), ("sea", 0.2)),
        scr=(2.5, 5.0),
        target_size=(3.0, 5.0),
        targets=(1, 3),
        distractors=(4, 7),
        speed=(1.0, 2.0),
        occlusion=0.6,
        camera_speed=(0.1, 0.8),
        camera_jitter=(0.05, 0.3),
        noise=(2.0, 4.0),
    ),
    "irdst": SceneModel(
        scenes=(("overcast", 0.5), ("sky", 0.15), ("horizon", 0.2), ("ground", 0.15)),
        scr=(1.5, 8.0),
        target_size=(3.0, 6.0),
        targets=(1, 2),
        distractors=(0, 2),
        speed=(0.6, 3.0),
        frame_size=(480, 720),
        amplitude=(15.0, 250.0),
        occlusion=0.1,
        box_margin=1.5,
        box_jitter=0.3,
        camera_speed=(0.5, 4.0),
        camera_jitter=(0.1, 0.8),
        rotation=(0.0, 1.0),
        zoom=(0.0, 0.02),
        mean=(75.0, 125.0),
        deviation=(20.0, 50.0),
        noise=(0.2, 1.2),
        columns=(0.1, 0.6),
    ),
    "sky": SceneModel(
        scenes=(("horizon", 1.0),),
        scr=(1.5, 45.0),
        target_size=(1.8, 4.5),
        targets=(1, 1),
        distractors=(0, 1),
        speed=(0.03, 0.7),
        frame_size=(256, 320),
        amplitude=(40.0, 220.0),
        confined=True,
        band=(0.04, 0.78),
        box_margin=3.75,
        box_jitter=0.4,
        camera_speed=(0.0, 0.02),
        camera_jitter=(0.0, 0.02),
        rotation=(0.0, 0.0),
        zoom=(0.0, 0.0),
        mean=(60.0, 115.0),
        deviation=(36.0, 72.0),
        noise=(0.02, 0.2),
        columns=(0.0, 0.3),
        pattern=(0.05, 2.0),
        dead_pixels=(0, 0),
        vignetting=(0.0, 0.05),
    ),
}
