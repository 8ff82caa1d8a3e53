"""The coordinator's side of the reaper: its end is noticed at once, whatever numbers files have."""

from __future__ import annotations

import fcntl
import os
import resource
import select

import pytest

from snakemake_executor_gpupool.hosts.reaper import Reaper, is_ready


@pytest.fixture
def high_number() -> int:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("no file may have a number from 1024 on here")
    return 1500


def test_a_descriptor_with_a_high_number_is_waited_for(high_number: int) -> None:  # W7
    read, write = os.pipe()
    number = fcntl.fcntl(read, fcntl.F_DUPFD, high_number)
    assert not is_ready(number, select.POLLIN, 0.0)
    os.close(write)
    assert is_ready(number, select.POLLIN, 10.0), "an end counts"
    for fd in (read, number):
        os.close(fd)


def test_a_helper_ends_with_its_reaper_and_is_waited_for() -> None:  # W7
    reaper = Reaper()
    pid = reaper._process.pid
    reaper.close()
    assert reaper._process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
