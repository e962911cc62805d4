"""Tracks: links by prediction, gaps, short tracks, their score and their line, on cases worked out by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from utils.cli import UserError
from utils.detections import Detections
from utils.drawing import COLOURS, Annotator, Mark
from utils.overlay import TRAIL, Trails
from utils.track_score import TrackScore
from utils.tracking import TrackSettings, track_frames
from utils.video import Frame

Points = list[tuple[float, float]]


def found(points: Points, labels: list[int] | None = None) -> Detections:
    """Detections 4 x 4 centred on points."""
    centres = np.array(points, np.float32).reshape(-1, 2)
    classes = np.array(labels if labels is not None else [0] * len(centres), np.int64)
    return Detections(np.hstack([centres - 2, centres + 2]), np.full(len(centres), 0.9, np.float32), classes)


def sequence(frames: Iterable[Points | Detections], run: int = 0) -> Iterator[tuple[Frame, Detections]]:
    for index, points in enumerate(frames, start=1):
        frame = Frame(index, f"{index}.png", Path(f"{index}.png"), np.zeros((4, 4), np.uint8), run)
        yield frame, points if isinstance(points, Detections) else found(points)


def numbers(frames: Iterable[Points | Detections], **settings) -> list[list[int]]:
    """The track numbers of each frame."""
    return [tracks.tolist() for _, _, tracks in track_frames(sequence(frames), TrackSettings(**settings))]


def test_a_target_that_moves_by_more_than_its_size_is_one_track():
    assert numbers([[(10 + 11 * n, 20)] for n in range(8)]) == [[1]] * 8


def test_a_step_beyond_reach_starts_a_track():
    assert numbers([[(10, 20)], [(22, 20)], [(40.1, 20)]]) == [[1], [1], [1]]  # 6.1 pixels from 34
    assert numbers([[(10, 20)], [(22.1, 20)]]) == [[1], [2]]
    assert numbers([[(10, 20)], [(22.1, 20)]], reach=13) == [[1], [1]]


def test_the_velocity_is_half_the_newest_step_and_half_the_one_before():
    """Steps of 2 and 8 pixels: 5 are expected next, so 25 at the fourth frame."""
    first = [[(10, 20)], [(12, 20)], [(20, 20)]]
    for place, number in ((18.4, 2), (18.6, 1), (31.4, 1), (31.6, 2)):
        assert numbers([*first, [(place, 20)]], reach=6.5) == [[1], [1], [1], [number]]


def test_crossing_targets_keep_their_numbers():
    """One goes right, one left, 2 pixels apart where they meet: the nearest place alone would swap them."""
    frames = [[(10 + 6 * n, 20), (70 - 6 * n, 22)] for n in range(11)]
    assert numbers(frames) == [[1, 2]] * 11


def test_misses_are_bridged_up_to_the_gap():
    steps = [[(10 + 3 * n, 20)] for n in range(3)]
    later = [[(10 + 3 * n, 20)] for n in range(6, 8)]  # absent in frames 4, 5, 6
    assert numbers([*steps, [], [], [], *later], gap=3) == [[1]] * 3 + [[]] * 3 + [[1]] * 2
    assert numbers([*steps, [], [], [], *later], gap=2) == [[1]] * 3 + [[]] * 3 + [[2]] * 2


def test_reach_grows_with_the_frames_without_detection():
    """After n of them sqrt(n + 1) times 12 pixels."""
    steps = [[(10, 20)], [(10, 20)], [], [], []]
    assert numbers([*steps, [(33, 20)]]) == [[1], [1], [], [], [], [1]]
    assert numbers([*steps, [(35, 20)]]) == [[1], [1], [], [], [], [2]]


@pytest.mark.parametrize("error", [UserError("7.png: cut"), KeyboardInterrupt(), SystemExit(143)])
def test_what_waits_when_the_frames_break_off_is_not_lost(error):
    def broken() -> Iterator[tuple[Frame, Detections]]:
        yield from sequence([[(10, 20)], [(10, 20), (60, 60)], [(10, 20)]])
        raise error

    kept = []
    with pytest.raises(type(error)):
        for entry in track_frames(broken(), TrackSettings(shortest=3)):
            kept.append(entry[2].tolist())
    assert kept == [[1], [1], [1]]


def test_short_tracks_are_dropped_and_numbers_count_the_others():
    frames = [[(80, 80), (10, 20)], [(11, 20)], [(12, 20)], [(13, 20), (60, 60)]]
    kept = list(track_frames(sequence(frames), TrackSettings(shortest=3)))
    assert [tracks.tolist() for _, _, tracks in kept] == [[1]] * 4
    assert [frame.index for frame, _, _ in kept] == [1, 2, 3, 4]
    assert [detections.boxes[:, 0].tolist() for _, detections, _ in kept] == [[8], [9], [10], [11]]


def test_of_two_claims_the_nearer_wins_and_as_many_as_possible_are_linked():
    assert numbers([[(10, 20), (30, 20)], [(31, 20), (12, 20)]]) == [[1, 2], [2, 1]]
    # The detection at 20 is in reach of both tracks, the one at 38 of the second alone.
    assert numbers([[(10, 20), (29, 20)], [(20, 20), (38, 20)]]) == [[1, 2], [1, 2]]


def test_classes_are_not_linked():
    assert numbers([found([(10, 20)], [0]), found([(10, 20)], [1])]) == [[1], [2]]


def test_runs_are_not_linked():
    frames = [*sequence([[(10, 20)]], run=0), *sequence([[(10, 20)]], run=1)]
    assert [tracks.tolist() for _, _, tracks in track_frames(frames, TrackSettings())] == [[1], [2]]


def test_what_is_held_back_is_bounded():
    """A false alarm in every frame, each undecided for 6 frames; of 300 frames few are alive at a time."""
    alive: list[weakref.ref] = []

    def endless() -> Iterator[tuple[Frame, Detections]]:
        for index in range(1, 301):
            frame = Frame(index, "", Path(), np.zeros((4, 4), np.uint8), 0)
            alive.append(weakref.ref(frame))
            yield frame, found([(1000 * index, 0)])

    most = 0
    for frame, detections, _ in track_frames(endless(), TrackSettings(gap=5, shortest=3)):
        assert len(detections) == 0
        if frame.index % 50 == 0:
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
    assert 0 < most <= (3 - 1) * (5 + 1) + 2


@pytest.mark.parametrize("settings", [{"reach": 0.0}, {"reach": float("inf")}, {"gap": -1}, {"shortest": 0}])
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match="--track-reach"):
        TrackSettings(**settings)


def test_track_score_by_hand():
    score = TrackScore()
    steps = [  # annotated tracks, found tracks, the target that each hits
        ([7, 8], [1, 2], [0, -1]),
        ([7, 8], [1, 3], [0, 1]),
        ([7, 8], [], []),
        ([7, 8], [4], [0]),  # 7 is hit by another than before: a switch
        ([7], [1], [0]),  # and back: another
        ([8], [3], [0]),
        ([8], [], []),
    ]
    for annotated, tracks, target in steps:
        score.add(*(np.array(column, np.int64) for column in (annotated, tracks, target)))
    metrics = score.metrics()
    assert metrics.identity_switches == 2
    assert metrics.annotated_tracks == 2 and metrics.track_pd == 0.5  # 7 in 4 of 5 frames, 8 in 2 of 6
    assert (metrics.found_tracks, metrics.false_tracks) == (4, 1)  # 2 never hit anything
    assert TrackScore().metrics().track_pd == 0.0


def test_trails_follow_their_tracks_and_are_forgotten():
    trails = Trails()
    for n in range(TRAIL + 10):
        lines = trails.follow(np.array([5]), found([(n, 3)]).boxes)
    assert len(lines[0]) == TRAIL and lines[0][-1].tolist() == [TRAIL + 9, 3]
    for _ in range(TRAIL + 1):
        assert trails.follow(np.zeros(0, np.int64), np.zeros((0, 4))) == []
    assert len(trails.follow(np.array([5]), found([(0, 0)]).boxes)[0]) == 1


def test_a_trail_fades_and_covers_no_target():
    grey = np.full((60, 100), 50, np.uint8)
    trail = np.array([[10.0 + 10 * n, 30] for n in range(8)])
    target = np.array([78.0, 28, 82, 32])
    rgb = Annotator(insets=False).draw(grey, [Mark(target, "hit", "", trail)])
    blue = rgb[30, :, 2].astype(int)
    assert (blue[:10] == 50).all() and (rgb[28:32, 78:82] == 50).all()
    assert 50 < blue[15] < blue[35] < blue[65] <= COLOURS["hit"][2]
    assert (rgb[20] == 50).all()
