"""SIGTERM (what Slurm sends) and SIGINT (Ctrl-C): noted when they come, obeyed where a run can be saved."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from multiprocessing.sharedctypes import RawValue
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run that was asked to stop has saved what it had."""


class StopSignals:
    """Context in which both signals are noted in `received` instead of ending the process.

    The first SIGINT is answered on standard error; a second one raises `KeyboardInterrupt` at once. Not where
    `patient`: torchrun passes on the SIGINT that the terminal has sent to every process already. The handlers are set
    even where the process was started with the signal ignored, as a shell does to commands in the background. Threads
    other than the main one may not set handlers: there nothing is noted.
    """

    def __init__(self, patient: bool = False) -> None:
        self.received: signal.Signals | None = None
        self._patient = patient
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: a handler that Python did not set and cannot set again
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and not self._patient:
            if self.received == signal.SIGINT:
                raise KeyboardInterrupt
            with suppress(OSError):  # straight to the file: print may be at work where the signal came
                os.write(2, b"\nstopping after this step; Ctrl-C once more ends at once\n")
        self.received = signal.Signals(number)


class WorkerSignals:
    """What the loader's processes do with a signal to the whole group: leave it to the run, which will end them.

    Only while the run goes on (`begin` to `end`): at an exit of the main process, SIGTERM is how it ends them.
    Called in each of them with its number (`worker_init_fn`).
    """

    def __init__(self) -> None:
        self._running = RawValue("b", 0)  # in memory that all processes share

    def begin(self) -> None:
        self._running.value = 1

    def end(self) -> None:
        self._running.value = 0

    def __call__(self, worker: int) -> None:
        for number in STOPPING:
            signal.signal(number, self._obey)

    def _obey(self, number: int, frame: FrameType | None) -> None:
        if not self._running.value:
            os._exit(128 + number)
