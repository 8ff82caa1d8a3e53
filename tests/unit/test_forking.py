"""A forked child has nothing of its parent's: no lock, no lease, no channel (D13)."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator

import pytest

from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.devices.manager import DeviceManager
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.hosts.reaper import Reaper

#: A child that has said nothing by then says where it is, and ends.
STUCK_S = 30.0
CARDS = simulated_devices({"GPUPOOL_SIMULATE": "2"})


def fork_by_c() -> int:
    """Fork as C code does it: Python's hooks hear nothing of it."""
    return int(ctypes.CDLL(None).fork())


@contextlib.contextmanager
def forked(act: Callable[[], str] = lambda: "", fork: Callable[[], int] = os.fork) -> Iterator[str]:
    """A child that says what ``act`` returns there, and lives until the block ends."""
    told, tell = os.pipe()
    child = fork()
    if child == 0:
        # A child of a process with threads may find a lock held by one that it does not have.
        faulthandler.dump_traceback_later(STUCK_S, exit=True, file=sys.__stderr__)
        try:
            text = act()
        except BaseException as error:
            text = repr(error)
        faulthandler.cancel_dump_traceback_later()
        os.write(tell, f"{text}\n".encode())
        signal.pause()
        os._exit(0)
    os.close(tell)
    try:
        yield os.read(told, 10_000).decode().strip()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)


@pytest.fixture
def env(tmp_path) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return {"GPUPOOL_LOCK_DIR": str(tmp_path / "locks"), "GPUPOOL_SIMULATE": "2"}


@pytest.mark.parametrize("how", ["release", "close", "unwant", "as if killed"])
def test_a_lock_ends_with_its_process_though_a_child_lives(env: dict[str, str], how: str) -> None:
    mine, other = DeviceLocks(env), DeviceLocks(env)
    assert mine.try_acquire(CARDS[0])
    mine.want(CARDS[1])
    # What is let go of is unlocked, whoever has a copy; what a dead process held was closed before.
    with forked(fork=os.fork if how == "as if killed" else fork_by_c):
        assert not other.try_acquire(CARDS[0]) and other.is_wanted(CARDS[1])
        if how == "release":
            mine.release(CARDS[0])
        elif how == "unwant":
            mine.unwant(CARDS[1])
        elif how == "close":
            mine.close()
        else:
            mine.in_child()  # closes without unlocking, as the kernel does
        assert other.try_acquire(CARDS[0]) == (how != "unwant")
        assert other.is_wanted(CARDS[1]) == (how == "release")
    mine.close()
    other.close()


def test_a_child_ends_no_lock_of_its_parent(env: dict[str, str]) -> None:
    mine, other = DeviceLocks(env), DeviceLocks(env)
    assert mine.try_acquire(CARDS[0])

    def let_go() -> str:
        mine.release(CARDS[0])
        mine.close()
        return "let go"

    with forked(let_go) as told:
        assert told == "let go"
        assert not other.try_acquire(CARDS[0])
    mine.close()
    other.close()


def test_a_lease_is_its_own_process_s_alone(env: dict[str, str]) -> None:  # T3
    manager, other = DeviceManager(env), DeviceManager(env)
    with contextlib.ExitStack() as leases:
        lease = leases.enter_context(manager.lease("cuda:0", owner="parent"))
        assert lease.names == ("cuda:0",)

        def in_child() -> str:
            seen = manager.allocation_map()
            leases.close()  # as the child's way out of the block does
            with manager.lease("cuda", owner="child", timeout_s=5) as own:
                try:
                    with manager.lease("cuda:0", timeout_s=0.1):
                        return "two processes on one card"
                except TimeoutError as error:
                    return f"{seen} {own.names} {error}"

        with forked(in_child) as told:
            assert told.startswith("{'cuda:0': [], 'cuda:1': []} ('cuda:1',)")
            assert "cuda:0: another process" in told
            assert manager.allocation_map() == {"cuda:0": ["parent"], "cuda:1": []}
            with pytest.raises(TimeoutError), other.lease("cuda:0", timeout_s=0.1):
                pass
            leases.close()
            with other.lease("cuda:0", timeout_s=5) as now:
                assert now.names == ("cuda:0",)
    manager.close()
    other.close()


def test_a_pool_is_named_beside_leases(env: dict[str, str]) -> None:
    manager = DeviceManager(env)
    manager.include(lambda: {"cuda:1": ["esm2-embed"], "cpu:0": []})
    with manager.lease("cuda:0", owner="mine"):
        there = manager.allocation_map()
    assert there == {"cuda:0": ["mine"], "cuda:1": ["esm2-embed"], "cpu:0": []}
    manager.include(None)
    assert manager.allocation_map() == {"cuda:0": [], "cuda:1": []}
    manager.close()


def test_a_child_closes_no_descriptor_that_is_not_its_parent_s_any_more() -> None:
    """A number that was closed is soon a stranger's, say a pipe of the next ``Popen``."""
    reaper = Reaper()
    number = reaper._pipe
    reaper.close()
    theirs = os.open(os.devnull, os.O_RDONLY)
    os.dup2(theirs, number)
    reaper.in_child()
    os.fstat(number)
    for fd in {theirs, number}:
        os.close(fd)
