"""The failure gallery: which failures it chooses, which belong together, and what its pictures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation_cases import DETECTIONS, TARGETS, detection, ground_truth
from utils.annotations import load_annotations
from utils.clips import clip_places
from utils.contrast import box_scr, measure_contrasts
from utils.drawing import COLOURS
from utils.evaluation import Scored, score
from utils.gallery import ANNOTATED, CELL, Gallery, choose_cases, save_page


def test_cases_by_hand():
    misses, alarms = choose_cases(score(ground_truth(TARGETS, 2), DETECTIONS), 5)
    assert [(case.frame, case.box.tolist(), case.confidence) for case in misses] == [(1, [40, 40, 8, 8], -np.inf)]
    # 0.8 far off; 0.6 is the second box on a target.
    assert [(case.frame, case.confidence, case.frames) for case in alarms] == [(0, 0.8, 1), (0, 0.6, 1)]
    assert all(len(cases) == 1 for cases in choose_cases(score(ground_truth(TARGETS, 2), DETECTIONS), 1))


def test_the_worst_miss_comes_first_and_of_equal_ones_the_clearest():
    coco = ground_truth([(1, 1, 10, 10, 8, 8), (1, 1, 50, 10, 8, 8), (1, 1, 90, 10, 8, 8)], 1)
    results = [detection(1, 1, 10, 10, 8, 8, 0.3)]  # not confident enough
    misses, _ = choose_cases(score(coco, results, scr=[9.0, 2.0, 5.0]), 3)
    assert [(case.box[0], case.confidence, case.scr) for case in misses] == [
        (90, -np.inf, 5.0),
        (50, -np.inf, 2.0),
        (10, 0.3, 9.0),
    ]


def moving(steps: list[tuple[int, float]]) -> Scored:
    """Targets (frame, x) in frames 1..40 of which none is found."""
    coco = ground_truth([(frame, 1, x, 40, 8, 8) for frame, x in steps], 40)
    return score(coco, [], include_empty_frames=True)


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [
        ([(n, 10 + 5.0 * n) for n in range(1, 11)], [10]),  # one target on its way
        ([(1, 10.0), (2, 60.0), (3, 110.0)], [1, 1, 1]),  # too far apart
        ([(1, 10.0), (6, 20.0), (12, 30.0)], [2, 1]),  # 5 frames later, then 6
        ([(1, 10.0), (30, 12.0)], [2]),  # the same place after any time
        ([(10, 10.0), (2, 10.0), (9, 10.0)], [3]),  # frames 2, 9, 10 in natural order
    ],
)
def test_failures_that_belong_together_are_one_case(steps, sizes):
    misses, _ = choose_cases(moving(steps), 10)
    assert sorted((case.frames for case in misses), reverse=True) == sizes


def test_two_failures_in_one_frame_are_one_frame():
    coco = ground_truth([(1, 1, 10, 10, 8, 8)], 1)
    results = [detection(1, 1, x, 60, 8, 8, 0.9) for x in (80, 88)]
    _, alarms = choose_cases(score(coco, results), 3)
    assert [case.frames for case in alarms] == [1]


def test_sequences_do_not_mix():
    coco = ground_truth([(1, 1, 10, 10, 8, 8), (2, 1, 10, 10, 8, 8)], 2)
    coco["images"][1]["file_name"] = "test/b/2.bmp"
    misses, _ = choose_cases(score(coco, []), 5)
    assert [case.frames for case in misses] == [1, 1]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    """Seven frames 100 x 200 of one sequence, a target found in frame 6 and missed in frame 7."""
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(1, 8):
        frame = rng.integers(60, 90, (100, 200), dtype=np.uint8)
        frame[22:25, 32 + n : 35 + n] = 250
        Image.fromarray(frame).save(folder / f"{n}.bmp")
    names = "".join(f"test/a/{n}.bmp {30 + n},20,{38 + n},28,0\n" for n in range(1, 8))
    (tmp_path / "list.txt").write_text(names)
    annotations = load_annotations(tmp_path / "list.txt", tmp_path)
    results = [detection(n, 1, 30 + n, 20, 8, 8, 0.9) for n in range(1, 7)]
    results.append(detection(7, 1, 46, 30, 8, 8, 0.75))
    return Gallery(score(annotations.coco, results, scr=measure_contrasts(annotations)), annotations, clip_places(5))


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).sum() > 20)


def test_a_strip_shows_the_clip_with_what_was_annotated_and_found(gallery, tmp_path):
    misses, alarms = choose_cases(gallery.scored, 5)
    strip = gallery.strip(misses[0])
    assert strip.title == "missed in a/7.bmp" and "nothing within 3 pixels" in strip.text and "SCR" in strip.text
    assert [cell.name for cell in strip.cells] == [f"{n}.bmp" for n in range(3, 8)]
    assert {cell.picture.shape for cell in strip.cells} == {(CELL, CELL, 3)}
    *before, key = (cell.picture for cell in strip.cells)
    assert all(has(p, ANNOTATED) and has(p, COLOURS["hit"]) and not has(p, COLOURS["miss"]) for p in before)
    assert has(key, COLOURS["miss"]) and has(key, COLOURS["false alarm"]) and not has(key, COLOURS["hit"])
    assert gallery.strip(alarms[0]).title == "false alarm in a/7.bmp"
    save_page(tmp_path / "page.png", [strip, gallery.strip(alarms[0])])
    assert Image.open(tmp_path / "page.png").size[0] > 5 * CELL


def test_the_first_frame_is_repeated_and_the_window_stays_inside(gallery):
    case = replace(choose_cases(gallery.scored, 1)[0][0], frame=0, box=np.array([196.0, 96, 4, 4]))
    strip = gallery.strip(case)
    assert [cell.name for cell in strip.cells] == ["1.bmp"] * 5


def test_contrast_is_measured_where_it_is_not_stated(gallery, tmp_path):
    annotations = load_annotations(tmp_path / "list.txt", tmp_path)
    annotations.coco["annotations"][0]["scr"] = 7.5
    annotations.coco["annotations"][1]["iscrowd"] = 1
    (tmp_path / "test" / "a" / "3.bmp").unlink()
    values = measure_contrasts(annotations)
    assert values[0] == 7.5 and np.isnan(values[1:3]).all()
    # The 3 x 3 core at 250 over noise of mean 74.5 and deviation 8.66 (30 equally likely values).
    assert np.array(values[3:]) == pytest.approx(np.full(4, (250 - 74.5) / 8.66), rel=0.05)


def test_contrast_of_boxes_at_the_border_and_of_none():
    frame = np.random.default_rng(1).integers(60, 90, (50, 60), dtype=np.uint8)
    assert box_scr(frame, [-4, -4, 8, 8]) > 0
    assert np.isnan(box_scr(frame, [60, 10, 8, 8])) and np.isnan(box_scr(frame, [0, 0, 60, 50]))
    assert np.isnan(box_scr(frame, [10.2, 10, 0.1, 8]))
