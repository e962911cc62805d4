"""Memory that is freed stays with the process, so that the next large tensor faults no pages in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.training_cases import ROOT

FAULTS = """
import resource, sys
import torch
from utils.heap import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(9)
torch.set_num_threads(1)
for _ in range(16):  # small blocks find their places between large ones first
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(way: str) -> int:
    """Page faults of eight tensors of 64 MiB, one after another, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, way], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 9:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_kept_memory_is_not_faulted_in_again():
    assert 4 * page_faults("keep") < page_faults("as it is")  # with huge pages too
