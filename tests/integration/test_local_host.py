"""This machine's processes and their reaper: ends that nothing announces (W4, W7, S10)."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.hosts import process as process_module
from snakemake_executor_gpupool.hosts.base import FrameArrived, HostEvent, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.hosts.reaper import Reaper
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.frames import Decoder, encode
from snakemake_executor_gpupool.wire.requests import ToolRef
from tests.waiting import PATIENCE_S, eventually

TOOL = f"{Path(__file__).parent.parent / 'tools' / 'textual.py'}:Textual"


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Watched:
    """A host and what has happened on it; what one look finds is kept for the next question."""

    def __init__(self, host: LocalHost) -> None:
        self.host = host
        self._events: deque[HostEvent] = deque()

    def until(self, kind: type) -> HostEvent:
        """Wait until something of a kind happens; what happened before it is past."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kind):
                    return event
            self._events += self.host.poll(30.0)
        raise AssertionError(f"no {kind.__name__} within {PATIENCE_S} s")


@pytest.mark.parametrize("has_handles", [True, False])
def test_an_end_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_handles: bool
) -> None:  # W4
    """Also where the kernel gives no descriptor that tells of it."""
    if not has_handles:
        monkeypatch.setattr(process_module, "process_handle", lambda pid: -1)
    paths = RunPaths(tmp_path)
    paths.create()
    host = LocalHost(paths, 1)
    watched = Watched(host)
    pair, kept = socket.socketpair, []

    def kept_pair() -> tuple[socket.socket, socket.socket]:
        ours, theirs = pair()
        kept.append(theirs.dup())  # so that the channel does not end with the process
        return ours, theirs

    monkeypatch.setattr(process_module.socket, "socketpair", kept_pair)
    try:
        pid = host.start("w1", ToolRef(TOOL, str(tmp_path), sys.executable), (cpu_slot(0),))
        assert pid is not None
        assert isinstance(watched.until(FrameArrived), FrameArrived)
        os.kill(pid, signal.SIGKILL)
        started_s = time.monotonic()
        end = watched.until(WorkerGone)
        assert isinstance(end, WorkerGone) and "killed by SIGKILL" in end.reason
        assert time.monotonic() - started_s < 20, "not with the next poll that is over"
    finally:
        for end_of_channel in kept:
            end_of_channel.close()
        host.close(lambda end: None)
        paths.remove_spools()


def test_what_cannot_be_started_is_an_end_like_any_other(tmp_path: Path) -> None:  # W4
    paths = RunPaths(tmp_path)
    paths.create()
    host = LocalHost(paths, 1)
    watched = Watched(host)
    try:
        for python in ("/nowhere/python", "py\0thon"):
            assert host.start("w1", ToolRef(TOOL, "", python), ()) is None
            end = watched.until(WorkerGone)
            assert isinstance(end, WorkerGone) and "cannot start a worker" in end.reason
    finally:
        host.close(lambda end: None)
        paths.remove_spools()


def test_a_reaper_that_hangs_holds_nobody_up() -> None:  # W4
    reaper = Reaper()
    os.kill(reaper._process.pid, signal.SIGSTOP)
    started_s = time.monotonic()
    for group in range(20_000):
        reaper.watch(group + 2**30, "mark")
    assert time.monotonic() - started_s < 30
    reaper.close()
    assert time.monotonic() - started_s < 60


def test_a_reaper_ends_though_a_child_has_its_pipe() -> None:  # S10
    reaper = Reaper()
    child = ctypes.CDLL(None).fork()  # Python's hooks hear nothing of it
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        reaper.close()
        assert reaper._process.returncode == 0, "it ended by itself, and was not killed"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_one_worker_holds_up_the_loop_for_so_long_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it sends: the rest is taken the next time."""  # W5
    monkeypatch.setattr(process_module, "_SCRATCH", memoryview(bytearray(64)))
    worker = process_module.WorkerProcess.__new__(process_module.WorkerProcess)
    worker.socket, theirs = socket.socketpair()
    worker.socket.setblocking(False)
    worker._decoder = Decoder()
    with worker.socket, theirs:
        frame = encode({"type": "dance"})[0]
        theirs.sendall(frame * 100)
        theirs.shutdown(socket.SHUT_WR)
        turns = []
        while not turns or None not in turns[-1]:
            turns.append(list(worker.receive()))
        assert max(map(len, turns)) <= 4 * 64 // len(frame) + 1
        assert sum(map(len, turns)) == 101


KILLED = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from snakemake_executor_gpupool.hosts.reaper import Reaper

room = Path(sys.argv[1])
reaper = Reaper()
(room / "spool").mkdir()
(room / "spool" / "large").write_bytes(bytes(1000))
reaper.remove_at_end(room / "spool")
reaper.remove_at_end(room / "never-made")
marked = {**os.environ, "GPUPOOL_PROCESS": "mark-of-one"}
worker = subprocess.Popen(["sleep", "3602"], env=marked, start_new_session=True)
daemon = subprocess.Popen(["sleep", "3602"], env=marked, start_new_session=True)
reaper.watch(worker.pid, "mark-of-one")
# A child that C code has forked has the reaper's pipe, and Python knows nothing of it.
child = ctypes.CDLL(None).fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
(room / "pids").write_text(f"{worker.pid} {daemon.pid} {child} {reaper._process.pid}")
time.sleep(0.2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_coordinator_leaves_is_cleared_up(tmp_path: Path) -> None:  # S10 W7
    script = textwrap.dedent(KILLED)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    worker, daemon, child, reaper = map(int, (tmp_path / "pids").read_text().split())
    try:
        assert eventually(lambda: not is_alive(worker) and not is_alive(daemon))
        assert eventually(lambda: not (tmp_path / "spool").exists())
        assert eventually(lambda: not is_alive(reaper))
        assert is_alive(child), "a process of the program's own is nobody else's to end"
    finally:
        os.kill(child, signal.SIGKILL)
