"""The release check: what passes, what does not, and what it says. Its steps of minutes are not run here."""

import pytest

from tests import release_check
from tests.release_check import Config, lowest_versions, main
from tests.training_cases import run


def test_files_are_small_enough(capsys):
    assert main(Config(steps=("files",))) == 0
    printed = capsys.readouterr().out
    assert "files      passed" in printed and "not checked: clean, links" in printed


def test_faults_are_listed_and_counted(monkeypatch, capsys):
    monkeypatch.setattr(release_check, "MAX_FILE", 500_000)  # the limit, not the check
    assert main(Config(steps=("files",))) == 1
    printed = capsys.readouterr().out
    assert "sstnet_infrared.pth: 23.0 MiB; at most 0" in printed and "parts.npz: 0.7 MiB" in printed
    assert "files      2 faults " in printed


def test_lowest_versions():
    versions = {"torch": ["2.14.0", "2.9.1", "2.9.0", "2.10.0"], "cv": ["4.10.0.1", "4.8.0.76", "4.8.0.74", "4.7"]}
    requirements = "# The network\ntorch>=2.9   # frames\n\ncv>=4.8\n"
    assert lowest_versions(requirements, versions.__getitem__) == ["torch==2.9.0", "cv==4.8.0.74"]


def test_unknown_step_is_one_line(capsys):
    status, _, errors = run(capsys, ["--steps", "dance"], Config, main)
    assert status == 2 and errors.startswith("error:") and errors.count("\n") == 1


@pytest.mark.parametrize("step", release_check.STEPS)
def test_every_step_says_what_it_is(step):
    assert step in Config.__dataclass_fields__["steps"].default and release_check.STEPS[step].__doc__
