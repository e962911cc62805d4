"""What all tests share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> int:
    """The small networks of tests only lose time to more threads. Returns how many there could be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return threads


@pytest.fixture(autouse=True)
def all_threads_if_slow(request: pytest.FixtureRequest, one_thread: int) -> Iterator[None]:
    """Full-size tests take all threads."""
    torch.set_num_threads(one_thread if request.node.get_closest_marker("slow") else 1)
    yield
    torch.set_num_threads(1)
