"""The training commands end to end: files of a run, resuming, options, and what a user sees meanwhile."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vid_map_coco
from tests.training_cases import flags, read_rows, read_weights, run, same_run, small_config
from train_IRDST import IRDSTConfig
from utils.checkpoint import load_network
from utils.clips import collate_clips
from utils.runlog import COLUMNS
from utils.trainer import Trainer

RUN_FILES = {"config.json", "train.log", "metrics.csv", "last.pth", "best.pth", "curves.png"}


# What a run leaves


def test_command_writes_the_files_of_a_run(data_root, tmp_path, capsys):
    status, out, error = run(capsys, flags(data_root, tmp_path / "run"))
    assert status == 0 and error == ""  # no progress bar where there is no terminal
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert out.splitlines()[-1].startswith("done: ") and "best.pth" in out
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written >= RUN_FILES and not [name for name in written if name.endswith(".tmp")]
    assert len([name for name in written if "tfevents" in name]) == 1
    assert Image.open(tmp_path / "run" / "curves.png").width >= 800


def test_metrics_table(finished):
    rows = read_rows(finished)
    assert list(rows[0]) == list(COLUMNS) and [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        values = {name: float(row[name]) for name in COLUMNS}
        assert all(map(math.isfinite, values.values()))
        terms = sum(values[f"train_{name}"] for name in ("iou", "obj", "cls", "motion"))
        assert values["train_total"] == pytest.approx(terms, rel=1e-5)
        assert 0 <= values["val_mAP50"] <= 1
    assert [float(row["lr"]) for row in rows] == pytest.approx([6.25e-5, 6.25e-4])


def test_config_says_how_to_repeat_the_run(finished, data_root):
    content = json.loads((finished / "config.json").read_text())
    assert content["config"]["width"] == 0.125 and content["config"]["data_root"] == str(data_root)
    assert content["config"].keys() == small_config(data_root, finished).to_json().keys()
    assert {"command", "python", "packages", "git", "threads"} <= content["environment"].keys()
    assert content["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]


def test_tensorboard_has_every_column(finished):
    board = EventAccumulator(str(finished)).Reload()
    tags = {name.replace("_", "/", 1) for name in COLUMNS if name != "epoch"}
    assert set(board.Tags()["scalars"]) == tags
    events = board.Scalars("train/total")
    assert [event.step for event in events] == [1, 2]
    assert events[1].value == pytest.approx(float(read_rows(finished)[1]["train_total"]))


def test_checkpoints_hold_what_they_are_for(finished, data_root):
    best, last = finished / "best.pth", finished / "last.pth"
    assert best.stat().st_size < 0.4 * last.stat().st_size  # weights alone; weights, average and momentum
    assert read_weights(best).keys() == {"format", "architecture", "class_names", "input_size", "intensity", "model"}
    for path in (best, last, finished / "epoch_001.pth", finished / "epoch_002.pth"):
        network = load_network(path)
        assert network.class_names == ("target",) and tuple(network.input_size) == (64, 64)
    averages, weights = read_weights(last)["model"], read_weights(last)["training"]["network"]
    assert not torch.equal(averages["neck.pair_weights"], weights["neck.pair_weights"])


def test_evaluation_of_the_best_weights(finished, data_root, tmp_path, capsys):
    arguments = ["--weights", str(finished / "best.pth"), "--data-root", str(data_root), "--output", str(tmp_path)]
    more = ["--device", "cpu", "--speed-frames", "4"]
    assert run(capsys, [*arguments, *more], vid_map_coco.Config, vid_map_coco.main)[0] == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["published"].keys() == {"mAP50", "precision", "recall", "f1"}
    assert metrics["coco"].keys() >= {"AP", "AP50", "AP75", "AP_small", "AR100"}
    for name in ("operating_point", "best_f1"):
        assert metrics[name].keys() >= {"confidence", "precision", "recall", "f1"}
    assert metrics["pd_fa"].keys() >= {"pd", "false_alarms_per_frame", "false_alarms_per_megapixel"}
    assert metrics.keys() >= {"protocol", "per_sequence", "speed"}
    best = min(read_rows(finished), key=lambda row: float(row["val_loss"]))
    assert metrics["published"]["mAP50"] == pytest.approx(float(best["val_mAP50"]), abs=1e-9)


# Learning


def test_network_learns_a_clip_by_heart(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, optimizer="adam", lr=1.0, iou_loss="giou"))
    assert trainer._set_learning_rate() == 1e-4  # the first epoch warms up
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.schedule.peak
    trainer.model.train()
    batch = collate_clips([trainer.loader.dataset.clips[index] for index in (5, 13)])
    losses = [trainer.train_step(batch) for _ in range(40)]
    detection = [step["total"] - step["motion"] for step in losses]
    assert np.mean(detection[-5:]) < 0.5 * np.mean(detection[:5])
    assert losses[-1]["motion"] < losses[0]["motion"]
    for name in ("iou", "obj"):
        assert np.mean([step[name] for step in losses[-5:]]) < np.mean([step[name] for step in losses[:5]])


def test_clips_come_the_same_from_lists_and_processes(data_root, tmp_path, finished):
    lists = {"train_list": data_root / "coco_train_DAUB.txt", "val_list": data_root / "coco_val_DAUB.txt"}
    Trainer(small_config(data_root, tmp_path, workers=1, **lists)).fit()
    assert same_run(tmp_path, finished)


def test_seed_decides(data_root, tmp_path, finished):
    Trainer(small_config(data_root, tmp_path, seed=1, epochs=1)).fit()
    assert read_rows(tmp_path)[0]["train_total"] != read_rows(finished)[0]["train_total"]


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"channels_last": False}])
def test_options_change_little_in_the_first_epoch(options, data_root, tmp_path, finished):
    Trainer(small_config(data_root, tmp_path, **options, epochs=1)).fit()
    mine, plain = read_rows(tmp_path)[0], read_rows(finished)[0]
    for name in ("train_total", "train_motion"):
        assert float(mine[name]) == pytest.approx(float(plain[name]), rel=0.05)
    assert {value.dtype for value in read_weights(tmp_path / "best.pth")["model"].values()} == {
        torch.float32,
        torch.int64,
    }


def test_bf16_is_used_where_asked_for(data_root, tmp_path):
    kinds = {}
    for amp in ("off", "bf16"):
        trainer = Trainer(small_config(data_root, tmp_path, amp=amp, batch_size=2))
        trainer.model.train()
        kinds[amp] = trainer.step.forward(next(iter(trainer.loader)))[0].dtype
    assert kinds == {"off": torch.float32, "bf16": torch.bfloat16}


def test_cross_slice_with_crops_and_other_losses(data_root, tmp_path, capsys):
    options = {"preset": "cross-slice", "crop": 32, "flip": True, "photometric": 0.1, "iou_loss": "giou"}
    more = {"epochs": 1, "epoch_share": 0.3, "best_by": "mAP50", "optimizer": "adam", "schedule": "step"}
    status, out, _ = run(capsys, flags(data_root, tmp_path, **options, **more), IRDSTConfig)
    assert status == 0 and "epoch 1/1" in out and "best.pth" in out
    architecture = read_weights(tmp_path / "best.pth")["architecture"]
    assert (architecture["num_slices"], architecture["num_layers"]) == (2, 2)


def test_frames_without_targets_are_no_fault(data_root, tmp_path, capsys):
    lists = {}
    for kind, name in (("train_list", "coco_train_DAUB.txt"), ("val_list", "coco_val_DAUB.txt")):
        paths = [line.split()[0] for line in (data_root / name).read_text().splitlines()]
        lists[kind] = tmp_path / name
        lists[kind].write_text("\n".join(paths))
    Trainer(small_config(data_root, tmp_path / "run", epochs=1, **lists)).fit()
    assert f"warning: {lists['train_list']}: no box in it" in capsys.readouterr().err
    row = read_rows(tmp_path / "run")[0]
    assert (row["train_iou"], row["train_cls"], row["val_mAP50"]) == ("0.0", "0.0", "0.0")
    assert float(row["train_obj"]) > 0 and (tmp_path / "run" / "best.pth").exists()


# Validation at an interval


@pytest.mark.parametrize(("epochs", "interval", "validated"), [(4, 3, [2, 3]), (2, 5, [1])])
def test_epochs_without_validation_leave_cells_empty(data_root, tmp_path, capsys, epochs, interval, validated):
    status, out, _ = run(capsys, flags(data_root, tmp_path, epochs=epochs, val_interval=interval, epoch_share=0.3))
    rows = read_rows(tmp_path)
    assert status == 0 and [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(epochs)]
    assert [n for n, row in enumerate(rows) if row["val_loss"] and row["val_mAP50"]] == validated
    assert out.count("val loss") == len(validated) and (tmp_path / "best.pth").exists()


def test_best_is_the_lowest_number(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path))
    assert trainer._improves(float("nan"))  # something must be there to evaluate
    (tmp_path / "best.pth").touch()
    scores = (5.0, float("nan"), 6.0, 4.0, 4.0)
    assert [trainer._improves(score) for score in scores] == [True, False, False, True, False]
