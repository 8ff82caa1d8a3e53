"""Fixtures of the tests that compute in this process."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: where matrices are small, threads wait more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
