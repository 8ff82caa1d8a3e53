"""What a tool may do to its worker, and what of that others notice: nothing (W1-W7, P9)."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import JobFailed
from tests.waiting import eventually

TOOL = f"{Path(__file__).parent.parent / 'tools' / 'misbehaving.py'}:Misbehaving"
INNOCENT = [f"word{n}" for n in range(12)]

#: What an item does, and what the message about it must say; all else that one may do is in
#: ``tests/acceptance/test_misbehaving_jobs.py``.
GUILTY = {
    "raise": "item raise: ValueError: told to",
    "refuse": "item refuse: x.txt: expected something else",
    "exit": "exit code 3",
    "garbage": "protocol",
    "eat": "it needs more memory than cpu:0 has",
    "too-large": "Shorten or split it",
    "unpicklable": "does not travel",
    "surrogate": "ValueError: half a letter: \\ud800",
    "wordless": "Wordless",
    "forge:seconds": "broke the protocol ('seconds' of a 'done' frame is 1e+308)",
    "announce": "broke the protocol (frame too large: 100 + 8589934592 bytes)",
    "flood": "broke the protocol (there is no 'dance' frame)",
    "nest": "broke the protocol (frame",
}


@pytest.fixture(scope="module")
def pool():
    """One pool for all that follows: it must outlive everything."""
    with ToolPool(devices="cpu:1") as opened:
        yield opened


@pytest.mark.parametrize("item", GUILTY)
def test_only_the_guilty_fail(pool: ToolPool, item: str) -> None:
    crashes = pool.summary["worker_crashes"]
    with pytest.raises(JobFailed) as failure:
        pool.run(TOOL, [*INNOCENT[:6], item, *INNOCENT[6:]])
    assert f"item {item}" in str(failure.value)
    assert GUILTY[item] in str(failure.value)
    # The same innocents again, in another call: the worker, or its successor, is well.
    assert pool.run(TOOL, INNOCENT) == [f"done {word}" for word in INNOCENT]
    assert pool.summary["worker_crashes"] - crashes <= 3


def test_prints_cannot_reach_the_channel(pool: ToolPool) -> None:  # W1
    assert pool.run(TOOL, ["print", "a"]) == ["done print", "done a"]


def test_out_of_memory_halves_until_it_fits(pool: ToolPool) -> None:  # W6
    items = ["out-of-memory", *(f"oom{n}" for n in range(11))]
    assert pool.run(TOOL, items) == [f"done {item}" for item in items]


def test_nobody_but_workers_unpickles_a_result(pool: ToolPool, tmp_path: Path) -> None:  # W1
    mark, source, output = tmp_path / "mark", tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("mark\n")
    files = {"input": [str(source)], "output": [str(output)]}
    pool.run_job(TOOL, **files, params={"mark": str(mark)})
    assert output.read_text() == "marked\n"
    pids = set(map(int, mark.read_text().split()))
    assert pids and os.getpid() not in pids


def test_grandchildren_die_with_their_worker(pool: ToolPool) -> None:  # W7
    def sleepers() -> set[str]:
        found = set()
        for entry in Path("/proc").iterdir():
            try:
                if (entry / "cmdline").read_bytes() == b"sleep\x003600\x00":
                    found.add(entry.name)
            except OSError:
                continue
        return found

    before = sleepers()
    with pytest.raises(JobFailed):
        pool.run(TOOL, ["grandchild"])
    assert eventually(lambda: not sleepers() - before)


@pytest.mark.parametrize("item", ["fork", "fork-open", "background", "daemon"])
def test_a_worker_that_left_a_child_is_dead_all_the_same(pool: ToolPool, item: str) -> None:  # W7
    """Its end is noticed at once, whoever holds its channel, and what it left is killed."""
    before = marked()
    started_s = time.monotonic()
    with pytest.raises(JobFailed, match=r"exit code [567]"):
        pool.run(TOOL, [item, *INNOCENT])
    assert time.monotonic() - started_s < 60
    assert eventually(lambda: not (marked() - before - set(pool._at_work()._host.pids())))


def test_a_child_that_comes_back_from_the_tool_says_nothing(pool: ToolPool) -> None:  # W5
    crashes = pool.summary["worker_crashes"]
    for _ in range(3):
        assert pool.run(TOOL, ["return-twice", *INNOCENT])[1:] == [f"done {w}" for w in INNOCENT]
        pool.run(TOOL, [f"{time.monotonic()}"])
    assert pool.summary["worker_crashes"] == crashes


def test_a_frame_without_end_is_not_taken_in(pool: ToolPool) -> None:  # W5
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(JobFailed, match="frame too large"):
        pool.run(TOOL, ["announce"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024


@pytest.mark.parametrize("item", ["cost", "no-cost"])
def test_a_senseless_cost_is_the_callers_to_hear(pool: ToolPool, item: str) -> None:  # W5
    with pytest.raises(ValueError, match=rf"cost\(\) of item {item} is .*; it must be a number"):
        pool.run(TOOL, [*INNOCENT, item])
    assert pool.run(TOOL, INNOCENT) == [f"done {word}" for word in INNOCENT]


def marked() -> set[int]:
    """The processes that a worker has started, or that are one."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"GPUPOOL_PROCESS=" in (entry / "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_no_network_port_and_private_files(pool: ToolPool) -> None:  # W1
    pool.run(TOOL, ["a"])
    opened = pool._at_work()
    for directory in (opened.paths.directory, opened.paths.workers):
        assert directory.stat().st_mode & 0o077 == 0
    inodes = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            inodes.add(line.split()[9])
    for pid in [os.getpid(), *opened._host.pids()]:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink()) if link.is_symlink() else ""
            if target.startswith("socket:["):
                assert target[8:-1] not in inodes
