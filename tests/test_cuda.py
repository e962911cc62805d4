"""What only a GPU can show; skipped without one."""

import numpy as np
import pytest
import torch

from nets import SSTNet, YOLOXLoss
from tests.training_cases import make_data, read_rows, small_config
from utils.detector import Detector
from utils.trainer import Trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def small_model() -> SSTNet:
    torch.manual_seed(0)
    return SSTNet(width=0.25, attention_dropout=0.0)


def test_output_and_loss_equal_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    clips = torch.randn(2, 3, 5, 64, 96)
    targets = [torch.tensor([[40.0, 30.0, 8.0, 8.0, 0.0]]), torch.zeros(0, 5)]
    results = []
    for device in ("cpu", "cuda"):
        output, motion_loss = small_model().to(device).train()(clips.to(device))
        results.append((output.cpu(), motion_loss.cpu(), YOLOXLoss()(output, targets).total.cpu()))
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_detector_finds_the_same():
    frames = list(np.random.default_rng(0).integers(0, 256, (9, 64, 64), dtype=np.uint8))
    found = [list(Detector(small_model(), ("target",), (64, 64), device).stream(frames)) for device in ("cpu", "cuda")]
    for on_cpu, on_gpu in zip(*found, strict=True):
        np.testing.assert_allclose(on_gpu.scores[:5], on_cpu.scores[:5], atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"amp": "bf16", "channels_last": True, "workers": 1}])
def test_training_and_resume(settings, tmp_path):
    data_root, run_dir = make_data(tmp_path / "data"), tmp_path / "run"
    Trainer(small_config(data_root, run_dir, device="cuda", epochs=1, **settings)).fit()
    Trainer(small_config(data_root, run_dir, device="cuda", epochs=2, resume=True, **settings)).fit()
    rows = read_rows(run_dir)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(np.isfinite(float(row["train_total"])) for row in rows)
