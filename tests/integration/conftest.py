"""Fixtures of the tests that compute in this process, and of those of servers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.serving import Workplace


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: where matrices are small, threads wait more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cache_with(tmp_path_factory, monkeypatch):
    """Return a function that puts a directory into a Hugging Face cache of its own."""
    from huggingface_hub import constants

    def cache_with(name, directory):
        cache = tmp_path_factory.mktemp("hub")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        commit = "0" * 40
        (cache / name / "refs").mkdir(parents=True)
        (cache / name / "refs/main").write_text(commit)
        (cache / name / "snapshots").mkdir()
        (cache / name / "snapshots" / commit).symlink_to(directory)

    return cache_with


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    directory = place.server_directory()
    place.end()
    shutil.rmtree(directory, ignore_errors=True)
