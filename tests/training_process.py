"""Training commands as processes of their own, to be killed: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from train_DAUB import DAUBConfig
from utils.cli import run_command
from utils.trainer import train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Death:
    """SIGKILL by a process's own hand at the `count`-th audit event (https://docs.python.org/3/library/audit_events)
    of a name whose first path holds `path`. Event "write": while a file grows beyond `count` bytes."""

    event: str
    path: str = ""
    count: int = 1

    def arm(self) -> None:
        if self.event == "write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; by default it kills
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.count, self.count))
            return
        seen = []

        def hook(event: str, arguments: tuple) -> None:
            if event == self.event and self.path in str(arguments[0]):
                seen.append(event)
                if len(seen) == self.count:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


def _command(arguments: list[str], output: Path, death: Death | None, environment: dict[str, str]) -> None:
    os.setsid()  # a group of its own, as a shell gives to each command
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it does to those in the background
    torch.set_num_threads(1)
    os.environ.update(environment)
    with open(output, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    if death is not None:
        death.arm()
    run_command(train, DAUBConfig, arguments)


def start(
    arguments: list[str], output: Path, death: Death | None = None, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Start train_DAUB.py with a command line; what it prints is appended to `output`."""
    process = CONTEXT.Process(target=_command, args=(arguments, output, death, environment or {}))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 300) -> int:
    """Exit status of a process, or minus the signal that ended it."""
    process.join(seconds)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode
