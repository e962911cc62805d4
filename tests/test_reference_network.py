"""Every number of the network equals the authors' release on fixed weights (tests/reference/README.md)."""

import json

import numpy as np
import pytest
import torch

from nets import SSTNet, YOLOXLoss
from tests.reference_weights import made_input, manifest_weights, record, stack_weights
from utils.checkpoint import load_weights
from utils.weight_names import rename_weights

RELEASES = {"released": (1, 1), "early": (2, 2)}  # slices, layers
LEARNING_RATE, MOMENTUM, DECAY = 6.25e-4, 0.937, 5e-4


def build(release: str) -> SSTNet:
    slices, layers = RELEASES[release]
    model = SSTNet(num_slices=slices, num_layers=layers, attention_dropout=0.0)
    report = load_weights(model, manifest_weights(release))
    assert not report.missing and not report.unexpected and not report.mismatched
    return model


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("seed", "size"), [(1, (128, 128)), (2, (256, 256)), (3, (160, 224))])
def test_evaluation_output(release, seed, size):
    model = build(release).eval()
    with torch.inference_mode():
        output = model(made_input(seed, (1, 3, 5, *size))).numpy()
    expected = record(f"net_{release}")[f"eval_{seed}_{size[0]}x{size[1]}"]
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(("slices", "layers"), [(1, 1), (2, 2), (2, 3), (1, 2)])
def test_cross_slice_convlstm(slices, layers):
    model = SSTNet(num_slices=slices, num_layers=layers, attention_dropout=0.0)
    report = load_weights(model, stack_weights(slices, layers))
    assert not report.unexpected and not report.mismatched
    stack = model.motion_branch.stack.eval()
    with torch.inference_mode():
        hidden, cell = stack(0.5 * made_input(11, (2, 5, 64, 40, 40)).transpose(0, 1).flatten(0, 1), num_frames=5)
        hidden = hidden.unflatten(0, (5, 2))
    hidden = hidden.transpose(0, 1)  # (B, T, C, H, W)
    records, name = record("stack"), f"{slices}x{layers}"
    np.testing.assert_allclose(hidden[:, :, ::8, ::4, ::4], records[f"h_{name}"], atol=1e-5)
    np.testing.assert_allclose([hidden.mean(), hidden.std()], records[f"hmean_{name}"], atol=1e-6)
    np.testing.assert_allclose(cell[:, ::8, ::4, ::4], records[f"c_last_{name}"], atol=1e-5)


def gradient_norms(model: SSTNet, names: list[str]) -> np.ndarray:
    """L2 norm of the gradient of each released name; -1 where our network has no such parameter or no gradient."""
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    position = {name: torch.tensor([float(index)]) for index, name in enumerate(names)}
    ours = {tensor: name for name, tensor in rename_weights(position)[0].items() if name != "neck.pair_weights"}
    found = {names[int(tensor)]: norms.get(name, -1.0) for tensor, name in ours.items()}
    pairs = model.neck.pair_weights.grad.abs().tolist()
    found |= {f"neck.weight.{pair}": norm for pair, norm in enumerate(pairs)}
    return np.array([found.get(name, -1.0) for name in names])


def release_optimizer(model: SSTNet) -> torch.optim.SGD:
    """The release's SGD, which leaves the pair weights and the attention's input projections out."""
    named = [(n, p) for n, p in model.named_parameters() if n != "neck.pair_weights" and ".in_proj_" not in n]
    decayed = [p for n, p in named if n.endswith("weight") and ".bn." not in n]
    plain = [p for n, p in named if not (n.endswith("weight") and ".bn." not in n)]
    groups = [{"params": plain}, {"params": decayed, "weight_decay": DECAY}]
    return torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True)


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_training_steps(release):
    """Head output, losses of consecutive SGD steps, gradient norms and running statistics at 512 x 512."""
    expected = record(f"net_{release}")
    model = build(release).train()
    targets = [torch.tensor(rows).reshape(-1, 5) for rows in json.loads(expected["train_labels"][0])]
    clips = made_input(7, (len(targets), 3, 5, 512, 512))
    optimizer = release_optimizer(model)
    for step, (total, detection, motion) in enumerate(expected["losses"]):
        output, motion_loss = model(clips)
        losses = YOLOXLoss()(output, targets)
        np.testing.assert_allclose(
            [(losses.total + motion_loss).item(), losses.total.item(), motion_loss.item()],
            [total, detection, motion],
            rtol=1e-4 if step == 0 else 1e-2,  # rounding of the steps before is in the later ones
        )
        if step == 0:
            scale = np.abs(expected["train_head"]).max()
            assert np.abs(output.detach().numpy() - expected["train_head"]).max() < 1e-4 * scale
            statistics = model.state_dict()
            stem = statistics["extractor.backbone.stem.conv.bn.running_mean"]
            np.testing.assert_allclose(stem, expected["run_mean_stem"], rtol=1e-4, atol=1e-6)
            variance = statistics["neck.conv_gl.0.bn.running_var"]
            np.testing.assert_allclose(variance, expected["run_var_last"], rtol=1e-4)
        if step == len(expected["losses"]) - 1:
            break
        optimizer.zero_grad(set_to_none=True)
        (losses.total + motion_loss).backward()
        if step == 0:
            compare_norms(gradient_norms(model, list(expected["grad_names"])), expected)
        optimizer.step()


def compare_norms(norms: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    """Within 1e-2, and where the release's parameter got no gradient ours got none, or zero, or does not exist."""
    without = expected["grad_norms"] < 0
    assert (norms[without] <= 0).all()
    np.testing.assert_allclose(norms[~without], expected["grad_norms"][~without], rtol=1e-2, atol=1e-4)
