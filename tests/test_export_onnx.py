"""ONNX files: what ONNX Runtime gives is what PyTorch gives, in every form, through the commands too."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import vid_map_coco
import vid_predict
from nets import SSTNet, StreamingForm, VideoStream
from utils import export_onnx, onnx_graph
from utils.annotations import load_annotations
from utils.checkpoint import DEFAULT_WEIGHTS, LoadedNetwork, checkpoint_of, load_network, save_weights
from utils.cli import UserError, run_command
from utils.clips import normalise_frames
from utils.detections import Detections, cell_boxes, postprocess
from utils.detector import Detector, open_network
from utils.onnx_network import Form, OnnxNetwork, Suppression
from utils.speed import measure_speed, speed_sample
from utils.synthetic_dataset import write_dataset
from utils.synthetic_presets import PRESETS
from utils.video import open_source

ROOT = Path(__file__).resolve().parents[1]
VIDEO = ROOT / "tests" / "data" / "drone_ir" / "IR_AIRPLANE_045.mp4"
SIZE = (64, 96)


def small_network(num_frames: int, num_classes: int = 1, frame_interval: int = 1) -> SSTNet:
    """Random weights, and BatchNorms that do something, so that all outputs differ."""
    torch.manual_seed(num_frames)
    model = SSTNet(num_classes, num_frames, num_slices=0, depth=0.1, width=0.0625, frame_interval=frame_interval)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.3)
    return model.eval()


def run(main, config, *argv: object) -> int:
    """A command in this process; its exit status."""
    with pytest.raises(SystemExit) as stop:
        run_command(main, config, [str(word) for word in argv])
    return stop.value.code


def sequence_of(folder: Path) -> Path:
    """The folder of the 50 frames."""
    (sequence,) = (folder / "data" / "images" / "train").iterdir()
    return sequence


def export(weights: Path, output: Path, *flags: object) -> Path:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    assert run(export_onnx.main, export_onnx.Config, "--weights", weights, "--output", output, *flags) == 0
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of two networks, and a folder of frames."""
    folder = tmp_path_factory.mktemp("export")
    save_weights(folder / "three.pth", small_network(3, frame_interval=3), ("target",), SIZE)
    save_weights(folder / "five.pth", small_network(5, num_classes=2, frame_interval=2), ("plane", "bird"), SIZE)
    write_dataset(folder / "data", PRESETS["easy"], seed=1, sequences=(1, 0), frames=50, frame_size=SIZE)
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> Path:
    """Clips of 3 frames, every third of a video, in, raw output out."""
    return export(folder / "three.pth", folder / "plain.onnx")


@pytest.fixture(scope="module")
def streaming(folder) -> Path:
    """A frame and the cache of 5, every second of a video, in, detections of two classes out."""
    return export(folder / "five.pth", folder / "streaming.onnx", "--streaming", "--nms", 0.5, "--min-confidence", 0.1)


@pytest.fixture(scope="module")
def told(folder) -> Path:
    """A file made of weights that say everything that weights can say."""
    content = checkpoint_of(small_network(2), ("plane",), SIZE, intensity=(1000.0, 1510.0))
    content |= {"frame_scales": [1.5, 2.0], "confidence": 0.26, "provenance": {"data": "synthetic", "epochs_done": 7}}
    torch.save(content, folder / "told.pth")
    return export(folder / "told.pth", folder / "told.onnx", "--streaming")


@pytest.fixture(scope="module")
def deployed(folder, told) -> Path:
    """The same weights, which know the size of their targets, with suppression inside."""
    flags = ("--streaming", "--nms", 0.65, "--min-confidence", 0.2)
    return export(told.with_suffix(".pth"), folder / "deployed.onnx", *flags)


@pytest.fixture(scope="module")
def shipped(folder) -> Path:
    """The project's own weights, a frame and the cache of 5 in."""
    return export(DEFAULT_WEIGHTS, folder / "shipped.onnx", "--streaming")


@pytest.fixture(scope="module")
def deep(folder) -> Path:
    """The frames in 16 bits and a window of 510 counts."""
    root = shutil.copytree(folder / "data", folder / "deep")
    for path in root.rglob("*.bmp"):
        Image.fromarray(1000 + 2 * np.array(Image.open(path)).astype(np.uint16)).save(path.with_suffix(".png"))
        path.unlink()
    for path in root.rglob("*2017.json"):
        path.write_text(path.read_text().replace(".bmp", ".png"))
    return root


def real_frames(size: tuple[int, int]) -> list[np.ndarray]:
    """50 consecutive grey frames of a real video, cut to `size` (h, w) round its target."""
    x, y, w, h = json.loads(VIDEO.with_name("boxes.json").read_text())[VIDEO.stem]["boxes"][0]
    top, left = int(y + (h - size[0]) / 2), int(x + (w - size[1]) / 2)
    frames = [frame.image[top : top + size[0], left : left + size[1]] for frame in islice(open_source(str(VIDEO)), 50)]
    assert len(frames) == 50 and {frame.shape for frame in frames} == {size}
    return frames


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """The frames that the small networks see."""
    return real_frames(SIZE)


def test_a_step_of_the_streaming_form_is_a_step_of_the_stream():
    model = small_network(4)
    form = StreamingForm(model)
    frames = torch.randn(50, 2, 3, 32, 64)  # two streams; the second begins anew at frame 20
    cache = tuple(torch.full_like(part, torch.nan) for part in form.empty_cache(2, (32, 64)))
    found = []
    with torch.no_grad():
        for number, pair in enumerate(frames):
            output, *cache = form(pair, torch.tensor([number == 0, number in (0, 20)]), *cache)
            found.append(output)
    found = torch.stack(found)
    second = torch.cat([model.forward_video(part) for part in frames[:, 1].split([20, 30])])
    for expected, outputs in ((model.forward_video(frames[:, 0]), found[:, 0]), (second, found[:, 1])):
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_streaming_form_of_a_clip_of_two():
    model = small_network(2)
    form, stream = StreamingForm(model), VideoStream(model)
    cache = form.empty_cache(1, (32, 32))
    for number, frame in enumerate(torch.randn(3, 1, 3, 32, 32)):
        output, *cache = form(frame, torch.tensor([number == 0]), *cache)
        torch.testing.assert_close(output, stream.push(frame), rtol=1e-4, atol=1e-5)


class MeanNeck(nn.Module):
    """A neck of a user's own, whose halves have as many channels as the maps."""

    def __init__(self, channels: int):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def reference_half(self, features: Tensor) -> Tensor:
        return self.mix(features)

    def forward(self, features: Sequence[Tensor], reference_halves: Sequence[Tensor] | None = None) -> Tensor:
        return features[-1] + sum(reference_halves or map(self.reference_half, features[:-1]))


def test_a_neck_of_ones_own_streams(tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    model = small_network(3)
    model.neck = MeanNeck(model.extractor.out_channels)
    (graph,) = onnx_graph.build_graphs(LoadedNetwork(model, ("target",), (32, 64)), Form(streaming=True))
    (tmp_path / "own.onnx").write_bytes(graph.SerializeToString())
    frames = torch.randn(4, 3, 32, 64)
    found = OnnxNetwork(tmp_path / "own.onnx").stream().push(frames)
    torch.testing.assert_close(found, model.forward_video(frames), rtol=1e-4, atol=1e-5)


def test_any_batch_and_size_through_the_plain_file(plain):
    model = load_network(plain.with_name("three.pth")).model
    file = OnnxNetwork(plain)
    for shape in ((1, 3, 3, 32, 32), (4, 3, 3, 96, 64)):
        clips = torch.randn(shape)
        (found,) = file.run([clips.numpy()])
        with torch.no_grad():
            expected = model(clips).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "size"), [("shipped", (96, 128)), ("told", SIZE)])
def test_raw_outputs_of_a_stream_are_equal_over_50_real_frames(name, size, request):
    """A clip of 5 at the published width, with weights that were trained; a clip of 2, narrow."""
    file = request.getfixturevalue(name)
    frames = normalise_frames(torch.from_numpy(np.stack(real_frames(size))))
    weights = DEFAULT_WEIGHTS if name == "shipped" else file.with_suffix(".pth")
    expected = load_network(weights).model.forward_video(frames)
    found = OnnxNetwork(file).stream().push(frames)
    assert len({output.numpy().tobytes() for output in expected}) == 50  # no two frames alike
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("repeat", [False, True], ids=["clips", "key frame repeated"])
def test_the_detector_finds_the_same_in_50_frames(plain, images, repeat):
    protocol = {"min_confidence": 0.2, "repeat_key_frame": repeat, "chunk": 7}
    check_detector(plain, plain.with_name("three.pth"), images, protocol)


@pytest.mark.parametrize("repeat", [False, True], ids=["clips", "key frame repeated"])
def test_the_detector_finds_the_same_in_50_frames_streamed(streaming, images, repeat):
    protocol = {"min_confidence": 0.2, "nms": 0.5, "repeat_key_frame": repeat}
    check_detector(streaming, streaming.with_name("five.pth"), images, protocol)


def check_detector(file: Path, weights: Path, images: list[np.ndarray], protocol: dict) -> None:
    """The same detections from the file as from the weights it was made of, twice: a stream starts afresh."""
    detector = Detector.from_file(file, **protocol)
    expected = list(Detector.from_file(weights, **protocol).stream(images))
    assert sum(map(len, expected)) > 50
    for _ in range(2):
        for ours, theirs in zip(detector.stream(images), expected, strict=True):
            check_rows(rows_of(ours), rows_of(theirs))


def rows_of(found: Detections) -> np.ndarray:
    """x1, y1, x2, y2, score, class of each detection."""
    return np.column_stack([found.boxes, found.scores, found.classes])


def check_rows(ours: np.ndarray, theirs: np.ndarray, pixels: float = 0.01, score: float = 1e-4) -> None:
    """The same rows (four of the box, score, an integer), but for rounding, which may exchange two of equal score."""
    assert len(ours) == len(theirs)
    distance = (np.abs(ours[:, None] - theirs) / [pixels, pixels, pixels, pixels, score, 1e-4]).max(-1)  # in tolerances
    assert not len(ours) or distance.min(0).max() < 1
    assert sorted(distance.argmin(0)) == list(range(len(ours)))


def test_vid_predict_runs_it(plain, folder, tmp_path):
    results = []
    for weights in (plain, folder / "three.pth"):
        arguments = ("--weights", weights, "--source", sequence_of(folder), "--output", tmp_path / weights.name)
        assert run(vid_predict.main, vid_predict.Config, *arguments, "--confidence", 0.2, "--device", "cpu") == 0
        results.append(json.loads((tmp_path / weights.name / "detections.json").read_text()))
    ours, theirs = (np.array([[*row["bbox"], row["score"], row["image_id"]] for row in rows]) for rows in results)
    assert len(theirs) > 20
    check_rows(ours, theirs, pixels=0.02, score=2e-3)  # they are written rounded


def test_the_evaluation_runs_it_and_times_it(plain, folder):
    data = folder / "data"
    annotations = load_annotations(data / "annotations" / "instances_train2017.json", data)
    ours, theirs = (Detector.from_file(path, min_confidence=0.2) for path in (plain, folder / "three.pth"))
    results = [detector.detect(annotations, progress=False) for detector in (ours, theirs)]
    found, expected = (np.array([[*row["bbox"], row["score"], row["image_id"]] for row in rows]) for rows in results)
    assert len(expected) > 50
    check_rows(found, expected)
    speed = measure_speed(ours, speed_sample(annotations, 3))
    assert speed["device"].startswith("ONNX Runtime, CPUExecutionProvider") and speed["fps_network"] > 0


@pytest.mark.parametrize(
    ("file", "weights", "protocol"),
    [("streaming", "five.pth", {"nms": 0.5, "min_confidence": 0.1}), ("deployed", "told.pth", {"min_confidence": 0.2})],
)
@pytest.mark.parametrize("margin", [0, 10])  # frames of the trained size, and others that are letterboxed
def test_the_loop_of_the_documentation_finds_the_same(file, weights, protocol, margin, folder, request):
    """The Python block of docs/export.md, run as it stands."""
    path = request.getfixturevalue(file)  # or the test is skipped
    images = real_frames((SIZE[0] + margin, SIZE[1]))[:12]
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    packages = {"json", "math", "numpy", "onnxruntime", "PIL"}
    assert set(re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)) == packages
    namespace: dict = {}
    exec(block, namespace)
    found = list(namespace["detect"](str(path), images))
    expected = list(Detector.from_file(folder / weights, **protocol).stream(images))
    assert sum(map(len, expected)) > 20
    for rows, theirs in zip(found, expected, strict=True):
        check_rows(rows, rows_of(theirs))


def test_what_weights_say_is_in_the_file_made_of_them(told):
    weights, file = load_network(told.with_suffix(".pth")), open_network(told)
    for field in fields(LoadedNetwork):
        value = getattr(weights, field.name)
        if field.name == "model":
            assert file.model.description.architecture == value.architecture
            assert (file.model.num_frames, file.model.description.stride) == (value.num_frames, value.stride)
            continue
        usual = field.default_factory() if field.default_factory is not MISSING else field.default
        assert value != usual, f"these weights do not say their {field.name}"
        assert getattr(file, field.name) == value, field.name


def test_commands_do_with_the_file_what_they_do_with_the_weights(told, deep, tmp_path):
    """16-bit frames in a window, enlarged, and shown from a confidence on: nothing of it asked for."""
    (source,) = (deep / "images" / "train").iterdir()
    results: dict[str, list[np.ndarray]] = {}
    for weights in (told, told.with_suffix(".pth")):
        output = tmp_path / weights.name
        flags = ("--weights", weights, "--device", "cpu", "--output")
        shows = (*flags, output / "shown", "--source", source, "--save", "frames")
        assert run(vid_predict.main, vid_predict.Config, *shows) == 0
        shown = json.loads((output / "shown" / "detections.json").read_text())
        annotations = ("--annotations", deep / "annotations" / "instances_train2017.json", "--data-root", deep)
        quick = ("--no-report", "--speed-frames", 0, "--resamples", 0, "--min-confidence", 0.26)
        assert run(vid_map_coco.main, vid_map_coco.Config, *flags, output, *annotations, *quick) == 0
        protocol = json.loads((output / "metrics.json").read_text())["protocol"]
        assert protocol["intensity"] == [1000, 1510] and protocol["input_size"] == [96, 160]
        scored = json.loads((output / "detections.json").read_text())
        results[weights.suffix] = [
            np.array([[*row["bbox"], row["score"], row["image_id"]] for row in rows]) for rows in (shown, scored)
        ]
    for ours, theirs in zip(results[".onnx"], results[".pth"], strict=True):
        assert len(theirs) > 50
        check_rows(ours, theirs, pixels=0.02, score=2e-3)  # they are written rounded


def test_a_file_that_does_not_say_them_means_what_it_meant(told, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(told)
    said = {entry.key: entry.value for entry in model.metadata_props}
    older = {key: said[key] for key in said.keys() - {"intensity", "frame_scales", "confidence", "provenance"}}
    for name, metadata in (("older", older), ("odd", said | {"intensity": "[2, 1]"})):
        onnx.helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / f"{name}.onnx")
    network = open_network(tmp_path / "older.onnx")
    found = (network.intensity, network.frame_scales, network.confidence, network.provenance)
    assert found == ("full", None, None, {}) and network.class_names == ("plane",)
    with pytest.raises(UserError, match=r"odd\.onnx.*intensity 2"):
        open_network(tmp_path / "odd.onnx")


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_suppression_inside_is_the_protocols(num_classes):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from utils.onnx_graph import suppression_graph

    rng = np.random.default_rng(num_classes)
    corner = rng.uniform(0, 60, (3, 400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 24, (3, 400, 2))], axis=-1)
    scores, classes = rng.uniform(0, 1, (3, 400, 1)), rng.integers(num_classes, size=(3, 400, 1))
    rows = np.concatenate([boxes, scores, classes], axis=-1).astype(np.float32)
    rows[0, 0, 2] = np.inf  # a box that overflowed, as the best
    rows[2, 0, 0] = -2e5  # and one that goes too far
    rows[2, 1, 1] = np.nan
    rows[0, 0, 4] = rows[2, :2, 4] = 1
    rows[0, 1, 4] = np.float32(0.3)  # just enough
    rows[1, :, 4] = 0.2  # nothing in this image
    for iou, count in ((0.65, 100), (0.3, 20), (0.7, 500)):
        suppression = Suppression(iou, 0.3, count)
        model = suppression_graph(suppression, num_classes).SerializeToString()
        (found,) = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"candidates": rows})
        assert found.shape == (3, count, 6)
        for ours, expected in zip(found, postprocess(torch.from_numpy(rows), 0.3, iou, count), strict=True):
            np.testing.assert_array_equal(ours[: len(expected)], expected.numpy())
            assert not ours[len(expected) :].any()
        assert found[0, :, 4].any() and not found[1].any()


def test_what_the_file_has_dropped_cannot_be_asked_for(streaming):
    for flags in ({"nms": 0.65}, {"nms": 0.5, "min_confidence": 0.05}, {"nms": 0.5, "max_detections": 101}):
        with pytest.raises(UserError, match="export without --nms"):
            Detector.from_file(streaming, **{"min_confidence": 0.1, **flags})


def test_a_file_that_computes_something_else_is_not_written(plain, folder, tmp_path, monkeypatch, capsys):
    """The graph of one network against the weights of another: an error, and the older file untouched."""
    onnx = pytest.importorskip("onnx")
    other = small_network(3)
    nn.init.normal_(other.head.obj_preds[0].weight)
    save_weights(tmp_path / "other.pth", other, ("target",), SIZE)
    monkeypatch.setattr(export_onnx, "build_graphs", lambda *_: [onnx.load(plain)])
    (tmp_path / "model.onnx").write_text("older")
    flags = ("--weights", tmp_path / "other.pth", "--output", tmp_path / "model.onnx")
    assert run(export_onnx.main, export_onnx.Config, *flags) == 2
    assert re.fullmatch(r"error: no file written: at 1 x 64 x 96 .* outputs differ .*\n", capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"other.pth", "model.onnx"}
    assert (tmp_path / "model.onnx").read_text() == "older"


def test_suppression_hides_no_difference(folder, tmp_path, monkeypatch, capsys):
    """Where nothing reaches the least confidence on noise, what is suppressed is compared before."""
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    onnx = pytest.importorskip("onnx")
    graphs = onnx_graph.build_graphs(load_network(folder / "three.pth"), Form(decode=True, suppression=Suppression()))
    for graph in graphs:
        for weight in graph.graph.initializer:
            if weight.name.startswith("model.head.reg_convs"):
                weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    monkeypatch.setattr(export_onnx, "build_graphs", lambda *_: graphs)
    flags = ("--weights", folder / "three.pth", "--output", tmp_path / "model.onnx")
    assert run(export_onnx.main, export_onnx.Config, *flags, "--nms", 0.65, "--min-confidence", 1) == 2
    assert "no file written" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_differences_of_decoded_boxes_are_seen():
    torch.manual_seed(0)
    raw = torch.randn(2, 8, 4, 4)
    form = Form(decode=True)
    assert max(export_onnx._differences(cell_boxes(raw), raw, form)[0].values()) == 0
    changes = ((2, "boxes", 1.0), (1, "boxes", torch.nan), (4, "scores", 0.01), (5, "classes", None))
    for column, name, change in changes:
        wrong = cell_boxes(raw)
        wrong[1, 7, column] = (wrong[1, 7, column] + 1) % 3 if change is None else wrong[1, 7, column] + change
        differences, words = export_onnx._differences(wrong, raw, form)
        assert [kind for kind, value in differences.items() if value > export_onnx.LIMIT] == [name] and name in words


def test_differences_of_detections_are_seen():
    torch.manual_seed(0)
    raw = 3 * torch.randn(2, 6, 8, 8)
    inside = Suppression(0.65, 0.001, 40)
    kept = postprocess(raw, inside.min_confidence, inside.nms, inside.max_detections)
    found = torch.stack([torch.cat([rows, torch.zeros(40 - len(rows), 6)]) for rows in kept])
    form = Form(decode=True, suppression=inside)
    assert export_onnx._differences(found, raw, form)[0] == {"detections": 0}
    found[:, :5, 0] += 1
    assert export_onnx._differences(found, raw, form)[0]["detections"] > 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "model.pt"), "ends in .onnx"),
        (("--min-confidence", 0.1), "--min-confidence is for --nms"),
        (("--nms", 1.5), "--nms 1.5 is not between 0 and 1"),
        (("--nms", 0.5, "--min-confidence", 0), "not above 0"),
        (("--nms", 0.5, "--max-detections", 0), "less than 1"),
    ],
)
def test_flags_that_make_no_sense(folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert run(export_onnx.main, export_onnx.Config, "--weights", folder / "three.pth", *flags) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_the_extras_a_line_says_what_to_install(folder, tmp_path, monkeypatch, capsys):
    for package in ("onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    flags = ("--weights", folder / "three.pth", "--output", tmp_path / "model.onnx")
    assert run(export_onnx.main, export_onnx.Config, *flags) == 2
    assert re.fullmatch(r"error: .*onnxscript.*pip install -r requirements-export.txt\n", capsys.readouterr().err)
    flags = ("--weights", tmp_path / "model.onnx", "--source", sequence_of(folder))
    assert run(vid_predict.main, vid_predict.Config, *flags, "--output", tmp_path) == 2
    assert re.fullmatch(r"error: .*onnxruntime.*pip install -r requirements-export.txt\n", capsys.readouterr().err)


def test_files_that_are_no_networks_of_ours(tmp_path):
    pytest.importorskip("onnxruntime")
    onnx, parser = pytest.importorskip("onnx"), pytest.importorskip("onnx.parser")
    (tmp_path / "damaged.onnx").write_bytes(b"no protobuf")
    text = '<ir_version: 8, opset_import: ["" : 18]> other (float[n] x) => (float[n] y) { y = Abs (x) }'
    onnx.save(parser.parse_model(text), tmp_path / "other.onnx")
    for name, message in (("missing", "no such file"), ("damaged", "a damaged one"), ("other", "its format is None")):
        with pytest.raises(UserError, match=message):
            OnnxNetwork(tmp_path / f"{name}.onnx")
