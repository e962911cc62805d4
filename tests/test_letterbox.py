"""The letterbox: sizes of the specification, Pillow's bicubic, boxes there and back."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.cli import UserError
from utils.letterbox import Letterbox

# A loaded machine is no fault of the code.
UNHURRIED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

sizes = st.tuples(st.integers(64, 900), st.integers(64, 900))
inputs = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda hw: (32 * hw[0], 32 * hw[1]))
modes = st.sampled_from(["letterbox", "stretch"])


@st.composite
def boxes_in(draw, size):
    h, w = size
    x1, y1 = draw(st.integers(0, w - 2)), draw(st.integers(0, h - 2))
    return x1, y1, draw(st.integers(x1 + 1, w)), draw(st.integers(y1 + 1, h)), draw(st.integers(0, 3))


@st.composite
def letterbox_with_boxes(draw):
    letterbox = Letterbox(draw(sizes), draw(inputs), draw(modes))
    boxes = draw(st.lists(boxes_in(letterbox.image_size), min_size=1, max_size=5))
    return letterbox, np.array(boxes, np.float32)


@pytest.mark.parametrize(
    "image_size, input_size, new_size, offset",
    [
        ((256, 256), (512, 512), (512, 512), (0, 0)),
        ((480, 720), (512, 512), (341, 512), (85, 0)),  # IRDST
        ((480, 640), (512, 512), (384, 512), (64, 0)),  # ITSDT-15K
        ((256, 320), (256, 512), (256, 320), (0, 96)),
        ((300, 100), (512, 512), (512, 170), (0, 171)),
    ],
)
def test_known_sizes(image_size, input_size, new_size, offset):
    letterbox = Letterbox(image_size, input_size)
    assert (letterbox.new_size, letterbox.offset) == (new_size, offset)


def test_stretch_fills_the_input():
    letterbox = Letterbox((100, 300), (512, 256), "stretch")
    assert (letterbox.new_size, letterbox.offset) == ((512, 256), (0, 0))
    boxes = letterbox.boxes_to_input(np.array([[30, 10, 60, 20, 1]], np.float32))
    np.testing.assert_array_equal(boxes, [[25, 51, 51, 102, 1]])  # 25.6, 51.2, 51.2, 102.4 truncated


@pytest.mark.parametrize(
    "image_size, input_size", [((48, 72), (64, 64)), ((300, 200), (96, 128)), ((64, 64), (64, 64))]
)
def test_image_is_the_releases(image_size, input_size):
    grey = np.random.default_rng(0).integers(0, 256, image_size, dtype=np.uint8)
    letterbox = Letterbox(image_size, input_size)
    (nh, nw), (dy, dx) = letterbox.new_size, letterbox.offset
    canvas = Image.new("RGB", (input_size[1], input_size[0]), (128, 128, 128))
    canvas.paste(Image.fromarray(grey).convert("RGB").resize((nw, nh), Image.Resampling.BICUBIC), (dx, dy))
    for channel in np.moveaxis(np.asarray(canvas), 2, 0):
        np.testing.assert_array_equal(letterbox.image(grey), channel)


def test_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected a"):
        Letterbox((10, 20), (32, 32)).image(np.zeros((20, 10), np.uint8))


def test_boxes_are_truncated_clipped_and_dropped():
    letterbox = Letterbox((480, 720), (512, 512))  # scales 0.7111 and 0.7104, dy = 85
    boxes = np.array(
        [
            [10, 20, 30, 41, 2],  # 7.11, 99.2, 21.3, 114.1
            [700, 470, 740, 500, 0],  # reaches outside: clipped at x = 512 only, below is padding
            [10, 10, 11, 40, 0],  # 0.7 pixels across: 7.1 and 7.8 both become 7
            [10, 10, 12, 40, 0],  # 7.1 and 8.5: 1 pixel across
        ],
        np.float32,
    )
    before = boxes.copy()
    boxes.setflags(write=False)
    result = letterbox.boxes_to_input(boxes)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[7, 99, 21, 114, 2], [497, 418, 512, 440, 0]])
    np.testing.assert_array_equal(boxes, before)


def test_no_boxes():
    assert Letterbox((10, 20), (32, 32)).boxes_to_input(np.zeros((0, 5), np.float32)).shape == (0, 5)


@UNHURRIED
@given(letterbox_with_boxes())
def test_boxes_come_back_within_one_input_pixel(case):
    letterbox, boxes = case
    (h, w), (nh, nw) = letterbox.image_size, letterbox.new_size
    for box in boxes:
        there = letterbox.boxes_to_input(box[None])
        if len(there):
            back = letterbox.boxes_to_image(there[:, :4].astype(np.float64))
            error = box[:4] - back[0]  # truncation moves a corner to the left and up, by less than a pixel
            assert (error > -1e-6).all()
            assert (error < np.array([w / nw, h / nh] * 2) + 1e-6).all()
            assert there[0, 4] == box[4]


@UNHURRIED
@given(letterbox_with_boxes())
def test_boxes_to_image_is_the_exact_inverse(case):
    letterbox, boxes = case
    (h, w), (nh, nw), (dy, dx) = letterbox.image_size, letterbox.new_size, letterbox.offset
    image_boxes = boxes[:, :4].astype(np.float64)
    input_boxes = image_boxes * [nw / w, nh / h, nw / w, nh / h]
    input_boxes = input_boxes + [dx, dy, dx, dy]
    kept = input_boxes.copy()
    np.testing.assert_allclose(letterbox.boxes_to_image(input_boxes), image_boxes, atol=1e-9)
    np.testing.assert_array_equal(input_boxes, kept)
    tensor = torch.from_numpy(input_boxes).float()
    back = letterbox.boxes_to_image(tensor)
    assert isinstance(back, torch.Tensor) and back.dtype == torch.float32
    np.testing.assert_allclose(back.numpy(), image_boxes, atol=2e-3)


def test_boxes_to_image_are_clipped():
    letterbox = Letterbox((480, 640), (512, 512))
    outside = np.array([[-20.0, 0.0, 600.0, 512.0]])
    np.testing.assert_allclose(letterbox.boxes_to_image(outside), [[0, 0, 640, 480]])
    np.testing.assert_allclose(letterbox.boxes_to_image(torch.from_numpy(outside)), [[0, 0, 640, 480]])
    assert letterbox.boxes_to_image(torch.zeros(0, 4)).shape == (0, 4)


def test_impossible_letterboxes_are_refused():
    with pytest.raises(UserError, match="one side would vanish"):
        Letterbox((1, 2000), (512, 512))
    with pytest.raises(UserError, match="expected letterbox or stretch"):
        Letterbox((10, 10), (32, 32), "squeeze")
