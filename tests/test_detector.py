"""Detections: decoding and NMS against the release's records, annotated clips against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nets import SSTNet
from utils.annotations import Annotations, FrameRecord
from utils.cli import UserError
from utils.clips import normalise_clips
from utils.detections import Detections, coco_results, postprocess
from utils.detector import Detector
from utils.frames import read_frame
from utils.letterbox import Letterbox

RECORDS = np.load(Path(__file__).parent / "reference" / "parts.npz")
INPUT_SIZE = (64, 96)
IMAGE_SIZE = (40, 48)
# Folder -> frame numbers; "jump" is two runs, and "still" is shorter than a clip.
SEQUENCES = {
    "jump": [0, 1, 2, 3, 4, 5, 6, 50, 51, 52, 53, 54, 55, 56],
    "long": list(range(12)),
    "still": [7, 8],
}


def recorded(case: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A record's boxes (n, 4) x1, y1, x2, y2 in image pixels, scores and classes."""
    rows = RECORDS[f"dec{case}_dets_top_left_bottom_right_obj_cls_label"]
    return rows[:, [1, 0, 3, 2]], rows[:, 4] * rows[:, 5], rows[:, 6]


def release_to_input(boxes: np.ndarray, image_size: np.ndarray, input_size: np.ndarray) -> np.ndarray:
    """Undo the release's own way back to the image, which rounds the letterboxed size, not truncates it."""
    scale = (input_size / image_size).min()
    new_size = np.round(image_size * scale)
    offset = (input_size - new_size) / 2
    return boxes * np.tile((new_size / image_size)[::-1], 2) + np.tile(offset[::-1], 2)


@pytest.mark.parametrize("case", range(4))
def test_postprocess_gives_the_recorded_detections(case):
    (found,) = postprocess(torch.from_numpy(RECORDS[f"dec{case}_raw"]), 0.3, 0.65, max_detections=10_000)
    boxes, scores, classes = recorded(case)
    expected = release_to_input(boxes, RECORDS[f"dec{case}_image_shape"], RECORDS[f"dec{case}_input_shape"])
    assert len(found) == len(boxes)
    np.testing.assert_allclose(found[:, :4], expected, atol=2e-3)
    np.testing.assert_allclose(found[:, 4], scores, rtol=1e-5)
    np.testing.assert_array_equal(found[:, 5], classes)


@pytest.mark.parametrize("case", range(4))
def test_boxes_come_back_to_the_recorded_place_in_the_image(case):
    (found,) = postprocess(torch.from_numpy(RECORDS[f"dec{case}_raw"]), 0.3, 0.65, max_detections=10_000)
    image_size, input_size = (tuple(RECORDS[f"dec{case}_{name}_shape"].tolist()) for name in ("image", "input"))
    height, width = image_size
    boxes = Letterbox(image_size, input_size).boxes_to_image(found[:, :4].numpy())
    expected = np.clip(recorded(case)[0], 0, [width, height, width, height])
    # The release undoes a letterbox that is up to a pixel of the input off the one it applied.
    exact = height == width
    tolerance = 2e-3 if exact else max(height / input_size[0], width / input_size[1])
    np.testing.assert_allclose(boxes, expected, atol=tolerance)


def test_postprocess_keeps_the_best_of_each_class_and_no_more_than_asked():
    output = torch.full((2, 7, 4, 4), -20.0)
    output[:, :4] = 0.0  # boxes of 8 pixels on every cell corner: no two of them overlap
    output[0, 4, 1, 1], output[0, 5, 1, 1] = 20.0, 20.0  # class 0 at column 1, row 1
    output[0, 4, 1, 2], output[0, 6, 1, 2] = 20.0, 0.0  # class 1 at column 2, row 1, score 1/2
    output[0, 0, 1, 2] = -1.0  # ... moved on to the same place: another class, so it stays
    output[0, 4, 2, 1], output[0, 5, 2, 1] = 20.0, 10.0  # class 0 at column 1, row 2,
    output[0, 1, 2, 1] = -0.9  # ... moved up over the first one: IoU 0.82, suppressed
    first, second = postprocess(output, min_confidence=0.4, nms=0.65)
    assert second.shape == (0, 6)
    expected = [[4, 4, 12, 12, 1, 0], [4, 4, 12, 12, 0.5, 1]]
    torch.testing.assert_close(first, torch.tensor(expected), atol=1e-4, rtol=0)
    assert len(postprocess(output, 0.4, nms=0.9)[0]) == 3
    assert postprocess(output, 0.4, 0.9, max_detections=2)[0][:, 4].min() > 0.99


@pytest.mark.parametrize("size", [1000.0, 16.0], ids=["infinite", "huge"])
def test_a_box_too_large_hides_no_other_nor_keeps_two_of_one(size):
    """With classes, which batched_nms keeps apart by the largest coordinate."""
    output = torch.zeros(1, 7, 4, 4)
    output[0, 6] = 1.0  # class 1
    output[0, 2, 0, 0], output[0, 5, 0, 0] = size, 2.0  # but for this one
    output[0, 0, 1, 2] = -0.9  # a box moved nearly onto its neighbour
    assert len(postprocess(output, 0.1)[0]) == 14


@pytest.fixture(scope="module")
def model() -> SSTNet:
    """A small network with weights large enough that every frame of a clip changes the output."""
    torch.manual_seed(0)
    model = SSTNet(num_frames=3, width=0.125)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for name, numbers in SEQUENCES.items():
        (root / name).mkdir()
        for number in numbers:
            Image.fromarray(rng.integers(0, 256, IMAGE_SIZE, np.uint8)).save(root / name / f"{number}.png")
    return root


def annotate(root: Path, names: list[str]) -> Annotations:
    """Annotations of the frames `names` in this order, each with one box."""
    records = tuple(
        FrameRecord(index + 1, name, root / name, np.array([[4, 4, 12, 12, 0]], np.float32))
        for index, name in enumerate(names)
    )
    return Annotations(root / "list.txt", records, ("target",), (7,), {})


def all_names() -> list[str]:
    return [f"{folder}/{number}.png" for folder, numbers in SEQUENCES.items() for number in numbers]


@pytest.fixture(scope="module", params=[1, 2], ids=["consecutive frames", "every second frame"])
def interval(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def expected_outputs(model, folders, interval) -> dict[str, torch.Tensor]:
    """What the network says of each frame's clip, built here by hand, one clip at a time."""
    letterbox = Letterbox(IMAGE_SIZE, INPUT_SIZE)
    outputs = {}
    for name in all_names():
        folder, number = name.split("/")[0], int(Path(name).stem)
        first = max(n for n in (SEQUENCES[folder][0], 50) if n <= number)
        clip = [max(number - age, first) for age in (2 * interval, interval, 0)]
        frames = [letterbox.image(read_frame(folders / folder / f"{n}.png")) for n in clip]
        with torch.inference_mode():
            outputs[name] = model(normalise_clips(torch.from_numpy(np.stack(frames))[None]))[0]
    return outputs


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.sampled_from(all_names()), min_size=1, unique=True), chunk=st.integers(1, 5))
def test_any_annotated_frames_see_the_clips_the_network_is_defined_by(
    model, folders, interval, expected_outputs, names, chunk
):
    detector = Detector(model, ("target",), INPUT_SIZE, chunk=chunk, frame_interval=interval)
    outputs = {index: output for index, output, _ in detector.raw_outputs(annotate(folders, names))}
    assert sorted(outputs) == list(range(len(names)))
    for index, output in outputs.items():
        torch.testing.assert_close(output, expected_outputs[names[index]], atol=1e-3, rtol=1e-4)


def test_clips_matter_more_than_the_tolerance(model, folders, expected_outputs):
    """The same key frame with another past gives another output, so the test above can fail."""
    detector = Detector(model, ("target",), INPUT_SIZE, repeat_key_frame=True)
    names = ["long/5.png", "long/0.png", "jump/50.png"]
    by_name = {names[index]: output for index, output, _ in detector.raw_outputs(annotate(folders, names))}
    assert (by_name["long/5.png"] - expected_outputs["long/5.png"]).abs().max() > 0.02
    for first in ("long/0.png", "jump/50.png"):  # first frames: their clip is the key frame repeated
        torch.testing.assert_close(by_name[first], expected_outputs[first], atol=1e-3, rtol=1e-4)


def test_each_frame_is_extracted_once_and_the_others_are_not_read(model, tmp_path, folders):
    """Needed: 2..4 for frame 4, 3..5 for frame 5; every other frame is damaged and would stop the reading."""
    (tmp_path / "long").mkdir()
    for number in SEQUENCES["long"]:
        content = (folders / "long" / f"{number}.png").read_bytes()
        (tmp_path / "long" / f"{number}.png").write_bytes(content if 2 <= number <= 5 else content[:60])
    extracted = []
    count = model.extractor.register_forward_hook(lambda module, args, out: extracted.append(len(args[0])))
    try:
        detector = Detector(model, ("target",), INPUT_SIZE, chunk=2)
        results = detector.detect(annotate(tmp_path, ["long/4.png", "long/5.png"]), progress=False)
    finally:
        count.remove()
    assert sum(extracted) == 4
    assert {result["image_id"] for result in results} <= {1, 2}


def test_stream_is_lazy_and_equal_to_the_annotated_way(model, folders):
    names = [f"long/{number}.png" for number in SEQUENCES["long"]]
    detector = Detector(model, ("target",), INPUT_SIZE, chunk=4, min_confidence=0.2)
    annotated = detector.detect(annotate(folders, names), progress=False)
    taken = []

    def frames():
        for name in names:
            taken.append(name)
            yield read_frame(folders / name)

    stream = detector.stream(frames())
    streamed = coco_results(next(stream), 1, (7,))
    assert len(taken) <= 2 * detector.chunk
    for image_id, detections in enumerate(stream, start=2):
        streamed += coco_results(detections, image_id, (7,))
    assert len(streamed) == len(annotated) > 0
    for one, other in zip(streamed, annotated, strict=True):
        assert one["image_id"] == other["image_id"] and one["category_id"] == other["category_id"] == 7
        np.testing.assert_allclose(one["bbox"] + [one["score"]], other["bbox"] + [other["score"]], atol=1e-3)


def test_live_stream_answers_before_the_next_frame(model, folders):
    frame = read_frame(folders / "long" / "0.png")

    def camera():
        yield frame
        raise AssertionError("asked for a second frame before the first was answered")

    detector = Detector(model, ("target",), INPUT_SIZE, chunk=1)
    assert isinstance(next(detector.stream(camera())), Detections)


def test_errors_name_what_is_wrong(model, folders, tmp_path):
    detector = Detector(model, ("target",), INPUT_SIZE)
    frames = [np.zeros((40, 48), np.uint8), np.zeros((48, 40), np.uint8)]
    with pytest.raises(UserError, match="frame 2 is 40 x 48 but the first one 48 x 40"):
        list(detector.stream(frames))
    assert list(detector.stream([])) == []
    for frame in (np.zeros((48, 40, 3), np.uint8), np.zeros((48, 40), np.float32)):
        with pytest.raises(UserError, match=r"expected grey \(h, w\) uint8"):
            next(iter(detector.stream([frame])))
    with pytest.raises(UserError, match="multiples of 32"):
        Detector(model, ("target",), (500, 500))
    with pytest.raises(UserError, match="2 .*drone, bird"):
        Detector(model, ("drone", "bird"), INPUT_SIZE).detect(annotate(folders, ["long/0.png"]))
    with pytest.raises(UserError, match="99.png: not among the frames"):
        detector.detect(annotate(folders, ["long/99.png"]), progress=False)


def test_coco_results_are_plain_numbers():
    detections = Detections(
        np.array([[1, 2, 5, 8], [0, 0, 2, 2]], np.float32),
        np.array([0.75, 0.25], np.float32),
        np.array([1, 0]),
    )
    assert coco_results(detections, 3, (10, 20)) == [
        {"image_id": 3, "category_id": 20, "bbox": [1.0, 2.0, 4.0, 6.0], "score": 0.75},
        {"image_id": 3, "category_id": 10, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.25},
    ]
