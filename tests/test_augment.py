"""The epoch sampler and the augmentation of clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.training_cases import make_data, small_config
from utils import show_batch
from utils.annotations import load_annotations, write_list
from utils.augment import Augmentation, EpochSampler, TrainingClips, random_crop
from utils.cli import UserError
from utils.clips import ClipDataset, ClipSample
from utils.trainer import Trainer

PRESETS = {"cross-slice": (2, 2), "released": (1, 1)}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("trainer") / "data")


# Sampler


@given(clips=st.integers(1, 300), share=st.floats(0.01, 1), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_sampler_draws_a_share_without_repeats(clips, share, seed):
    sampler = EpochSampler(clips, share, seed)
    drawn = [index for index, _ in sampler]
    assert len(drawn) == len(sampler) >= 1
    assert len(drawn) == 1 or len(drawn) - 1e-6 <= clips * share < len(drawn) + 1
    assert len(set(drawn)) == len(drawn) and set(drawn) <= set(range(clips))


@pytest.mark.parametrize(("clips", "share", "count"), [(100, 0.29, 29), (1000, 0.0333, 33), (7, 0.5, 3), (3, 0.2, 1)])
def test_sizes_of_a_share(clips, share, count):
    """100 * 0.29 is less than 29 in floating point."""
    assert len(EpochSampler(clips, share, 0)) == count


def test_sampler_depends_on_seed_and_epoch_alone():
    def draw(seed: int, epoch: int) -> list:
        sampler = EpochSampler(100, 0.2, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert draw(1, 0) == draw(1, 0)
    assert len({tuple(draw(seed, epoch)) for seed in (1, 2) for epoch in range(20)}) == 40
    seen = {index for epoch in range(60) for index, _ in draw(1, epoch)}
    assert seen == set(range(100))  # in the end every clip has its turn


# Augmentation


def marked_sample(height: int, width: int, column: int, row: int) -> ClipSample:
    """A dark clip with one bright pixel, which a box of 3 x 3 pixels is centred on."""
    clip = torch.full((3, height, width), 40, dtype=torch.uint8)
    clip[:, row, column] = 200
    return ClipSample(clip, torch.tensor([[column + 0.5, row + 0.5, 3.0, 3.0, 0.0]]), 7)


@settings(deadline=None, max_examples=300)
@given(
    height=st.sampled_from([32, 64, 96]),
    width=st.sampled_from([32, 64, 96]),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    crop=st.sampled_from([0, 32, 64, 128]),
    flip=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_target_stays_on_its_pixel(height, width, place, crop, flip, seed):
    column, row = 2 + int(place[0] * (width - 5)), 2 + int(place[1] * (height - 5))
    sample = marked_sample(height, width, column, row)
    original = (sample.clip.clone(), sample.targets.clone())
    result = Augmentation(crop=crop, flip=flip)(sample, torch.Generator().manual_seed(seed))
    assert torch.equal(sample.clip, original[0]) and torch.equal(sample.targets, original[1])
    sides = {min(crop, height), min(crop, width)} if crop else {height, width}
    assert set(result.clip.shape[1:]) == sides and result.index == 7 and result.clip.dtype == torch.uint8
    bright = (result.clip[-1] == 200).nonzero()
    assert len(bright) == len(result.targets)  # both are there, or both are cut off
    for centre_x, centre_y, box_width, box_height, _ in result.targets.tolist():
        at_edge = box_width < 3 or box_height < 3  # clipped, so its middle moved off the pixel
        if not at_edge:
            assert (centre_y - 0.5, centre_x - 0.5) == tuple(bright[0].tolist())


@settings(deadline=None, max_examples=50)
@given(column=st.floats(4, 124), row=st.floats(4, 92), seed=st.integers(0, 2**62))
def test_crop_around_a_target_holds_its_centre(column, row, seed):
    clip = torch.zeros(2, 96, 128, dtype=torch.uint8)
    target = torch.tensor([[column, row, 8.0, 8.0, 0.0]])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        cut, targets = random_crop(clip, target, 32, 1.0, generator)
        assert cut.shape == (2, 32, 32) and len(targets) == 1
        low, high = targets[0, :2] - targets[0, 2:4] / 2, targets[0, :2] + targets[0, 2:4] / 2
        assert (low >= 0).all() and (high <= 32).all() and (targets[0, 2:4] >= 4).all()


def test_share_of_crops_around_a_target():
    """Few crops hold the target by chance."""
    clip, target = torch.zeros(1, 256, 256, dtype=torch.uint8), torch.tensor([[128.0, 128.0, 8.0, 8.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    held = {s: sum(len(random_crop(clip, target, 32, s, generator)[1]) for _ in range(400)) for s in (0.0, 0.5, 1.0)}
    assert held[0.0] < 40 and 180 < held[0.5] < 260 and held[1.0] == 400


def test_crop_of_a_clip_without_targets():
    empty, generator = torch.zeros(2, 64, 64, dtype=torch.uint8), torch.Generator()
    clip, targets = random_crop(empty, torch.zeros(0, 5), 32, 1.0, generator)
    assert clip.shape == (2, 32, 32) and targets.shape == (0, 5)


def test_photometric_change_is_the_same_in_all_frames():
    sample = marked_sample(32, 32, 5, 6)
    clip = Augmentation(photometric=0.2)(sample, torch.Generator().manual_seed(1)).clip
    assert torch.equal(clip[0], clip[1]) and torch.equal(clip[0], clip[2])
    assert not torch.equal(clip, sample.clip)
    assert abs(int(clip[0, 0, 0]) - 40) <= 0.2 * 88 + 0.2 * 255 + 1


def test_default_augmentation_changes_nothing(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path))
    clips: TrainingClips = trainer.loader.dataset
    for index in range(3):
        plain, augmented = clips.clips[index], clips[(index, 99)]
        assert torch.equal(plain.clip, augmented.clip) and torch.equal(plain.targets, augmented.targets)


def test_augmentation_leaves_the_cached_frames_alone(data_root, tmp_path):
    trainer = Trainer(small_config(data_root, tmp_path, crop=32, flip=True, photometric=0.5))
    clips: TrainingClips = trainer.loader.dataset
    before = [clips.clips[index].clip.clone() for index in range(len(clips))]
    for seed in range(3):
        for index in range(len(clips)):
            clips[(index, seed)]
    assert all(torch.equal(clips.clips[index].clip, clip) for index, clip in enumerate(before))
    same, other = (clips[(2, seed)].clip for seed in (5, 6))
    assert torch.equal(same, clips[(2, 5)].clip) and not torch.equal(same, other)


# Frames and noise


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Ten frames, frame n all grey 10 n but for its target; every frame is annotated."""
    root = tmp_path_factory.mktemp("counted")
    for number in range(10):
        Image.fromarray(np.full((64, 64), 10 * number, np.uint8)).save(root / f"{number}.bmp")
    write_list(root / "list.txt", [(f"{n}.bmp", [(n, 8, n + 8, 16, 0)]) for n in range(10)])
    return ClipDataset(load_annotations(root / "list.txt", root), (64, 64), 5)


def frames_of(sample: ClipSample) -> list[int]:
    return [int(frame[0, 0]) // 10 for frame in sample.clip]


def test_backward_clips_end_at_their_key_frame(counted):
    training = TrainingClips(counted, Augmentation(time_reversal=True))
    expected = {
        0: {(0, 0, 0, 0, 0), (4, 3, 2, 1, 0)},
        5: {(1, 2, 3, 4, 5), (9, 8, 7, 6, 5)},
        8: {(4, 5, 6, 7, 8), (9, 9, 9, 9, 8)},  # the last frame stands still, as the first does in forward clips
    }
    for index, clips in expected.items():
        samples = [training[index, seed] for seed in range(20)]
        assert {tuple(frames_of(sample)) for sample in samples} == clips
        for sample in samples:  # the boxes are the key frame's
            assert sample.index == index
            assert sample.targets.tolist() == [[index + 4, 12, 8, 8, 0]]


def test_dropped_frames_leave_the_key_frame_and_the_order(counted):
    training = TrainingClips(counted, Augmentation(frame_drop=0.5))
    clips = [frames_of(training[9, seed]) for seed in range(40)]
    assert all(clip[-1] == 9 and clip == sorted(clip) and len(clip) == 5 for clip in clips)
    assert len({tuple(clip) for clip in clips}) > 10 and [5, 6, 7, 8, 9] in clips
    gaps = [9 - clip[-2] for clip in clips]
    assert 1 < sum(gaps) / len(gaps) < 3  # 2 in the mean
    assert frames_of(training[1, 3])[0] == 0


@given(
    seed=st.integers(0, 2**32), drop=st.floats(0, 0.9), reverse=st.booleans(), frames=st.integers(2, 9),
    interval=st.integers(1, 4),
)  # fmt: skip
@settings(deadline=None)
def test_plans_step_evenly_away_from_the_key_frame(seed, drop, reverse, frames, interval):
    augmentation = Augmentation(time_reversal=reverse, frame_drop=drop)
    places, nearest = (augmentation.plan(frames, n, torch.Generator().manual_seed(seed)) for n in (interval, 1))
    assert len(places) == frames and places[-1] == 0
    assert places == [interval * place for place in nearest]
    ways = {1 if later > earlier else -1 for earlier, later in zip(places, places[1:], strict=False)}
    assert ways == {1} or (ways == {-1} and reverse)


def test_noise_has_one_level_for_a_clip_and_differs_between_frames():
    sample = ClipSample(torch.full((5, 64, 64), 128, dtype=torch.uint8), torch.zeros(0, 5), 0)
    deviations = []
    for seed in range(12):
        clip = Augmentation(noise=20)(sample, torch.Generator().manual_seed(seed)).clip.float()
        levels = clip.flatten(1).std(1)
        assert levels.max() - levels.min() < 0.1 * levels.mean() + 0.1
        assert levels.mean() < 1 or (clip[0] != clip[1]).any()
        deviations.append(float(levels.mean()))
    assert min(deviations) < 5 and 14 < max(deviations) < 21
    assert sample.clip.unique().tolist() == [128]  # the sample itself stays


@pytest.mark.parametrize("interval", [1, 2])
def test_nothing_happens_by_default(counted, interval):
    clips = ClipDataset(counted.annotations, (64, 64), 5, frame_interval=interval)
    training = TrainingClips(clips, Augmentation())
    for index in range(10):
        assert torch.equal(training[index, 7].clip, clips[index].clip)
    assert frames_of(training[9, 7]) == [9 - interval * back for back in (4, 3, 2, 1, 0)]


def test_picture_of_a_batch(data_root, tmp_path, capsys):
    settings_of_run = small_config(data_root, tmp_path / "run", batch_size=2, flip=True, noise=5.0, crop=32)
    show_batch.main(show_batch.Config(**vars(settings_of_run), output=tmp_path / "batch.png"))
    with pytest.raises(UserError, match="give --output with the picture's type, such as .*batch.png"):
        show_batch.main(show_batch.Config(**vars(settings_of_run), output=tmp_path / "batch"))
    with Image.open(tmp_path / "batch.png") as picture:
        assert picture.height > picture.width > 300
    assert "2 clips" in capsys.readouterr().out
    with pytest.raises(UserError, match="--frame-drop 1.0: must be"):
        small_config(data_root, tmp_path, frame_drop=1.0)
