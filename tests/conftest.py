"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training_cases import make_data, small_config
from utils.trainer import Trainer


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of killed and hanging processes spend their time waiting for them."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> int:
    """The small networks of tests only lose time to more threads. Returns how many there could be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side: one thread for the commands that they start, too
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    return threads


@pytest.fixture(autouse=True)
def all_threads_if_slow(request: pytest.FixtureRequest, one_thread: int) -> Iterator[None]:
    """Full-size tests take all threads."""
    torch.set_num_threads(one_thread if request.node.get_closest_marker("slow") else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in DAUB's layout, which tests read but do not change."""
    return make_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def finished(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on it, which tests read but do not change."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    Trainer(small_config(data_root, run_dir, save_interval=1)).fit()
    return run_dir
