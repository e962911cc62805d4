"""One step of training: the gradient of a batch in parts and processes, and what is done with it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from nets import SSTNet, YOLOXLoss
from utils.clips import ClipBatch, normalise_clips
from utils.config import TrainConfig
from utils.distributed import Processes
from utils.ema import EMA
from utils.failures import NotFinite

TERMS = ("total", "iou", "obj", "cls", "motion")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStep:
    """Takes batches to a network, its optimiser and its average. `network` is `model` as several processes and
    torch.compile want it called."""

    def __init__(
        self, config: TrainConfig, model: SSTNet, criterion: YOLOXLoss, optimizer: torch.optim.Optimizer, ema: EMA,
        processes: Processes, device: torch.device,
    ):
        self.model = model
        self.criterion = criterion
        self.optimizer = optimizer
        self.ema = ema
        self.processes = processes
        self.device = device
        self.motion_weight = config.motion_weight
        self.clip_grad = config.clip_grad
        self.keeps_buffers = config.skip_nonfinite > 0
        self.precision = PRECISIONS.get(config.amp)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        network = processes.wrap(model, device)
        self.network = torch.compile(network) if config.compile else network

    def __call__(self, *batches: ClipBatch) -> dict[str, float]:
        """Gradient, optimiser, EMA on the parts of a batch; returns the loss terms.

        `NotFinite` where the loss or the gradient is infinite or no number; nothing has changed then, and with
        --skip-nonfinite BatchNorm's statistics have not either.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.keeps_buffers else []
        try:
            terms = self.backward(*batches)
            if self._gradient_is_usable(batches):
                self.scaler.step(self.optimizer)
                self.ema.update(self.model)
            self.scaler.update()  # lowers the scale where the gradient was too large for it
        except NotFinite:
            self.optimizer.zero_grad(set_to_none=True)
            for buffer, before in zip(self.model.buffers(), buffers, strict=False):  # none are kept without the flag
                buffer.copy_(before)
            raise
        return dict(zip(TERMS, terms.tolist(), strict=True))  # last: a GPU is waited for

    def backward(self, *batches: ClipBatch) -> Tensor:
        """Gradients of the parts of a batch, as means over parts and processes; returns the `TERMS` (5,) likewise."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(len(TERMS), device=self.device)
        for part, batch in enumerate(batches, start=1):
            exchanged = part == len(batches) or not self.processes.several
            with contextlib.nullcontext() if exchanged else self.network.no_sync():
                loss, terms = self._losses(batch)
                sums += terms
                self.scaler.scale(loss / len(batches)).backward()
        return sums / len(batches)

    def _losses(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """A part's loss, and the terms (5,) over the parts of all processes; `NotFinite` where these are not.

        The detection loss is a sum over the clips of all processes by the positives of all, as in one process.
        """
        output, motion = self.forward(batch)
        detection, motion = self.criterion(output, batch.targets), motion.float()
        own = detection.num_positives.clamp(min=1)
        share = own * self.processes.count / self.processes.sum(detection.num_positives).clamp(min=1)
        loss = detection.total * share + self.motion_weight * motion  # eq. 5.6
        parts = (loss, detection.iou * share, detection.obj * share, detection.cls * share, motion)
        terms = self.processes.mean(torch.stack([term.detach() for term in parts]))
        if not terms.isfinite().all():
            raise NotFinite("loss", terms[0].item(), [] if loss.isfinite() else batch.indices.tolist())
        return loss, terms

    def forward(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Head output (B, 5 + K, H/8, W/8) and motion loss, in the precision asked for."""
        clips = normalise_clips(batch.clips.to(self.device, non_blocking=True))  # (B, 3, T, H, W)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            return self.network(clips)

    def _gradient_is_usable(self, batches: tuple[ClipBatch, ...]) -> bool:
        """Clip the gradient. False where fp16 overflowed under its scale; `NotFinite` where no scale is to blame."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if norm.isfinite():
            if self.clip_grad:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_grad, norm)
            return True
        if self.scaler.is_enabled() and self.scaler.get_scale() > 1:
            return False
        self.scaler.update()
        raise NotFinite("gradient", norm.item(), [index for batch in batches for index in batch.indices.tolist()])
