"""Clips: which frames they hold, what a sample holds, and errors that cross worker processes."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from utils.annotations import load_annotations, write_list
from utils.cli import UserError
from utils.clips import (
    ClipBatch,
    ClipDataset,
    ClipIndex,
    clip_places,
    collate_clips,
    normalise_clips,
    normalise_frames,
)

NUMBERS = (0, 1, 2, 9, 10, 11)  # one jump

# A loaded machine is no fault of the code.
UNHURRIED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def clip_names(folder: Path, key: str, num_frames: int = 5) -> list[str]:
    return [path.name for path in ClipIndex().frames_at(folder / key, clip_places(num_frames))]


@pytest.fixture
def annotations(tmp_path):
    """Six frames of 20 x 40 pixels; frame n is grey n, but for a white target of 4 x 4 at (2n, 8)."""
    rows = []
    for number in NUMBERS:
        pixels = np.full((20, 40), number, np.uint8)
        pixels[8:12, 2 * number : 2 * number + 4] = 255
        path = tmp_path / "images" / "1" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        boxes = [[2 * number, 8, 2 * number + 4, 12, 0]] if number != 2 else []
        rows.append((f"images/1/{number}.bmp", boxes))
    write_list(tmp_path / "list.txt", rows)
    return load_annotations(tmp_path / "list.txt", tmp_path)


def test_known_clips(tmp_path):
    for name in ["0.bmp", "1.bmp", "2.bmp", "10.bmp", "9.bmp", "8.bmp", "notes.txt"]:
        (tmp_path / name).touch()
    assert clip_names(tmp_path, "0.bmp") == ["0.bmp"] * 5
    assert clip_names(tmp_path, "2.bmp") == ["0.bmp", "0.bmp", "0.bmp", "1.bmp", "2.bmp"]
    assert clip_names(tmp_path, "9.bmp", 3) == ["8.bmp", "8.bmp", "9.bmp"]  # 8 comes after a jump
    assert clip_names(tmp_path, "10.bmp", 3) == ["8.bmp", "9.bmp", "10.bmp"]


def test_folder_is_listed_once(tmp_path):
    (tmp_path / "0.bmp").touch()
    index = ClipIndex()
    first = index.runs(tmp_path)
    (tmp_path / "1.bmp").touch()
    assert index.runs(tmp_path) == first == [[tmp_path / "0.bmp"]]


def test_key_frame_that_is_not_there(tmp_path):
    (tmp_path / "0.bmp").touch()
    with pytest.raises(UserError, match=r"7\.bmp: no such frame in this folder"):
        ClipIndex().frames_at(tmp_path / "7.bmp", clip_places(5))


def test_clips_of_every_third_frame(tmp_path, annotations):
    for number in range(9):
        (tmp_path / f"{number}.bmp").touch()
    names = [path.name for path in ClipIndex().frames_at(tmp_path / "7.bmp", clip_places(4, 3))]
    assert names == ["0.bmp", "1.bmp", "4.bmp", "7.bmp"]
    dataset = ClipDataset(annotations, (32, 64), 3, frame_interval=2)
    assert dataset[5].clip[:, 0, 0].tolist() == [9, 9, 11]  # what 7 would be lies before the jump


@UNHURRIED
@given(st.sets(st.integers(0, 40), min_size=2, max_size=12), st.integers(2, 7))
def test_clips_are_neighbours_that_end_at_the_key(numbers, num_frames):
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            Path(folder, f"f{number}.png").touch()
        index = ClipIndex()
        steps = np.diff(sorted(numbers))
        usual = min(steps, key=lambda step: (-(steps == step).sum(), step))
        if (steps == usual).sum() < len(steps) / 4:
            usual = sorted(steps)[(len(steps) - 1) // 2]
        for number in numbers:
            paths = index.frames_at(Path(folder, f"f{number}.png"), clip_places(num_frames))
            clip = [int(path.stem[1:]) for path in paths]
            assert len(clip) == num_frames
            assert clip[-1] == number
            new = [a for a, b in zip(clip, clip[1:], strict=False) if a != b] + [number]  # without repetitions
            present = [n for n in sorted(numbers) if n <= number][-len(new) :]
            assert new == present
            assert all(b - a <= 1.5 * usual for a, b in zip(new, new[1:], strict=False))
            if len(new) < num_frames and new[0] != min(numbers):
                before = max(n for n in numbers if n < new[0])
                assert new[0] - before > 1.5 * usual  # a clip is short only where a run begins


def test_sample_of_known_values(annotations):
    dataset = ClipDataset(annotations, (64, 64), 3)  # scale 1.6: 32 x 64, 16 rows of padding above
    assert len(dataset) == 6
    sample = dataset[4]  # key frame 10
    assert sample.clip.shape == (3, 64, 64) and sample.clip.dtype == torch.uint8
    assert sample.index == 4
    assert sample.clip[:, 0, 0].tolist() == [128, 128, 128]
    assert sample.clip[:, 20, 60].tolist() == [9, 9, 10]
    # 20, 8, 24, 12 -> 32, 28.8, 38.4, 35.2 -> whole pixels 32, 28, 38, 35
    assert sample.targets.tolist() == [[35, 31.5, 6, 7, 0]]
    assert dataset[2].targets.shape == (0, 5)


def test_reading_a_sample_again_gives_the_same(annotations):
    before = [record.boxes.copy() for record in annotations.records]
    dataset = ClipDataset(annotations, (64, 96), 5)
    for _ in range(2):
        samples = [dataset[index] for index in range(len(dataset))]
        fresh = [ClipDataset(annotations, (64, 96), 5)[index] for index in range(len(dataset))]
        for sample, other in zip(samples, fresh, strict=True):
            assert torch.equal(sample.clip, other.clip)
            assert torch.equal(sample.targets, other.targets)
    for record, boxes in zip(annotations.records, before, strict=True):
        np.testing.assert_array_equal(record.boxes, boxes)


def test_changing_a_sample_changes_no_other(annotations):
    dataset = ClipDataset(annotations, (32, 64), 3)
    first = dataset[1]
    kept = first.clip.clone()
    first.clip.zero_()
    first.targets.zero_()
    assert torch.equal(dataset[1].clip, kept)
    assert dataset[1].targets.abs().sum() > 0


def test_frames_of_two_sizes_in_a_clip(annotations):
    odd = annotations.records[1].path
    Image.fromarray(np.zeros((21, 40), np.uint8)).save(odd)
    dataset = ClipDataset(annotations, (32, 64), 3)
    with pytest.raises(UserError, match=r"images/1/1\.bmp: \(21, 40\) pixels .* 2\.bmp beside it has \(20, 40\)"):
        dataset[2]


def test_loader_gives_the_same_with_workers(annotations):
    dataset = ClipDataset(annotations, (32, 64), 3)
    alone, shared = (
        list(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate_clips)) for workers in (0, 2)
    )
    assert [batch.clips.shape for batch in shared] == [(4, 3, 32, 64), (2, 3, 32, 64)]
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.indices, other.indices)
        assert len(one.targets) == len(other.targets)
        assert all(torch.equal(a, b) for a, b in zip(one.targets, other.targets, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_read_errors_reach_the_user_as_one_line(annotations, workers):
    broken = annotations.records[3].path
    broken.write_bytes(broken.read_bytes()[:-50])
    dataset = ClipDataset(annotations, (32, 64), 3)
    with pytest.raises(UserError) as failure:
        list(DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate_clips))
    message = str(failure.value)
    assert message.startswith(f"{broken}: truncated or broken image")
    assert "\n" not in message and "Traceback" not in message


@pytest.mark.parametrize("counts", [(0, 0), (2, 0, 1)])
def test_batch_survives_pickling(counts):
    targets = [torch.rand(count, 5) for count in counts]
    batch = ClipBatch(torch.zeros(len(counts), 3, 4, 4, dtype=torch.uint8), targets, torch.arange(len(counts)))
    copy = pickle.loads(pickle.dumps(batch))
    assert torch.equal(copy.clips, batch.clips) and torch.equal(copy.indices, batch.indices)
    assert [len(t) for t in copy.targets] == list(counts)
    assert all(torch.equal(a, b) for a, b in zip(copy.targets, targets, strict=True))


def test_normalised_values():
    clips = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 4, 6)
    normalised = normalise_clips(clips)
    assert normalised.shape == (2, 3, 3, 4, 6) and normalised.dtype == torch.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for frame, value in enumerate([0, 0.2, 1]):
        np.testing.assert_allclose(normalised[1, :, frame, 2, 3], (value - mean) / std, rtol=1e-6)
    assert torch.equal(normalise_frames(clips[0]), normalised[0].transpose(0, 1))
