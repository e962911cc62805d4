"""What a release must pass, step by step: `make release-check`, or `python -m tests.release_check --steps links files`.

`lowest` needs the package index: it makes .venv-lowest, with the lowest versions that requirements.txt admits, and runs
the tests there. `tests`, `demo` and `lowest` take minutes each, the others seconds. Exit status 1 if a step has faults.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from tests import doc_checks
from tests.doc_pages import ROOT, commands, pages
from utils.cli import UserError, run_command

Step = Literal["clean", "files", "links", "code", "commands", "lint", "run", "tests", "demo", "lowest"]

MAX_FILE = 30 * 2**20  # bytes
LEAST_DEMO = 0.80  # mAP50 of `make demo`
CHEAP = ("--help", "benchmarks.counts")  # a command line with one of these words runs in seconds and needs no data
TEST = ("-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal")  # as `make test`
AVAILABLE = re.compile(r"^Available versions: (.*)$", re.MULTILINE)  # what `pip index versions` says


@dataclass
class Config:
    """Check that this working tree may be released."""

    steps: tuple[Step, ...] = (
        "clean", "files", "links", "code", "commands", "lint", "run", "tests", "demo", "lowest"
    )
    """What to check. clean: nothing uncommitted; files: none too large; links, code and commands: what the pages
    name is there and takes those flags; lint: ruff; run: documented commands that take seconds; tests: all; demo: make
    demo and its mAP50; lowest: the tests with the lowest versions that requirements.txt admits."""
    tests: tuple[Path, ...] = ()
    """Test files for the steps tests and lowest; default: all."""
    python: str = sys.executable
    """Python to make .venv-lowest with: one that the lowest versions have wheels for, as 3.10 to 3.12."""


def clean(config: Config) -> list[str]:
    """Changes that are not committed, and files that git does not know."""
    return _lines("git", "status", "--porcelain")


def files(config: Config) -> list[str]:
    """Files that are too large for a repository."""
    sizes = {name: (ROOT / name).stat().st_size for name in _lines("git", "ls-files") if (ROOT / name).is_file()}
    large = {name: size / 2**20 for name, size in sizes.items() if size > MAX_FILE}
    return [f"{name}: {size:.1f} MiB; at most {MAX_FILE / 2**20:.0f}" for name, size in large.items()]


def links(config: Config) -> list[str]:
    """Links and file names of the documentation."""
    return doc_checks.link_faults() + doc_checks.file_faults()


def code(config: Config) -> list[str]:
    """Places in the code and equations."""
    return doc_checks.place_faults() + doc_checks.equation_faults()


def documented_commands(config: Config) -> list[str]:
    """Command lines and flags of the documentation."""
    return doc_checks.command_faults() + doc_checks.flag_faults()


def lint(config: Config) -> list[str]:
    """Style."""
    return _faults(sys.executable, "-m", "ruff", "check", ".")


def run(config: Config) -> list[str]:
    """Documented commands that take seconds and need no data; worked examples are run by the tests."""
    found = {command.words[1:] for page, text in pages().items() for command in commands(page, text)}
    cheap = sorted(words for words in found if words and set(words) & set(CHEAP))
    return [fault for words in cheap for fault in _faults(sys.executable, *words)]


def tests(config: Config) -> list[str]:
    """The test suite."""
    return _faults(sys.executable, *TEST, *map(str, config.tests))


def demo(config: Config) -> list[str]:
    """`make demo`, and what it reaches."""
    if faults := _faults("make", "demo"):
        return faults
    reached = json.loads((ROOT / "demo/evaluation/metrics.json").read_text())["published"]["mAP50"]
    return [] if reached >= LEAST_DEMO else [f"make demo: mAP50 {100 * reached:.2f} %; at least {100 * LEAST_DEMO} %"]


def lowest(config: Config) -> list[str]:
    """The test suite with the lowest versions."""
    folder = ROOT / ".venv-lowest"
    interpreter = str(folder / "bin" / "python")
    if faults := _faults(config.python, "-m", "venv", str(folder)):
        return faults

    def available(name: str) -> list[str]:
        listing = "\n".join(_lines(interpreter, "-m", "pip", "index", "versions", name))
        return AVAILABLE.search(listing)[1].split(", ")

    pins = lowest_versions((ROOT / "requirements.txt").read_text(encoding="utf-8"), available)
    install = (interpreter, "-m", "pip", "install", "--quiet", *pins)
    return _faults(*install) or _faults(interpreter, *TEST, *map(str, config.tests))


def lowest_versions(requirements: str, available: Callable[[str], list[str]]) -> list[str]:
    """`name==version` for each line of a requirements file: of the versions `available(name)` the lowest it admits."""
    lines = [line.partition("#")[0].strip() for line in requirements.splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    lowest = {one.name: min(one.specifier.filter(available(one.name)), key=Version) for one in wanted}
    return [f"{name}=={version}" for name, version in lowest.items()]


STEPS: dict[Step, Callable[[Config], list[str]]] = {
    "clean": clean,
    "files": files,
    "links": links,
    "code": code,
    "commands": documented_commands,
    "lint": lint,
    "run": run,
    "tests": tests,
    "demo": demo,
    "lowest": lowest,
}


def _lines(*words: str) -> list[str]:
    """What a command prints, line by line."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(words)}: status {done.returncode}; {done.stderr}")
    return done.stdout.splitlines()


def _faults(*words: str) -> list[str]:
    """Run a command before the eyes of the user; a line if it fails."""
    print("$", *words, flush=True)
    status = subprocess.run(words, cwd=ROOT, check=False).returncode
    return [f"{' '.join(words)}: status {status}"] if status else []


def main(config: Config) -> int:
    """Run the steps in turn, then say what each found."""
    found: dict[Step, tuple[list[str], float]] = {}
    for step in config.steps:
        print(f"== {step}", flush=True)
        started = time.perf_counter()
        faults = STEPS[step](config)
        found[step] = faults, time.perf_counter() - started
        for fault in faults:
            print(fault, flush=True)
    print("\nstep       result        seconds")
    for step, (faults, seconds) in found.items():
        result = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else "passed"
        print(f"{step:<10} {result:<12} {seconds:8.1f}")
    skipped = [step for step in STEPS if step not in found]
    if skipped:
        print(f"not checked: {', '.join(skipped)}")
    return int(any(faults for faults, _ in found.values()))


if __name__ == "__main__":
    run_command(main, Config)
