"""Weight files of four origins, and what is said of files that are none."""

import pickle

import pytest
import torch

from nets import SSTNet
from tests.reference_weights import manifest_weights
from utils.checkpoint import checkpoint_of, load_network, load_weights, save_weights
from utils.cli import UserError
from utils.run_state import check_same_network

TRAINED = {"training": {"settings": {"optimizer": "sgd"}}}
SMALL = {"width": 0.125, "num_frames": 3, "num_slices": 2, "num_layers": 1, "num_classes": 2}


@pytest.mark.parametrize(("release", "slices", "layers"), [("released", 1, 1), ("early", 2, 2)])
def test_released_file_builds_its_network(tmp_path, release, slices, layers):
    weights = manifest_weights(release)
    torch.save(weights, tmp_path / "release.pth")
    network = load_network(tmp_path / "release.pth")
    wanted = {"num_classes": 1, "num_frames": 5, "depth": 0.33, "width": 0.5}
    assert (wanted | {"num_slices": slices, "num_layers": layers}).items() <= network.model.architecture.items()
    assert not network.model.training
    report = load_weights(network.model, weights)
    assert report.complete and not report.unexpected
    assert "mapping0.0.weight" in report.ignored and "neck.weight.4" in report.ignored
    stem = network.model.extractor.backbone.stem.conv.conv.weight
    assert torch.equal(stem, next(tensor for name, tensor in weights.items() if "stem.conv.conv.weight" in name))
    assert torch.equal(network.model.neck.pair_weights[2:3], weights["neck.weight.2"])


@pytest.mark.parametrize("branch", [None, torch.nn.Linear(2, 1)], ids=["none", "own"])
def test_motion_branch_of_a_file_is_ignored_by_a_network_with_none_or_another(branch):
    model = SSTNet(num_slices=0)
    model.motion_branch = branch
    report = load_weights(model, manifest_weights("early"))
    assert not report.unexpected and all(name.startswith("motion_branch.") for name in report.missing)
    assert any(name.startswith("motion_branch.stack.nodes.3.") for name in report.ignored)


def test_yolox_file_fills_the_extractor_alone(tmp_path):
    """Megvii's layout: everything under "model", three head levels of another width, a bottom-up path."""
    released = manifest_weights("released")
    yolox = {name: tensor for name, tensor in released.items() if name.startswith("backbone.")}
    yolox["backbone.bu_conv2.conv.weight"] = torch.zeros(128, 128, 3, 3)
    for level in range(3):
        yolox[f"head.cls_convs.{level}.0.conv.weight"] = torch.zeros(128, 128, 3, 3)
    torch.save({"model": yolox, "start_epoch": 300}, tmp_path / "yolox_s.pth")
    model = SSTNet(num_slices=1, num_layers=1)
    report = load_weights(model, tmp_path / "yolox_s.pth")
    assert set(report.loaded) == {f"extractor.{name}" for name in model.extractor.state_dict()}
    assert report.mismatched == ["head.cls_convs.0.0.conv.weight: (128, 128, 3, 3), (256, 256, 3, 3)"]
    assert report.unexpected == [
        "extractor.bu_conv2.conv.weight", "head.cls_convs.1.0.conv.weight", "head.cls_convs.2.0.conv.weight",
    ]
    assert all(not name.startswith("extractor.") for name in report.missing) and report.missing
    assert "mismatched: head.cls_convs.0.0.conv.weight" in str(report)


def test_own_file_says_everything(tmp_path):
    model = SSTNet(**SMALL).eval()
    save_weights(tmp_path / "own.pth", model, ("drone", "bird"), (64, 96))
    network = load_network(tmp_path / "own.pth")
    assert network.class_names == ("drone", "bird") and network.input_size == (64, 96)
    assert network.model.architecture == model.architecture
    for name, tensor in model.state_dict().items():
        assert torch.equal(network.model.state_dict()[name], tensor), name


def test_network_without_gate_and_files_from_before_there_was_a_choice(tmp_path):
    model = SSTNet(**SMALL, gate=False)
    assert not any("conv_ref" in name for name in model.state_dict())
    save_weights(tmp_path / "own.pth", model, ("drone", "bird"), (64, 64))
    assert load_network(tmp_path / "own.pth").model.neck.conv_ref is None
    older = checkpoint_of(SSTNet(**SMALL), ("drone", "bird"), (64, 64))
    del older["architecture"]["gate"], older["architecture"]["frame_interval"]
    torch.save(older, tmp_path / "older.pth")
    loaded = load_network(tmp_path / "older.pth").model
    assert loaded.architecture["gate"] and loaded.frame_interval == 1
    check_same_network(tmp_path / "older.pth", older | TRAINED, SSTNet(**SMALL).architecture, "sgd")
    with pytest.raises(UserError, match="of a run with gate True, not False"):
        check_same_network(tmp_path / "older.pth", older | TRAINED, model.architecture, "sgd")


@pytest.mark.parametrize("weights", [SSTNet().state_dict(), manifest_weights("early")], ids=["ours", "early"])
def test_distributed_prefix_is_dropped(weights, tmp_path):
    prefixed = {f"module.{name}": tensor for name, tensor in weights.items()}
    report = load_weights(SSTNet(), prefixed)
    assert report.complete and not report.unexpected


def test_weights_alone_are_enough_for_several_classes(tmp_path):
    torch.save(SSTNet(**SMALL).state_dict(), tmp_path / "bare.pth")
    assert load_network(tmp_path / "bare.pth").class_names == ("class 0", "class 1")


@pytest.mark.parametrize("change", [{"num_slices": 0, "num_layers": 0}, {"gate": False}], ids=["no branch", "no gate"])
def test_weights_alone_tell_what_the_network_lacks(change, tmp_path):
    model = SSTNet(**{**SMALL, **change})
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = load_network(tmp_path / "bare.pth").model
    assert change.items() <= loaded.architecture.items()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_values_that_are_not_finite_are_refused(tmp_path):
    model = SSTNet(**SMALL)
    model.head.stems[0].conv.weight.data[0, 0, 0, 0] = float("nan")
    save_weights(tmp_path / "bad.pth", model, ("drone", "bird"), (64, 64))
    with pytest.raises(UserError, match="bad.pth: has values that are not finite, the first in head.stems"):
        load_network(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    "change",
    [{"architecture": {"num_frames": 1}}, {"architecture": {"speed": 9}}, {"input_size": None}, {"class_names": ["a"]},
     {"input_size": [60, 64]}, {"input_size": [float("inf"), 64]}],
)
def test_description_that_cannot_be(change, tmp_path):
    torch.save(checkpoint_of(SSTNet(**SMALL), ("drone", "bird"), (64, 64)) | change, tmp_path / "own.pth")
    with pytest.raises(UserError, match="own.pth: weights of another network, or a damaged file"):
        load_network(tmp_path / "own.pth")


class Harm:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("this must never run",)


def test_files_that_are_no_weights(tmp_path, capsys):
    for name, content in (("empty", b""), ("text", b"not weights"), ("code", pickle.dumps(Harm()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_network(tmp_path / name)
    torch.save(Harm(), tmp_path / "zipped_code")
    with pytest.raises(UserError, match="zipped_code"):
        load_network(tmp_path / "zipped_code")
    assert "must never run" not in capsys.readouterr().out
    save_weights(tmp_path / "cut.pth", SSTNet(**SMALL), ("drone", "bird"), (64, 64))
    load_network(tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut.pth: not a weight file"):
        load_network(tmp_path / "cut.pth")
    with pytest.raises(UserError, match="no such file"):
        load_network(tmp_path / "nowhere.pth")


def test_weights_of_another_network(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match="another network"):
        load_network(tmp_path / "linear.pth")
    torch.save({"epoch": 3, 5: torch.zeros(1)}, tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        load_network(tmp_path / "nothing.pth")


def test_failed_write_leaves_the_older_file(tmp_path):
    path = tmp_path / "own.pth"
    save_weights(path, SSTNet(**SMALL), ("target",), (64, 64))
    before = path.read_bytes()
    (tmp_path / "own.pth.tmp").mkdir()  # the temporary file cannot be opened
    with pytest.raises(UserError, match="untouched"):
        save_weights(path, SSTNet(**SMALL), ("target",), (64, 64))
    assert path.read_bytes() == before
