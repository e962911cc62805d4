"""Every setting of a command reaches what it sets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vid_map_coco
import vid_predict
from nets.cross_slice_convlstm import CrossSliceNode
from nets.simota import assign
from tests.evaluation_cases import detection, ground_truth
from tests.training_cases import make_data, read_rows, small_config
from utils.annotations import load_annotations
from utils.augment import Augmentation
from utils.checkpoint import checkpoint_of
from utils.clips import ClipDataset, ClipSample, collate_clips, normalise_clips
from utils.detector import Detector
from utils.evaluation import evaluate
from utils.optimizer import build_optimizer
from utils.run_state import Progress, restore_progress, state_of_run
from utils.schedule import Schedule
from utils.tensor_files import save_atomically
from utils.trainer import Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("wiring") / "data")


def trainer_of(data: Path, run_dir: Path, **settings: Any) -> Trainer:
    trainer = Trainer(small_config(data, run_dir, **settings))
    if trainer.lock:
        trainer.lock.release()
    return trainer


# Training


def test_settings_of_network_schedule_and_clips(data, tmp_path):
    augmentation = {
        "crop": 32, "target_share": 0.3, "flip": True, "photometric": 0.1, "noise": 2.0, "time_reversal": True,
        "frame_drop": 0.2,
    }  # fmt: skip
    trainer = trainer_of(data, tmp_path, schedule="step", epochs=20, gate=False, frame_interval=2, **augmentation)
    architecture = trainer.model.architecture
    assert (architecture["gate"], architecture["frame_interval"], trainer.model.num_frames) == (False, 2, 3)
    peak, floor = trainer.schedule.peak, trainer.schedule.floor
    step, cosine = (Schedule(peak, floor, 20, kind) for kind in ("step", "cosine"))
    assert [trainer.schedule.rate(e) for e in range(20)] == [step.rate(e) for e in range(20)]
    assert step.rate(7) != cosine.rate(7)
    clips = trainer.loader.dataset
    assert clips.augmentation == Augmentation(**augmentation)
    assert (clips.clips.frame_interval, clips.clips.num_frames) == (2, 3)


def test_the_share_of_crops_around_a_target():
    """A target of 8 pixels in 512 x 512: a crop of 32 placed by chance hardly ever holds it."""
    sample = ClipSample(torch.zeros(3, 512, 512, dtype=torch.uint8), torch.tensor([[200.0, 300.0, 8.0, 8.0, 0.0]]), 0)
    generator = torch.Generator().manual_seed(0)
    held = {
        share: sum(len(Augmentation(crop=32, target_share=share)(sample, generator).targets) for _ in range(200))
        for share in (0.0, 0.5, 1.0)
    }
    assert held[0.0] < 10 and 70 < held[0.5] < 130 and held[1.0] == 200


def test_the_seed_decides_the_weights(data, tmp_path):
    seeds = {"one": 7, "same": 7, "other": 8}
    trainers = {name: trainer_of(data, tmp_path / name, seed=seed) for name, seed in seeds.items()}
    one, same, other = (trainer.model.head.state_dict() for trainer in trainers.values())
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_motion_weight_scales_its_gradient(data, tmp_path):
    gradients = []
    for weight in (1.0, 3.0):
        trainer = trainer_of(data, tmp_path / str(weight), motion_weight=weight)
        trainer.model.train()
        trainer.step.backward(next(iter(trainer.loader)))
        gradients.append(trainer.model.motion_branch.mapping2[0].weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_moments_of_the_optimisers():
    network = torch.nn.Linear(2, 2)
    for name in ("adam", "adamw"):
        assert build_optimizer(network, name, 1e-3).defaults["betas"] == (0.937, 0.999)  # docs/code_map.md, section 6
    assert build_optimizer(network, "sgd", 1e-3).defaults["momentum"] == 0.937


def test_validation_is_of_the_averaged_network_and_counts_its_targets(data, tmp_path):
    trainer = trainer_of(data, tmp_path, val_interval=1)
    before = trainer.validate()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(0.5)
    assert trainer.validate() == before
    clips = ClipDataset(trainer.val_data, (64, 64), 3)
    losses = []
    for sample in clips:
        batch = collate_clips([sample])
        with torch.no_grad():
            output = trainer.ema.model.eval()(normalise_clips(batch.clips))
        losses.append(trainer.criterion(output, batch.targets).total.item())
    assert sum(len(record.boxes) for record in trainer.val_data.records) > 0
    assert before[0] == pytest.approx(np.mean(losses), rel=1e-4)
    with torch.no_grad():
        for parameter in trainer.ema.model.parameters():
            parameter.mul_(0.5)
    assert trainer.validate() != before


class Scripted(Trainer):
    """Validates to what it is told."""

    scores = [(1.0, 0.2), (2.0, 0.6), (0.5, 0.4)]

    def validate(self) -> tuple[float, float]:
        return self.scores[self.progress.epoch]


@pytest.mark.parametrize(("best_by", "best"), [("mAP50", -0.6), ("loss", 0.5)])
def test_the_best_by_either_score(data, tmp_path, best_by, best):
    trainer = Scripted(small_config(data, tmp_path, epochs=3, epoch_share=0.5, best_by=best_by))
    trainer.fit()
    assert trainer.progress.best == best
    assert [float(row["val_mAP50"]) for row in read_rows(tmp_path)] == [0.2, 0.6, 0.4]


OTHER = {
    "seed": 5, "epoch_share": 0.5, "batch_size": 2, "data_root": "elsewhere", "train_list": "t.txt",
    "val_list": "v.txt", "best_by": "mAP50", "iou_loss": "giou", "input_size": [96, 96], "intensity": [0, 9],
    "lr": 0.5, "workers": 1,
}  # fmt: skip
ORDERING = {"seed", "epoch_share", "batch_size", "data_root", "train_list"}
JUDGING = {"best_by", "iou_loss", "data_root", "val_list", "input_size", "intensity"}


@pytest.mark.parametrize("name", OTHER)
def test_what_a_changed_setting_begins_anew(name):
    settings = dict.fromkeys(OTHER, "before")
    progress = Progress(epoch=1, step=3, sums={"total": 1.0}, counted=3, best=0.5)
    state = state_of_run(progress, settings, {}, 10)
    after, notes = restore_progress(state, settings | {name: OTHER[name]}, {}, 10)
    assert (after.step == 0) == (name in ORDERING) and (after.best == float("inf")) == (name in JUDGING)
    assert f"{name} before -> {OTHER[name]}" in notes


# The network


def test_dropout_of_the_attention_is_for_training_alone():
    node = CrossSliceNode(8, attention_dropout=0.5)
    x, motion = torch.rand(3, 8, 8, 8), torch.rand(3, 8, 8, 8)
    run = {mode: [node.train(mode)(3, x, x, motion, motion).motion_hidden for _ in range(2)] for mode in (True, False)}
    assert not torch.equal(*run[True]) and torch.equal(*run[False])


def test_a_target_takes_at_most_ten_anchors():
    """Eq. 5.3: k is the sum of the ten largest IoUs, of 25 anchors that all predict the target."""
    cells = torch.arange(5.0) * 8 + 4
    centres = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).reshape(-1, 2)
    target = torch.tensor([[[20.0, 20.0, 40.0, 40.0, 0.0]]])
    found = assign(
        target[..., :4].expand(1, 25, 4), torch.zeros(1, 25), torch.zeros(1, 25, 1), target, torch.ones(1, 1).bool(),
        centres, 8,
    )  # fmt: skip
    assert found.positive.sum() == 10


# Evaluation and prediction


@pytest.fixture(scope="module")
def weights(data) -> Path:
    path = data.parent / "weights.pth"
    trainer = trainer_of(data, data.parent / "run")
    save_atomically(checkpoint_of(trainer.ema.model, ("target",), (64, 64)), path)
    return path


PROTOCOL = {
    "resize": "stretch", "nms": 0.31, "min_confidence": 0.02, "max_detections": 7, "chunk": 3, "repeat_key_frame": True,
    "frame_interval": 2, "input_size": (96, 96), "intensity": (1.0, 9.0), "device": "cpu",
}  # fmt: skip


def set_in(detector: Detector, names: list[str]) -> dict[str, Any]:
    own = {name: getattr(detector, name) for name in names if name != "device"}
    return own | {"device": str(detector.device)}


def test_the_protocol_of_an_evaluation(data, weights):
    config = vid_map_coco.Config(weights, data_root=data, **PROTOCOL)
    usual = vid_map_coco.Config(weights, data_root=data, device="cpu")
    assert set_in(vid_map_coco._detector(config), list(PROTOCOL)) == PROTOCOL
    theirs = set_in(vid_map_coco._detector(usual), list(PROTOCOL))
    assert [name for name in PROTOCOL if theirs[name] == PROTOCOL[name]] == ["device"]


def test_the_protocol_of_a_prediction(weights):
    names = {field.name for field in fields(vid_predict.Config)}
    given = {name: value for name, value in PROTOCOL.items() if name in names}
    assert {"resize", "nms", "chunk", "frame_interval", "input_size", "intensity"} <= given.keys()
    config = vid_predict.Config("frames", weights=weights, confidence=0.02, **given)
    assert set_in(vid_predict.make_detector(config), list(given)) == given
    assert vid_predict.make_detector(config).min_confidence == 0.02


def test_how_an_evaluation_scores(data):
    annotations = load_annotations(data / "coco_val_DAUB.txt", data)  # a list, which does not state the contrast
    given = {"confidence": 0.01, "include_empty_frames": True, "max_detections": 7, "resamples": 11}
    options = vid_map_coco._options(vid_map_coco.Config(contrast=False, **given), annotations, "full")
    assert {name: options[name] for name in given} == given and options["scr"] is None
    usual = vid_map_coco._options(vid_map_coco.Config(), annotations, "full")
    assert all(usual[name] != given[name] for name in given)
    assert len(usual["scr"]) == len(annotations.coco["annotations"]) and np.isfinite(usual["scr"]).all()


def test_intervals_hold_95_of_100():
    """Half of 100 sequences find their target: 0.5 +- 1.96 x 0.05, the binomial distribution's own interval."""
    truth = [ground_truth([(1, 1, 10, 10, 8, 8)], 1) for _ in range(100)]
    coco = {"categories": truth[0]["categories"], "images": [], "annotations": []}
    for number, one in enumerate(truth, start=1):
        coco["images"].append({**one["images"][0], "id": number, "file_name": f"test/s{number}/1.bmp"})
        coco["annotations"].append({**one["annotations"][0], "id": number, "image_id": number})
    found = [detection(number, 1, 10, 10, 8, 8, 0.9) for number in range(1, 101, 2)]
    low, high = evaluate(coco, found, resamples=2000).intervals["pd"]
    assert (low, high) == pytest.approx((0.402, 0.598), abs=0.015)
