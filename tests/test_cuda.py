"""What only a GPU can show; skipped without one."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmarks.timing import tensor_cores
from nets import SSTNet, YOLOXLoss
from tests.training_cases import ROOT, flags, make_data, read_rows, small_config
from utils.detector import Detector
from utils.dry_run import activation_bytes
from utils.trainer import Trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def small_model() -> SSTNet:
    """Untrained, but frames differ in what it says of them, which the recipe's small start would hide."""
    torch.manual_seed(0)
    model = SSTNet(width=0.25, attention_dropout=0.0)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return model


@pytest.fixture
def full_precision() -> Iterator[None]:
    with tensor_cores(False):
        yield


def test_output_loss_and_gradients_equal_the_cpu(full_precision):
    clips = torch.randn(2, 3, 5, 64, 96, generator=torch.Generator().manual_seed(1))
    targets = [torch.tensor([[40.0, 30.0, 8.0, 8.0, 0.0]]), torch.zeros(0, 5)]
    results = []
    for device in ("cpu", "cuda"):
        model = small_model().to(device).train()
        output, motion_loss = model(clips.to(device))
        loss = YOLOXLoss()(output, targets).total
        (loss + motion_loss).backward()
        gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        results.append(((output.cpu(), motion_loss.cpu(), loss.cpu()), gradients))
    (on_cpu, gradients), (on_gpu, theirs) = results
    for one, other in zip(on_cpu, on_gpu, strict=True):
        scale = one.abs().max().item()
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * scale)
    assert gradients.keys() == theirs.keys() and any("motion" in name for name in gradients)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(theirs[name], gradient, rtol=0.02, atol=0.02 * scale + 1e-6, msg=name)


def test_detector_finds_the_same(full_precision):
    frames = list(np.random.default_rng(0).integers(0, 256, (9, 64, 64), dtype=np.uint8))
    found = [list(Detector(small_model(), ("target",), (64, 64), device).stream(frames)) for device in ("cpu", "cuda")]
    best = np.array([on_cpu.scores.max() for on_cpu in found[0]])
    assert best.std() > 0.01  # frames differ
    for on_cpu, on_gpu in zip(*found, strict=True):
        np.testing.assert_allclose(on_gpu.scores[:5], on_cpu.scores[:5], atol=2e-3)
        np.testing.assert_allclose(on_gpu.boxes[0], on_cpu.boxes[0], atol=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"amp": "bf16", "channels_last": False, "workers": 1},
        {"amp": "fp16", "clip_grad": 10.0, "accumulate": 2},
        {"compile": True, "amp": "bf16"},
        {"preset": "cross-slice", "amp": "bf16", "recompute": "both"},
    ],
)
def test_training_and_resume(settings, tmp_path):
    data_root, run_dir = make_data(tmp_path / "data"), tmp_path / "run"
    Trainer(small_config(data_root, run_dir, device="cuda", epochs=1, **settings)).fit()
    Trainer(small_config(data_root, run_dir, device="cuda", epochs=2, resume=True, **settings)).fit()
    rows = read_rows(run_dir)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["train_total"])) for row in rows)


def test_resume_restores_the_random_state_of_the_gpu(tmp_path):
    data_root, run_dir = make_data(tmp_path / "data"), tmp_path / "run"
    settings = {"preset": "cross-slice", "device": "cuda"}
    trainer = Trainer(small_config(data_root, run_dir, epochs=1, **settings))
    trainer.fit()
    torch.cuda.synchronize()
    state = torch.cuda.get_rng_state()
    torch.rand(3, device="cuda")
    assert not torch.equal(torch.cuda.get_rng_state(), state)
    Trainer(small_config(data_root, run_dir, epochs=2, resume=True, **settings))
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_files_load_without_a_gpu(tmp_path):
    trainer = Trainer(small_config(make_data(tmp_path / "data"), tmp_path / "run", device="cuda", epochs=1))
    trainer.fit()
    for name in ("best.pth", "last.pth"):
        content = torch.load(tmp_path / "run" / name, weights_only=True)
        assert {value.device.type for value in content["model"].values()} == {"cpu"}


def test_fp16_keeps_statistics_and_losses_in_float32(tmp_path):
    trainer = Trainer(small_config(make_data(tmp_path / "data"), tmp_path / "run", device="cuda", amp="fp16"))
    trainer.model.train()
    batch = next(iter(trainer.loader))
    assert trainer.step.forward(batch)[0].dtype == torch.float16
    assert trainer.step._losses(batch)[0].dtype == torch.float32
    assert {b.dtype for b in trainer.model.buffers()} == {torch.float32, torch.int64}


def test_synchronised_statistics_in_two_processes_of_one_gpu_machine(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    data_root = make_data(tmp_path / "data")
    arguments = flags(data_root, tmp_path / "run", device="cuda", sync_batchnorm=True)
    done = subprocess.run([*torchrun, str(ROOT / "train_DAUB.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    Trainer(small_config(data_root, tmp_path / "alone", device="cuda")).fit()
    for two, one in zip(read_rows(tmp_path / "run"), read_rows(tmp_path / "alone"), strict=True):
        assert float(two["train_total"]) == pytest.approx(float(one["train_total"]), rel=1e-2)


def test_estimate_of_memory_is_near_what_is_taken(tmp_path):
    model, size = small_model().cuda().train(), (2, 3, 5, 256, 256)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output, motion = model(torch.randn(size, device="cuda"))
    held = torch.cuda.memory_allocated() - before
    assert output.requires_grad and motion.requires_grad
    assert activation_bytes(model, size) == pytest.approx(held, rel=0.25)
