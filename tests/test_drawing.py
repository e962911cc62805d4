"""Drawing: marks where they belong, and never a pixel of a target covered."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.drawing import COLOURS, MAGNIFICATION, Annotator, Mark, text_masks


def scene(height: int = 128, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 120, (height, width), np.uint8)


def box(x: float, y: float, w: float = 8, h: float = 8) -> np.ndarray:
    return np.array([x, y, x + w, y + h])


def painted(grey: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Mask of the pixels that drawing changed."""
    return (rgb != grey[..., None]).any(axis=-1)


marks_anywhere = st.lists(
    st.builds(
        lambda x, y, w, h, kind, text: Mark(box(x, y, w, h), kind, text),
        st.floats(-4, 158),
        st.floats(-4, 126),
        st.floats(0.5, 20),
        st.floats(0.5, 20),
        st.sampled_from(list(COLOURS)),
        st.sampled_from(["", "0.87", "false 0.62", "miss"]),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(marks=marks_anywhere, insets=st.booleans())
def test_no_pixel_of_any_target_is_covered(marks, insets):
    grey = scene()
    changed = painted(grey, Annotator(insets).draw(grey, marks))
    for mark in marks:
        x1, y1, x2, y2 = mark.box
        rows = slice(max(int(np.floor(y1)), 0), max(int(np.ceil(y2)), 0))
        columns = slice(max(int(np.floor(x1)), 0), max(int(np.ceil(x2)), 0))
        assert not changed[rows, columns].any()


def test_a_frame_without_marks_stays_as_it_is():
    grey = scene(37, 51)
    rgb = Annotator().draw(grey, [])
    assert rgb.shape == (37, 51, 3) and rgb.dtype == np.uint8
    assert not painted(grey, rgb).any()


def test_corners_are_one_pixel_wide_and_two_pixels_off_the_box():
    grey = scene()
    rgb = Annotator(insets=False).draw(grey, [Mark(box(40, 50), "hit")])
    expected = np.zeros(grey.shape, bool)
    near, far_x, far_y, leg = 3, 40 + 8 + 2, 50 + 8 + 2, 4
    for y in (50 - near, far_y):
        expected[y, 40 - near : 40 - near + leg] = expected[y, far_x + 1 - leg : far_x + 1] = True
    for x in (40 - near, far_x):
        expected[50 - near : 50 - near + leg, x] = expected[far_y + 1 - leg : far_y + 1, x] = True
    np.testing.assert_array_equal(painted(grey, rgb), expected)
    assert (rgb[expected] == COLOURS["hit"]).all()


def test_a_miss_is_told_from_a_detection_without_colour():
    grey = scene()
    shapes = {
        kind: painted(grey, Annotator(insets=False).draw(grey, [Mark(box(40, 50), kind)])) for kind in ("hit", "miss")
    }
    assert shapes["hit"][47, 37] and not shapes["miss"][47, 37]  # the corner
    assert shapes["miss"][47, 44] and not shapes["hit"][47, 44]  # the middle of the upper side


def test_text_stands_beside_the_mark_inside_the_picture():
    grey = np.zeros((128, 160), np.uint8)
    for x, y in ((70, 60), (0, 0), (152, 120), (152, 0), (0, 120)):
        bare = Annotator(insets=False).draw(grey, [Mark(box(x, y))])
        labelled = Annotator(insets=False).draw(grey, [Mark(box(x, y), text="0.87")])
        rows, columns = np.nonzero((bare != labelled).any(axis=-1))
        assert len(rows) > 30
        distance = max(np.abs(rows.mean() - (y + 4)), np.abs(columns.mean() - (x + 4)))
        assert 7 < distance < 40


def test_texts_do_not_overlap():
    grey = np.zeros((128, 160), np.uint8)

    def text_pixels(texts: list[str]) -> int:
        marks = [Mark(box(60 + 11 * i, 60), "detection", text) for i, text in enumerate(texts)]
        return int((Annotator(insets=False).draw(grey, marks) > 0).any(axis=-1).sum())

    bare = text_pixels(["", "", ""])
    each = [text_pixels([text if i == k else "" for i in range(3)]) - bare for k, text in enumerate(["0.91"] * 3)]
    assert text_pixels(["0.91"] * 3) - bare == sum(each) and min(each) > 30


def inset_of(grey: np.ndarray, rgb: np.ndarray, side: int) -> np.ndarray:
    """The inset in the upper right corner."""
    size = side * MAGNIFICATION
    return rgb[3 : 3 + size, grey.shape[1] - 3 - size : grey.shape[1] - 3]


def test_an_inset_shows_the_target_four_times_as_large():
    grey = scene(256, 320)
    rgb = Annotator().draw(grey, [Mark(box(100, 150), "hit")])
    side = 16
    crop = grey[146:162, 96:112]  # 16 x 16 pixels around the centre (104, 154)
    enlarged = cv2.resize(crop, (side * MAGNIFICATION, side * MAGNIFICATION), interpolation=cv2.INTER_CUBIC)
    inset = inset_of(grey, rgb, side)
    np.testing.assert_array_equal(inset[16:48, 16:48], np.repeat(enlarged[16:48, 16:48, None], 3, axis=2))
    border = rgb[2, 320 - 4 - 64 : 320 - 2]
    assert (border == COLOURS["hit"]).all()


def test_an_inset_stays_where_it_is_while_the_target_moves_and_leaves_before_it_hides_it():
    grey = scene(256, 320)
    annotator = Annotator()
    corner = []
    for x in range(100, 300, 4):
        rgb = annotator.draw(grey, [Mark(box(x, 30), "hit")])
        corner.append(bool((rgb[2, 300] == COLOURS["hit"]).all()))
    assert corner[0] and not corner[-1]
    assert sum(a != b for a, b in zip(corner[:-1], corner[1:], strict=True)) == 1


def test_several_insets_are_numbered_and_at_most_four():
    grey = np.full((256, 320), 90, np.uint8)
    marks = [Mark(box(60 + 30 * i, 120), "detection", "0.90") for i in range(7)]
    rgb = Annotator().draw(grey, marks)
    frames = sum(
        (rgb[top : top + 2, left : left + 64] == COLOURS["detection"]).all(axis=-1).any(axis=0).sum() >= 60
        for top in (2, 188)
        for left in (3, 253)
    )
    assert frames == 4
    one = Annotator().draw(grey, marks[:1])
    assert (one[5:16, 255:262] == 90).all()  # one inset needs no number


def test_a_large_box_gets_no_inset_and_a_tiny_picture_is_drawn():
    grey = scene(256, 320)
    rgb = Annotator().draw(grey, [Mark(box(60, 60, 90, 90), "detection")])
    assert painted(grey, rgb).sum() < 4 * 2 * 12 + 1
    tiny = scene(9, 7)
    assert Annotator().draw(tiny, [Mark(box(2, 2, 3, 3), "hit", "0.99")]).shape == (9, 7, 3)


@pytest.mark.parametrize(("one", "other"), [("цель", "дрон"), ("στόχος", "κινούμ"), ("é", "à")])
def test_names_in_other_scripts_are_no_empty_boxes(one, other):
    masks = [text_masks(text, 14)[0] for text in (one, other)]
    assert masks[0].shape != masks[1].shape or not np.array_equal(*masks)


def test_a_character_that_no_font_has_is_drawn_as_something():
    assert text_masks("\U0010fffd", 14)[0].any()
