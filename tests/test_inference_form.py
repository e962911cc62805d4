"""The inference form: the same outputs as the trained network, which stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim

from nets import SSTNet, VideoStream, inference_form


@pytest.fixture
def trained() -> SSTNet:
    """A small network whose BatchNorms have statistics, scales and shifts that are not those of the beginning."""
    torch.manual_seed(0)
    model = SSTNet(width=0.125, num_slices=1, num_layers=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def test_outputs_are_those_of_the_network(trained):
    clips = torch.randn(2, 3, 5, 64, 96)
    expected = trained(clips)
    folded = inference_form(trained)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(clips), expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_normalise_leaves_what_it_gets(trained):
    """A neck may normalise its reference halves, which the next clips need too."""
    x = torch.randn(1, trained.extractor.backbone.stem.conv.conv.out_channels, 4, 4)
    for model in (trained, inference_form(trained)):
        before, block = x.clone(), model.extractor.backbone.stem.conv
        with torch.no_grad():
            block.normalise(x)
        assert torch.equal(x, before)


def test_video_goes_through_it(trained):
    frames = torch.randn(7, 3, 64, 64)
    expected = trained.forward_video(frames)
    stream = VideoStream(inference_form(trained))
    found = torch.cat([stream.push(part) for part in frames.split(2)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_untouched(trained, training):
    trained.train(training)
    before = copy.deepcopy(trained.state_dict())
    folded = inference_form(trained)
    folded(torch.randn(1, 3, 5, 32, 32))
    assert trained.training == training and trained.motion_branch is not None
    assert all(parameter.requires_grad for parameter in trained.parameters())
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match="cannot be trained"):
        folded.train()


def test_hooks_and_own_parameters_of_the_copy_are_its_own(trained):
    trained.temperature = torch.nn.Parameter(torch.ones(1))
    calls = []
    folded = inference_form(trained)
    folded.register_forward_hook(lambda *_: calls.append(1))
    trained.eval()(torch.randn(1, 3, 5, 32, 32))
    assert not calls and trained.temperature.requires_grad
    assert folded.temperature is not trained.temperature and not folded.temperature.requires_grad
    del trained.temperature


def test_it_has_no_motion_branch_and_is_its_own_inference_form(trained):
    folded = inference_form(trained)
    assert folded.motion_branch is None and not any(name.startswith("motion") for name in folded.state_dict())
    assert inference_form(folded) is folded


def test_exported_program_gives_the_same_at_other_sizes(tmp_path):
    torch.manual_seed(0)
    model = inference_form(SSTNet(width=0.125, num_slices=0, num_layers=0).eval())
    size = {0: Dim("batch"), 3: 32 * Dim("rows", max=64), 4: 32 * Dim("columns", max=64)}
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 5, 64, 96),), dynamic_shapes=(size,))
        torch.export.save(program, tmp_path / "model.pt2")
        exported = torch.export.load(tmp_path / "model.pt2").module()
        for shape in ((2, 3, 5, 64, 96), (1, 3, 5, 128, 64), (3, 3, 5, 64, 64)):
            clips = torch.randn(shape)
            torch.testing.assert_close(exported(clips), model(clips))
