"""The coordinator's side of the reaper: its end is noticed at once, whatever numbers files have."""

from __future__ import annotations

import fcntl
import os
import resource
import select

import pytest

from snakemake_executor_gpupool.hosts.reaper import Reaper, is_ready
from snakemake_executor_gpupool.worker import reaper as helper


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


def test_processes_are_looked_at_once_for_all_that_have_ended(  # P6 W7
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swept: list[set[bytes]] = []
    monkeypatch.setattr(helper, "sweep", lambda marks: swept.append(set(marks)))
    lists = helper.Lists()
    for line in ("+1 one", "+2 two", "+3 three", "+4", "-1", "-2", "-4"):
        lists.take(line)
    assert not swept
    lists.sweep_ended()
    assert swept == [{b"one", b"two"}]
    lists.take("-3")
    lists.clear_up()  # the coordinator is gone before that was looked after
    assert swept[1:] == [{b"three"}]
