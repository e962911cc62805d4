"""The cache of frames: whatever it holds and whoever writes to it, a clip is what its files say."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from tests.training_cases import make_data, read_weights, same_state, small_config
from utils.annotations import load_annotations, write_list
from utils.cli import UserError
from utils.clips import ClipDataset, collate_clips
from utils.frame_cache import DiskCache, NoCache, RamCache, buffer_bytes, make_head, open_cache, pixels_start
from utils.frames import read_frame, sequence_frames
from utils.letterbox import Letterbox
from utils.trainer import Trainer

SIZE = (32, 64)
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked, and memory shared, on Linux")


def load(path: Path):
    grey = read_frame(path)
    letterbox = Letterbox(grey.shape, SIZE)
    return letterbox.image(grey), letterbox


def refuse(path: Path):
    raise AssertionError(f"{path} is read again")


@pytest.fixture
def frames(tmp_path) -> list[Path]:
    """Six frames of 20 x 40 and six of 30 x 30 pixels, in two folders."""
    rng = np.random.default_rng(0)
    for folder, shape in (("a", (20, 40)), ("b", (30, 30))):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(6):
            picture = rng.integers(0, 256, shape, np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / folder / f"{number}.bmp")
    return [path for folder in "ab" for path in sequence_frames(tmp_path / "images" / folder)]


def make_cache(kind: str, frames: list[Path], folder: Path, max_bytes: int = 2**20, rule: object = "full"):
    return open_cache(kind, [path.parent for path in frames], SIZE, rule, max_bytes, folder / "cache", shares=2)


def is_right(cache, path: Path) -> bool:
    """Whether a cache gives what the file gives."""
    (grey, letterbox), (expected, other) = cache.get(path, load), load(path)
    return np.array_equal(grey, expected) and letterbox == other


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_frames_are_read_once(kind, frames, tmp_path):
    cache = make_cache(kind, frames, tmp_path)
    expected = [load(path) for path in frames]
    assert all(is_right(cache, path) for path in frames)
    for path, (grey, letterbox) in zip(frames, expected, strict=True):
        kept = cache.get(path, refuse)
        assert np.array_equal(kept[0], grey) and kept[1] == letterbox
        kept[0][:] = 7  # what came out is the caller's
        assert np.array_equal(cache.get(path, refuse)[0], grey)


@pytest.mark.parametrize("kind", ["off", "ram", "disk"])
def test_clips_are_the_same_with_any_cache_and_workers(kind, frames, tmp_path):
    write_list(tmp_path / "list.txt", [(str(path.relative_to(tmp_path)), [[4, 4, 12, 12, 0]]) for path in frames])
    annotations = load_annotations(tmp_path / "list.txt", tmp_path)
    plain = ClipDataset(annotations, SIZE, 3)
    cached = ClipDataset(annotations, SIZE, 3, make_cache(kind, frames, tmp_path))
    for workers in (2, 0):
        batches = list(DataLoader(cached, 4, num_workers=workers, collate_fn=collate_clips))
        clips = torch.cat([batch.clips for batch in batches])
        assert torch.equal(clips, torch.stack([plain[k].clip for k in range(len(plain))]))
        targets = [target for batch in batches for target in batch.targets]
        assert all(torch.equal(target, plain[k].targets) for k, target in enumerate(targets))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_what_a_worker_has_read_is_there_for_the_others(kind, frames, tmp_path):
    cache = make_cache(kind, frames, tmp_path)
    in_process(lambda: [cache.get(path, load) for path in frames])
    for path in frames:
        cache.get(path, refuse)


def in_process(work) -> int:
    """Run in a forked process; returns its exit status."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("most, kept", [(0, 0), (6000, 0), (4096 + 2072, 1), (4096 + 5 * 2072 + 7, 5), (2**20, 12)])
def test_memory_is_bounded(most, kept, frames):
    cache = RamCache(frames, SIZE, most)
    assert len(cache.number) == kept and (not kept or buffer_bytes(kept, SIZE) <= most)
    for _ in range(2):
        assert all(is_right(cache, path) for path in frames)
    read = []
    for path in frames:
        cache.get(path, lambda path: read.append(path) or load(path))
    assert read == frames[kept:]


def test_a_process_that_is_started_afresh_has_a_share(frames):
    cache = RamCache(frames, SIZE, 8 * buffer_bytes(1, SIZE), shares=2)
    assert is_right(cache, frames[0])
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.max_bytes == 4 * buffer_bytes(1, SIZE) and len(copy.number) < len(cache.number)
    assert is_right(copy, frames[0]) and np.array_equal(copy.get(frames[0], refuse)[0], load(frames[0])[0])


# Files


def test_another_run_finds_the_files(frames, tmp_path):
    assert all(is_right(make_cache("disk", frames, tmp_path), path) for path in frames)
    later = make_cache("disk", frames, tmp_path)
    for path in frames:
        later.get(path, refuse)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # one a sequence, nothing temporary
    copy = pickle.loads(pickle.dumps(later))
    copy.get(frames[0], refuse)


def test_a_disk_without_hard_links(frames, tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for _ in range(2):
        cache = make_cache("disk", frames, tmp_path)
        assert all(is_right(cache, path) for path in frames)
    for path in frames:
        cache.get(path, refuse)
    assert list((tmp_path / "cache").glob("*.frames")) and not list((tmp_path / "cache").glob("*.tmp"))


def test_another_rule_or_size_has_files_of_its_own(frames, tmp_path):
    cache = make_cache("disk", frames, tmp_path)
    other = make_cache("disk", frames, tmp_path, rule=(1000.0, 2000.0))
    larger = DiskCache(tmp_path / "cache", frames, (64, 64), "full")
    assert len({*cache.file.values(), *other.file.values(), *larger.file.values()}) == 6


def test_a_changed_frame_is_noticed(frames, tmp_path):
    cache = make_cache("disk", frames, tmp_path)
    assert is_right(cache, frames[1])
    before = frames[1].stat()
    Image.fromarray(np.full((20, 40), 9, np.uint8)).save(frames[1])
    os.utime(frames[1], ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy with times does
    assert frames[1].stat().st_size == before.st_size
    assert is_right(cache, frames[1]) and (cache.get(frames[1], refuse)[0] == 9).any()
    with pytest.raises(UserError, match="no such frame"):
        frames[1].unlink()
        cache.get(frames[1], load)


def test_frames_that_were_added_are_noticed(frames, tmp_path):
    cache = make_cache("disk", frames, tmp_path)
    assert all(is_right(cache, path) for path in frames)
    new = frames[0].with_name("0_5.bmp")  # between the others
    Image.fromarray(np.full((20, 40), 50, np.uint8)).save(new)
    assert is_right(cache, new)  # listed before it came
    later = make_cache("disk", frames, tmp_path)
    for each in (later, cache):
        assert all(is_right(each, path) for path in [*sequence_frames(new.parent), *frames])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.integers(0, SIZE[0] * SIZE[1] + 24), old=st.booleans())
def test_a_writer_that_ends_at_any_byte_does_no_harm(written, old, frames, tmp_path):
    """Pixels go first, then the head; `old`: into a slot that held the frame as it was before it changed."""
    cache = make_cache("disk", frames, tmp_path)
    path, number = frames[2], 2
    stale = np.full(SIZE, 3, np.uint8), Letterbox((20, 40), SIZE)
    cache._write(path.parent, number, stale, stamp=12345 if old else 0)
    pixels = load(path)[0].tobytes()
    head = make_head(load(path), stamp=67890).tobytes()
    with open(cache.file[path.parent], "r+b") as file:
        file.seek(pixels_start(6) + number * len(pixels))
        file.write(pixels[:written])
        file.seek(number * len(head))
        file.write(head[: max(0, written - len(pixels))])
        file.seek(number * len(head))
        whole = file.read(len(head)) == head  # also where the last bytes, not written, are those that were there
    slots = cache._slots(path.parent)
    found = slots.read(number, 67890)
    assert (found is not None) == whole
    assert not whole or np.array_equal(found[0], load(path)[0])
    assert slots.read(number, 12345) is None or written == 0
    assert is_right(cache, path)


def test_killed_writers_do_no_harm(frames, tmp_path):
    cache = make_cache("disk", frames, tmp_path)

    def write_for_ever():
        entries = [load(path) for path in frames]
        while True:
            for number in range(6):
                cache._write(frames[number].parent, number, entries[number], stamp=random.getrandbits(32))

    for _ in range(8):
        process = FORK.Process(target=write_for_ever)
        process.start()
        time.sleep(random.uniform(0.02, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert all(is_right(cache, path) for path in frames)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_several_processes_fill_one_cache_at_once(kind, frames, tmp_path):
    shared = make_cache(kind, frames, tmp_path)

    def use(seed: int) -> None:
        cache = make_cache("disk", frames, tmp_path) if kind == "disk" else shared
        order = random.Random(seed).choices(frames, k=150)
        os._exit(0 if all(is_right(cache, path) for path in order) else 1)

    processes = [FORK.Process(target=use, args=(seed,)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    for path in frames:
        make_cache(kind, frames, tmp_path).get(path, refuse if kind == "disk" else load)


def test_a_full_disk_ends_the_keeping_and_not_the_run(frames, tmp_path, capfd):
    cache = make_cache("disk", frames, tmp_path)

    def use() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no byte beyond in any file: the pixels begin there
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os._exit(0 if all(is_right(cache, path) for path in frames) else 1)

    assert in_process(use) == 0
    said = capfd.readouterr().err
    assert said.count("warning") == said.count("no more frames are kept") == 1


def test_files_that_are_deleted_meanwhile(frames, tmp_path, capfd):
    cache = make_cache("disk", frames, tmp_path)
    assert is_right(cache, frames[0])
    for path in cache.file.values():
        path.unlink()
    assert all(is_right(cache, path) for path in frames)
    assert capfd.readouterr().err.count("no more frames are kept") == 1


def test_a_cut_file_is_made_anew(frames, tmp_path):
    cache = make_cache("disk", frames, tmp_path)
    path = cache.file[frames[0].parent]
    path.write_bytes(b"something else")
    assert all(is_right(cache, path) for path in frames)  # never mapped: read as without a cache
    again = make_cache("disk", frames, tmp_path)
    assert path.stat().st_size == buffer_bytes(6, SIZE)
    assert all(is_right(again, path) for path in frames)


def test_a_folder_that_cannot_be_written_is_named(frames, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="file/cache: cannot be written .*--cache-dir"):
        make_cache("disk", frames, tmp_path / "file")


def test_off_keeps_nothing(frames, tmp_path):
    assert isinstance(make_cache("off", frames, tmp_path), NoCache) and not (tmp_path / "cache").exists()


# Training


def test_training_is_the_same_with_any_cache(tmp_path):
    root = make_data(tmp_path / "data")
    kept = {"off": {}, "ram": {"cache_mb": 1}, "disk": {"cache_dir": tmp_path / "kept"}}
    models = []
    for kind, workers in (("off", 0), ("ram", 2), ("disk", 2), ("disk", 0)):
        run = tmp_path / f"{kind}{workers}"
        config = small_config(root, run, epochs=1, cache=kind, workers=workers, flip=True, **kept[kind])
        Trainer(config).fit()
        models.append(read_weights(run / "last.pth")["model"])
    assert all(same_state(models[0], model) for model in models[1:])
    assert len(list((tmp_path / "kept").glob("data*.frames"))) == 2  # of the training sequences


def test_a_dry_run_writes_no_cache(tmp_path):
    root = make_data(tmp_path / "data")
    Trainer(small_config(root, tmp_path / "run", cache="disk", cache_dir=tmp_path / "kept", dry_run=True))
    assert not (tmp_path / "kept").exists()
