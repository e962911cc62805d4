"""One training run per run folder at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from utils.cli import UserError

try:
    import fcntl
except ImportError:  # Windows: runs there are not kept apart
    fcntl = None

LOCK = ".lock"


class RunLock:
    """A run folder kept for this process until `release`, or until it ends, however it does.

    UserError where another process has it. A file system without locks keeps nobody out.
    """

    def __init__(self, run_dir: Path):
        path = run_dir / LOCK
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); pass another --run-dir") from None
        if fcntl is None:
            return
        try:  # a record lock: a loader's process, forked, has no part in it and cannot outlive this one with it
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            holder = os.read(self._file, 32).decode("ascii", "replace").strip()
            self.release()
            raise UserError(
                f"{run_dir}: process {holder or 'unknown'} trains there; wait for its end, or pass another --run-dir"
            ) from None
        except OSError:  # no locks here, as on some network file systems
            return
        with suppress(OSError):  # a full disk: the lock holds, its holder has no name
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have the folder; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
