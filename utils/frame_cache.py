"""Letterboxed frames kept from epoch to epoch: in memory, or in files, for all processes that read clips.

Every frame has a slot of its own, which counts only while its checksum is right. So no lock is needed: several
processes may write one slot at once, or be killed while they write; the worst that comes of it is a frame read again.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.cli import UserError
from utils.frames import sequence_frames
from utils.letterbox import Letterbox

HEAD = np.dtype([("stamp", "<u8"), ("height", "<u4"), ("width", "<u4"), ("check", "<u4"), ("unused", "<u4")])
PAGE = 4096  # the pixels of a file begin on one
LAYOUT = 1  # of the files, and of what letterboxing does to a frame: another number leaves older files alone

Entry = tuple[np.ndarray, Letterbox]  # letterboxed grey (H, W) uint8, and how it was done
Load = Callable[[Path], Entry]


class FrameCache(Protocol):
    """Where a data set looks for a frame before it reads the file."""

    def get(self, path: Path, load: Load) -> Entry:
        """The frame of a path: as kept, or through `load(path)`."""


class NoCache:
    """Reads every frame anew."""

    def get(self, path: Path, load: Load) -> Entry:
        return load(path)


class Slots:
    """Heads (N,) and pixels (N, H, W) of N frames in a buffer that other processes may write to."""

    def __init__(self, buffer: mmap.mmap | np.memmap, count: int, size: tuple[int, int]) -> None:
        self.size = size
        self.heads = np.frombuffer(buffer, HEAD, count)
        self.pixels = np.frombuffer(buffer, np.uint8, count * size[0] * size[1], pixels_start(count))
        self.pixels = self.pixels.reshape(count, *size)

    def read(self, number: int, stamp: int) -> Entry | None:
        """The frame of a slot, if it is whole and of this stamp."""
        head = self.heads[number].copy()
        if head["stamp"] != stamp:
            return None
        grey = self.pixels[number].copy()  # first: the slot may be written to while its sum is taken
        image_size = int(head["height"]), int(head["width"])
        if head["check"] != checksum(grey, stamp, image_size):
            return None
        return grey, Letterbox(image_size, self.size)


def pixels_start(count: int) -> int:
    """Where the pixels of so many frames begin."""
    return -(-count * HEAD.itemsize // PAGE) * PAGE


def buffer_bytes(count: int, size: tuple[int, int]) -> int:
    """What so many frames of a size (H, W) need."""
    return pixels_start(count) + count * size[0] * size[1]


def checksum(grey: np.ndarray, stamp: int, image_size: tuple[int, int]) -> int:
    """Of a frame and all that is kept with it."""
    return zlib.crc32(np.ascontiguousarray(grey), zlib.crc32(struct.pack("<QII", stamp, *image_size)))


def make_head(entry: Entry, stamp: int) -> np.ndarray:
    """The head (1,) of a frame's slot."""
    grey, letterbox = entry
    image_size = letterbox.image_size
    return np.array([(stamp, *image_size, checksum(grey, stamp, image_size), 0)], HEAD)


class RamCache:
    """Frames in memory, one copy for a process and all that it forks, at most `max_bytes`.

    Where not all frames fit, those of the first sequences are kept: an epoch sees frames by chance, so none is worth
    more than another. A process that is started afresh (where there is no fork) has a part of its own, one of `shares`.
    Files are taken not to change while a run reads them.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], max_bytes: int, shares: int = 1) -> None:
        self.paths, self.size, self.max_bytes, self.shares = paths, size, max_bytes, max(shares, 1)
        count = min(len(paths), max(0, max_bytes - PAGE) // (size[0] * size[1] + HEAD.itemsize))
        self.number = {os.fspath(path): number for number, path in enumerate(paths[:count])}
        try:
            self.slots = Slots(mmap.mmap(-1, buffer_bytes(count, size)), count, size) if count else None
        except OSError as error:
            raise UserError(
                f"--cache-mb {max_bytes >> 20}: so much memory is not to be had ({error.strerror}); lower it"
            ) from None

    def __getstate__(self) -> tuple:
        return self.paths, self.size, self.max_bytes // self.shares

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def get(self, path: Path, load: Load) -> Entry:
        number = self.number.get(os.fspath(path))
        if number is None:
            return load(path)
        if found := self.slots.read(number, stamp=1):
            return found
        entry = load(path)
        self.slots.pixels[number] = entry[0]
        self.slots.heads[number] = make_head(entry, stamp=1)[0]
        return entry


class DiskCache:
    """Frames in files below `folder`, one memory-mapped file for each sequence, for any number of runs at once.

    A frame whose file has another size, or another time of change, than when it was kept is read again. Files may be
    deleted at any time. When the disk is full the frames are read as without a cache.
    """

    def __init__(self, folder: Path, paths: Iterable[Path], size: tuple[int, int], rule: object) -> None:
        self.folder, self.size = folder, size
        self.writes = True
        self.number: dict[Path, dict[str, int]] = {}
        for path in paths:
            names = self.number.setdefault(path.parent, {})
            names[path.name] = len(names)
        self.file = {parent: folder / _file_name(parent, size, rule) for parent in self.number}
        self.open: dict[Path, Slots] = {}
        try:
            self._make_files()
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); give another --cache-dir") from None

    def _make_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = {}
        for parent, names in self.number.items():
            path, length = self.file[parent], buffer_bytes(len(names), self.size)
            if not path.exists() or path.stat().st_size != length:
                needed[path] = length
        free = shutil.disk_usage(self.folder).free
        if (missing := sum(needed.values())) > free:
            raise UserError(
                f"{self.folder}: {free / 2**20:,.0f} MiB are free, the cache needs {missing / 2**20:,.0f}; "
                "give another --cache-dir, or --cache ram"
            )
        for path, length in needed.items():
            _make_file(path, length)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "open": {}}

    def get(self, path: Path, load: Load) -> Entry:
        number = self.number[path.parent].get(path.name)
        stamp = None if number is None else file_stamp(path)
        if stamp is None:  # not there, or new in its folder: reading says what is wrong with it
            return load(path)
        slots = self._slots(path.parent)
        if slots and (found := slots.read(number, stamp)):
            return found
        entry = load(path)
        if slots and self.writes:
            self._write(path.parent, number, entry, stamp)
        return entry

    def _slots(self, parent: Path) -> Slots | None:
        """The mapped file of a sequence; None where somebody has deleted or cut it."""
        if parent not in self.open:
            count = len(self.number[parent])
            try:
                buffer = np.memmap(self.file[parent], np.uint8, "r", shape=(buffer_bytes(count, self.size),))
            except (OSError, ValueError):
                return None
            self.open[parent] = Slots(buffer, count, self.size)
        return self.open[parent]

    def _write(self, parent: Path, number: int, entry: Entry, stamp: int) -> None:
        """Through the file, not the map: a full disk is then an error here, and not the end of the process."""
        try:
            with open(self.file[parent], "r+b") as file:
                file.seek(pixels_start(len(self.number[parent])) + number * entry[0].nbytes)
                file.write(entry[0].tobytes())
                file.seek(number * HEAD.itemsize)
                file.write(make_head(entry, stamp).tobytes())
        except OSError as error:
            self.writes = False
            print(f"warning: {self.file[parent]}: no more frames are kept ({error.strerror})", file=sys.stderr)


def file_stamp(path: Path) -> int | None:
    """A number, not 0, that changes with a file's name, size, or time of change; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return int(_digest(f"{path.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"), 16) | 1


def _file_name(folder: Path, size: tuple[int, int], rule: object) -> str:
    key = json.dumps([LAYOUT, str(folder.resolve()), size, rule])
    return f"{folder.name}-{_digest(key)}.frames"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _make_file(path: Path, length: int) -> None:
    """An empty file of a length, whole from the moment it has its name; the first of several processes makes it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        os.ftruncate(descriptor, length)
        if path.exists():  # of another length: the sequence has other frames now
            os.replace(name, path)
        else:
            try:
                os.link(name, path)
            except FileExistsError:
                pass
            except OSError:  # no hard links on this disk; of two processes the later file stays, which is as empty
                os.replace(name, path)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def open_cache(
    kind: str, folders: Iterable[Path], size: tuple[int, int], rule: object, max_bytes: int, folder: Path, shares: int
) -> FrameCache:
    """The cache of --cache `kind` for the frames of sequence folders, letterboxed to `size` by the rule of grey."""
    if kind == "off":
        return NoCache()
    paths = [path for parent in dict.fromkeys(folders) for path in sequence_frames(parent)]
    if kind == "ram":
        return RamCache(paths, size, max_bytes, shares)
    return DiskCache(folder, paths, size, rule)
