"""BatchNorm's statistics taken anew on whole frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nets import SSTNet, inference_form
from tests.training_cases import make_data, run
from utils.annotations import load_annotations
from utils.checkpoint import checkpoint_of, load_network
from utils.cli import UserError
from utils.clips import ClipDataset
from utils.detector import Detector
from utils.recalibrate import Config, batches_of, frames_of, main, recalibrate

SETTINGS = {"settings": {"seed": 5}, "progress": {"epoch": 2}, "optimizer": {"state": torch.zeros(3)}}


def network() -> SSTNet:
    torch.manual_seed(0)
    model = SSTNet(num_frames=3, num_slices=1, num_layers=1, width=0.0625)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def test_statistics_are_means_over_batches_and_nothing_else_changes():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clips = [torch.randn(2, 3, 3, 64, 64) + shift for shift in (0.0, 1.0)]  # (B, 3, T, H, W)
    assert recalibrate(model, clips) == 2 and not model.training
    stem = model.extractor.backbone.stem.conv
    outputs = [stem.conv(stem_input(frames)) for batch in clips for frames in batch.unbind(2)]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.transpose(0, 1).flatten(1).var(1) for output in outputs]).mean(0)
    torch.testing.assert_close(stem.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stem.bn.running_var, variance, rtol=1e-4, atol=1e-5)
    assert stem.bn.momentum == network().extractor.backbone.stem.conv.bn.momentum
    for name, value in model.state_dict().items():
        own = "running_" in name or "num_batches_tracked" in name
        assert torch.equal(value, before[name]) != (own and not name.startswith("motion_branch.")), name


def test_without_whole_statistics_the_old_ones_stay():
    model = network()
    recalibrate(model, [torch.randn(2, 3, 3, 64, 64)])
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def broken():
        yield torch.randn(2, 3, 3, 64, 64)
        raise UserError("a damaged frame")

    assert recalibrate(model, []) == 0
    with pytest.raises(UserError, match="a damaged frame"):
        recalibrate(model, broken())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="an inference form has no statistics"):
        recalibrate(inference_form(model), [])


def stem_input(frames: torch.Tensor) -> torch.Tensor:
    """Eq. 1.2: the four half-resolution maps of (B, 3, H, W), as they are ordered there."""
    return torch.cat([frames[..., y::2, x::2] for x in (0, 1) for y in (0, 1)], dim=1)


def test_a_batch_is_then_normalised_as_in_training():
    """Of clips of one frame all positions have the same statistics.

    The running variance is n / (n - 1) times a batch's, which layer upon layer adds up: the first ones are compared.
    """
    model = network()
    frames = torch.randn(4, 3, 256, 256)
    clips = torch.stack([frames] * 3, dim=2)
    recalibrate(model, [clips])
    backbone = model.extractor.backbone
    early = torch.nn.Sequential(backbone.stem, backbone.dark2, backbone.dark3)
    found = early.eval()(frames)
    assert (network().eval().extract(frames) - model.extract(frames)).abs().max() > 0.5  # it matters
    torch.testing.assert_close(found, early.train()(frames), rtol=0.02, atol=0.02)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """A data set, and a run's checkpoint."""
    folder = tmp_path_factory.mktemp("recalibrate")
    content = checkpoint_of(network(), ("target",), (64, 64), intensity=(0.0, 510.0))
    torch.save({**content, "training": SETTINGS, "frame_scales": [1.5, 2.0], "confidence": 0.3}, folder / "last.pth")
    return make_data(folder / "data"), folder / "last.pth"


def command(capsys, data_root: Path, weights: Path, output: Path, *flags: object) -> tuple[int, str, str]:
    words = ("--weights", weights, "--data-root", data_root, "--output", output, "--device", "cpu", *flags)
    return run(capsys, [str(word) for word in words], Config, main)


def test_the_file_says_what_the_old_one_says(files, tmp_path, capsys):
    data_root, weights = files
    output = tmp_path / "new" / "recalibrated.pth"
    status, out, _ = command(capsys, data_root, weights, output, "--clips", 9, "--batch-size", 4)
    assert status == 0 and "statistics of 8 clips of whole frames, data instances_train2017.json" in out
    old, new = load_network(weights), load_network(output)
    assert (new.intensity, new.frame_scales, new.confidence) == ((0.0, 510.0), (1.5, 2.0), 0.3)
    assert torch.load(output, weights_only=True)["training"] == {"settings": {"seed": 5}, "progress": {"epoch": 2}}
    for (name, ours), theirs in zip(new.model.named_parameters(), old.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    first, second = (loaded.model.extractor.backbone.stem.conv.bn.running_mean for loaded in (old, new))
    assert not np.allclose(first, second)
    assert command(capsys, data_root, weights, tmp_path / "again.pth", "--clips", 9, "--batch-size", 4)[0] == 0
    again = load_network(tmp_path / "again.pth").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in new.model.state_dict().items())


def test_the_frames_are_those_of_the_run_unless_others_are_given(files, tmp_path, capsys):
    data_root, weights = files
    beside = weights.with_name("config.json")
    settings = {"data_root": str(data_root), "train_list": str(data_root / "coco_train_DAUB.txt")}
    beside.write_text(json.dumps({"config": settings}))
    try:
        words = ["--weights", weights, "--output", tmp_path / "new.pth", "--device", "cpu", "--clips", 8]
        status, out, _ = run(capsys, [str(word) for word in words], Config, main)
        given = frames_of(Config(weights, tmp_path / "new.pth", data_root=Path("elsewhere")))
    finally:
        beside.unlink()
    assert status == 0 and "8 clips of whole frames, data coco_train_DAUB.txt" in out
    assert given == (Path("elsewhere"), Path("elsewhere/annotations/instances_train2017.json"))
    assert frames_of(Config(weights, tmp_path / "new.pth"))[0] == Path("datasets/DAUB")


@pytest.mark.parametrize("content", ["[]", "{}", '{"config": null}', '{"config": {}, "files": 3}'])
def test_a_config_file_of_another_program_says_nothing(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    found = frames_of(Config(tmp_path / "w.pth", tmp_path / "new.pth"))
    assert found == (Path("datasets/DAUB"), Path("datasets/DAUB/annotations/instances_train2017.json"))


def test_the_frames_of_a_run_are_found_from_any_folder(tmp_path):
    (tmp_path / "data").mkdir()
    parts = {"config": {"data_root": "data"}, "files": {"data_root": str(tmp_path / "data")}}
    (tmp_path / "config.json").write_text(json.dumps(parts))
    weights = Config(tmp_path / "w.pth", tmp_path / "new.pth")
    assert frames_of(weights)[0] == tmp_path / "data"
    (tmp_path / "data").rmdir()  # moved: as it was given
    assert frames_of(weights)[0] == Path("data")


def test_frames_of_other_sizes_are_enlarged_as_in_detection(tmp_path):
    """Each size makes batches of its own, of the input that a detector gives it."""
    sizes, lines = {"a": (48, 80), "b": (64, 64)}, []  # height, width
    for name, (height, width) in sizes.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(5):
            Image.fromarray(np.full((height, width), 10 * number, np.uint8)).save(folder / f"{number}.png")
            lines.append(f"images/{name}/{number}.png 8,8,16,16,0")
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    data, scales = load_annotations(tmp_path / "list.txt", tmp_path), (1.5, 2.0)
    clips = ClipDataset(data, (64, 64), 3, frame_scales=scales)
    config = Config(Path("w.pth"), Path("out.pth"), batch_size=2)
    found = [tuple(batch.shape) for batch in batches_of(clips, config, torch.device("cpu"))]
    wanted = [(2, 3, 3, *Detector(network(), ("target",), (64, 64), frame_scales=scales).letterbox(size).input_size)
              for size in sizes.values()]  # fmt: skip
    assert sorted(found) == sorted(2 * wanted)  # of five clips of a size one is left over
    assert wanted == [(2, 3, 3, 96, 128), (2, 3, 3, 96, 96)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--clips", 3, "--batch-size", 4), "at least one batch of 2 clips"),
        (("--batch-size", 1), "at least one batch of 2 clips"),
        (("--clips", 99, "--batch-size", 50), "16 frames are fewer than --batch-size 50"),
        (("--train-list", "missing.txt"), "missing.txt"),
    ],
)
def test_bad_flags_are_one_line(files, tmp_path, capsys, flags, message):
    status, _, error = command(capsys, *files, tmp_path / "new.pth", *flags)
    assert status == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1
    assert command(capsys, *files, files[1])[0] == 2  # the weight file itself
    status, _, error = command(capsys, *files, tmp_path)
    assert status == 2 and f"{tmp_path}: is a folder" in error
