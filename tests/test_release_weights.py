"""Weight files to give away, and the commands that take the project's own where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vid_map_coco
import vid_predict
from nets import SSTNet
from tests.training_cases import SMALL, make_data, run
from utils import checkpoint, recalibrate, release_weights
from utils.checkpoint import checkpoint_of, load_network, save_weights
from utils.detector import Detector
from utils.letterbox import input_between
from utils.release_weights import Config, main


def network(spread: float = 1.0) -> SSTNet:
    """A tiny network with a motion branch, whose outputs are not nearly constant."""
    torch.manual_seed(0)
    model = SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.0625).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
            module.weight.data *= spread
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var *= spread**2
            module.eps *= spread**2
    return model


@pytest.fixture(scope="module")
def run_file(tmp_path_factory) -> Path:
    """last.pth of a run and its config.json, as far as a release reads them."""
    folder = tmp_path_factory.mktemp("run")
    settings = {**SMALL.to_json(), "data_root": "/home/me/data", "train_list": "/home/me/mixed.txt", "seed": 2023}
    content = checkpoint_of(network(), ("drone",), (64, 64), intensity=(0.0, 4095.0))
    content["training"] = {"settings": settings, "progress": {"epoch": 7}}
    torch.save(content, folder / "last.pth")
    facts = {"git": "abc1234", "packages": {"torch": "2.9.0"}, "command": ["train_DAUB.py", "--data-root", "/home/me"]}
    (folder / "config.json").write_text(json.dumps({"config": settings, "environment": facts}))
    return folder / "last.pth"


def release(capsys, *arguments: object) -> tuple[int, str, str]:
    return run(capsys, [str(word) for word in arguments], Config, main)


def test_a_small_file_that_says_everything(run_file, tmp_path, capsys):
    output = tmp_path / "new" / "small.pth"
    flags = ("--weights", run_file, "--data", "made up, CC0", "--confidence", 0.3, "--frame-scales", 1.5, 2)
    status, out, _ = release(capsys, *flags, "--output", output)
    assert status == 0 and f"{output}: 0." in out and "MB; read back, confidences differ by at most 0.00" in out

    content = torch.load(output, weights_only=True)
    kinds = {tensor.dtype for name, tensor in content["model"].items() if tensor.dim() > 1}
    assert kinds == {torch.float16} and not any(name.startswith("motion") for name in content["model"])
    assert content["model"]["extractor.backbone.stem.conv.bn.running_var"].dtype == torch.float32

    loaded = load_network(output)
    assert loaded.class_names == ("drone",) and loaded.input_size == (64, 64)
    assert loaded.intensity == (0, 4095) and loaded.frame_scales == (1.5, 2.0) and loaded.confidence == 0.3
    assert loaded.model.architecture["num_slices"] == 0 and loaded.model.motion_branch is None
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    said = loaded.provenance
    assert said["revision"] == "abc1234" and said["torch"] == "2.9.0" and said["data"] == "made up, CC0"
    settings = said["settings"]
    assert said["epochs_done"] == 7 and settings["seed"] == 2023 and settings["train_list"] == "mixed.txt"
    assert settings["width"] == SMALL.width and "depth" not in settings  # the defaults are left out
    assert "/home" not in json.dumps(said)

    clip = torch.randn(1, 3, 3, 64, 64)
    with torch.inference_mode():
        expected = load_network(run_file).model(clip)
        torch.testing.assert_close(loaded.model(clip), expected, rtol=0, atol=0.01 * expected.abs().max().item())

    assert release(capsys, *flags, "--output", tmp_path / "again.pth")[0] == 0
    assert (tmp_path / "again.pth").read_bytes() == output.read_bytes()
    assert release(capsys, "--weights", output, "--output", tmp_path / "twice.pth")[0] == 0  # a release of a release
    twice = load_network(tmp_path / "twice.pth")
    assert (twice.provenance, twice.confidence, twice.frame_scales) == (said, 0.3, (1.5, 2.0))


def test_a_release_of_recalibrated_weights_says_so(run_file, tmp_path, capsys):
    words = ["--weights", run_file, "--data-root", make_data(tmp_path / "data"), "--device", "cpu", "--clips", 8]
    recalibrated = run_file.with_name("recalibrated.pth")
    words = [str(word) for word in (*words, "--output", recalibrated)]
    assert run(capsys, words, recalibrate.Config, recalibrate.main)[0] == 0
    content = torch.load(recalibrated, weights_only=True)
    said = release_weights.provenance(content, Config(recalibrated, tmp_path / "small.pth"))
    assert said["statistics"] == "8 clips of whole frames, data instances_train2017.json"
    assert said["epochs_done"] == 7 and said["revision"] == "abc1234"


def test_files_that_must_not_be_given_away(run_file, tmp_path, capsys, monkeypatch):
    output = tmp_path / "small.pth"
    output.write_bytes(b"the older file")
    steep = network()
    steep.head.reg_preds[0].weight.data *= 1e4  # a rounded kernel then moves boxes
    huge = network(spread=1e7)
    odd = ((huge, "values beyond the range of half precision"), (steep, "half precision changes confidences"))
    for model, message in odd:
        save_weights(tmp_path / "odd.pth", model, ("drone",), (64, 64))
        status, _, error = release(capsys, "--weights", tmp_path / "odd.pth", "--output", output)
        assert status == 2 and "odd.pth: " in error and message in error and error.count("\n") == 1
    monkeypatch.setattr(release_weights, "LARGEST", 1000)
    status, _, error = release(capsys, "--weights", run_file, "--output", output)
    assert status == 2 and "makes a file of 0." in error and "--width" in error
    assert release(capsys, "--weights", output, "--output", output)[0] == 2
    assert output.read_bytes() == b"the older file" and not list(tmp_path.glob("*.draft"))


@pytest.mark.parametrize(
    "change", [{"frame_scales": [2, 1]}, {"frame_scales": [0, 1]}, {"frame_scales": 2}, {"confidence": 7}]
)
def test_a_description_that_cannot_be(change, tmp_path):
    torch.save(checkpoint_of(network(), ("drone",), (64, 64)) | change, tmp_path / "own.pth")
    with pytest.raises(checkpoint.UserError, match=r"own\.pth: weights of another network, or a damaged file"):
        load_network(tmp_path / "own.pth")


@pytest.mark.parametrize(
    ("frame", "wanted"),
    [
        ((256, 256), (512, 512)),  # DAUB: twice
        ((256, 320), (416, 512)),  # 1.6 times, without the border that 512 x 512 would have
        ((480, 640), (768, 1024)),  # would be shrunk: 1.6 times
        ((96, 128), (192, 256)),  # would be enlarged four times: twice
        ((480, 720), (768, 1152)),
    ],
)
def test_input_that_keeps_the_scale(frame, wanted):
    assert input_between(frame, (512, 512), (1.6, 2.0)) == wanted


@pytest.fixture
def own_weights(run_file, tmp_path, capsys, monkeypatch) -> Path:
    """A weight file in the place of the project's own, and an empty working folder."""
    path = tmp_path / "project" / "own.pth"
    flags = ("--confidence", 0.001, "--frame-scales", 1, 2)
    assert release(capsys, "--weights", run_file, "--output", path, *flags)[0] == 0
    monkeypatch.setattr(checkpoint, "DEFAULT_WEIGHTS", path)
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def frames(tmp_path) -> Path:
    """A folder of four frames, 32 x 64 pixels, in DAUB's layout."""
    folder = tmp_path / "data" / "images" / "test" / "data1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (32, 64), dtype=np.uint8)).save(folder / f"{number}.png")
    names = [{"id": n, "file_name": f"images/test/data1/{n}.png", "height": 32, "width": 64} for n in range(4)]
    boxes = [
        {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [8, 8, 8, 8], "area": 64, "iscrowd": 0} for n in range(4)
    ]
    content = {"images": names, "annotations": boxes, "categories": [{"id": 1, "name": "drone"}]}
    (tmp_path / "data" / "annotations").mkdir()
    (tmp_path / "data" / "annotations" / "instances_test2017.json").write_text(json.dumps(content))
    return folder


def test_commands_take_the_projects_weights(own_weights, frames, tmp_path, capsys):
    """Both see the same: an input of the frames' own size, as they would be enlarged less than once in 64 x 64."""
    status, out, _ = run(capsys, ["--source", str(frames), "--save", "frames"], vid_predict.Config, vid_predict.main)
    assert status == 0 and out.startswith("4 frames, ") and len(list(Path("predictions/frames").iterdir())) == 4
    shown = json.loads(Path("predictions/detections.json").read_text())
    assert shown and min(result["score"] for result in shown) < 0.5  # the weights' own confidence

    flags = ["--data-root", str(tmp_path / "data"), "--speed-frames", "2", "--no-report", "--output", "out"]
    assert run(capsys, flags, vid_map_coco.Config, vid_map_coco.main)[0] == 0
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert metrics["protocol"]["weights"] == str(own_weights) and metrics["protocol"]["input_size"] == [32, 64]
    assert metrics["speed"]["input_size"] == "32 x 64"
    found = json.loads(Path("out/detections.json").read_text())
    assert len(found) == len(shown)
    np.testing.assert_allclose(found[0]["bbox"], shown[0]["bbox"], atol=0.02)

    assert run(capsys, [*flags, "--input-size", "96", "96"], vid_map_coco.Config, vid_map_coco.main)[0] == 0
    assert json.loads(Path("out/metrics.json").read_text())["protocol"]["input_size"] == [96, 96]


def test_large_frames_are_a_note(own_weights, frames, tmp_path, capsys):
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((128, 170), np.uint8)).save(large)
    flags = ["--source", str(large), "--save", "frames", "--output"]
    status, _, error = run(capsys, [*flags, "one"], vid_predict.Config, vid_predict.main)
    said = "note: frames of 128 x 170 (height x width) go into the network as 128 x 192"
    assert status == 0 and error.startswith(said)
    assert "6 times the usual work a frame; --input-size 128 160 is faster" in error
    more = ["--input-size", "128", "160"]
    assert "note" not in run(capsys, [*flags, "two", *more], vid_predict.Config, vid_predict.main)[2]
    assert "note" not in run(capsys, ["--source", str(frames)], vid_predict.Config, vid_predict.main)[2]


def test_missing_projects_weights_are_one_line(own_weights, frames, capsys):
    own_weights.unlink()
    expected = f"error: {own_weights}: the project's own weights are missing; restore it, or pass --weights FILE\n"
    assert run(capsys, ["--source", str(frames)], vid_predict.Config, vid_predict.main)[::2] == (2, expected)
    assert run(capsys, [], vid_map_coco.Config, vid_map_coco.main)[::2] == (2, expected)


def test_projects_weights_lie_beside_the_code():
    folder = Path(checkpoint.__file__).parents[1] / "model_data"
    assert folder / "sstnet_infrared.pth" == checkpoint.DEFAULT_WEIGHTS


def test_frames_of_several_sizes_get_inputs_of_their_own():
    detector = Detector(network(), ("drone",), (64, 64), frame_scales=(1, 2))
    for size, wanted in (((32, 32), (64, 64)), ((96, 64), (96, 64))):
        assert detector.letterbox(size).input_size == wanted
        images = [np.full(size, 100, np.uint8)] * 2
        assert len(list(detector.stream(images))) == 2
