"""A pool and the life of the program around it: threads, forks, ends of all kinds (T5, S10)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool import DeviceManager, ToolPool
from snakemake_executor_gpupool.errors import ContractError, JobFailed, PoolEnded
from snakemake_executor_gpupool.wire.spool import Spool
from tests.waiting import eventually

TOOLS = Path(__file__).parent.parent / "tools"
TEXTUAL = f"{TOOLS / 'textual.py'}:Textual"
MISBEHAVING = f"{TOOLS / 'misbehaving.py'}:Misbehaving"


class Call(threading.Thread):
    """A call on a thread of its own, and how it ended."""

    def __init__(self, pool: ToolPool, *items: str) -> None:
        super().__init__()
        self.ended: object = None
        self._call = lambda: pool.run(MISBEHAVING, list(items))
        self.start()

    def run(self) -> None:
        try:
            self.ended = self._call()
        except Exception as error:
            self.ended = error


def is_computing(pool: ToolPool) -> bool:
    """Whether a worker has been sent something."""
    log = pool._opened().paths.events
    return log.exists() and '"batch_sent"' in log.read_text()


def test_after_the_block_a_call_is_an_error_at_once() -> None:
    pool = ToolPool(devices="cpu:1")
    with pytest.raises(PoolEnded, match="not open"):
        pool.run(TEXTUAL, ["a"])
    with pool:
        assert pool.run(TEXTUAL, ["a"]) == ["A.plain"]
    for call in (
        lambda: pool.run(TEXTUAL, ["a"]),
        lambda: pool.run(TEXTUAL, ["x" * 1_000_000]),  # which would go through the spool
        lambda: pool.run_job(TEXTUAL, input=["a"], output=["b"]),
        pool.allocation_map,
    ):
        with pytest.raises(PoolEnded, match="is closed"):
            call()
    assert pool.summary["items"] == 1
    with pool:  # it may be opened again
        assert pool.run(TEXTUAL, ["b"]) == ["B.plain"]


def test_a_call_in_flight_ends_with_the_block() -> None:
    with ToolPool(devices="cpu:1") as pool:
        calls = [Call(pool, "sleep"), Call(pool, "word1")]
        assert eventually(lambda: is_computing(pool))
    for call in calls:
        call.join(60)
        assert isinstance(call.ended, PoolEnded | list), call.ended
    assert isinstance(calls[0].ended, PoolEnded) and "is closed" in str(calls[0].ended)


def test_a_call_that_is_about_to_be_made_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The spool that its large items go to is removed under its feet."""
    closed = threading.Event()
    put = Spool.put

    def late(spool: Spool, *arguments: object) -> object:
        assert closed.wait(60)
        return put(spool, *arguments)

    with ToolPool(devices="cpu:1") as pool:
        monkeypatch.setattr(Spool, "put", late)
        call = Call(pool, "x" * 900_000)
    closed.set()
    call.join(60)
    assert isinstance(call.ended, PoolEnded) and "is closed" in str(call.ended)


def test_a_call_in_flight_ends_with_an_exception_in_the_block() -> None:
    with pytest.raises(ZeroDivisionError), ToolPool(devices="cpu:1") as pool:
        call = Call(pool, "sleep")
        assert eventually(lambda: is_computing(pool))
        _ = 1 / 0
    call.join(60)
    assert isinstance(call.ended, JobFailed) and "ended by an exception" in str(call.ended)


def test_after_the_loop_has_broken_calls_are_errors() -> None:
    with ToolPool(devices="cpu:1") as pool:
        call = Call(pool, "sleep")
        assert eventually(lambda: is_computing(pool))

        def broken(now_s: float) -> None:
            raise ZeroDivisionError("a bug")

        pool._opened()._inbox.post(broken)
        call.join(60)
        assert isinstance(call.ended, JobFailed | PoolEnded) and "a bug" in str(call.ended)
        assert eventually(lambda: "has failed" in repr(pool))
        for items in (["a"], ["x" * 1_000_000]):
            started_s = time.monotonic()
            with pytest.raises(PoolEnded, match=r"failed, which is a bug: .*a bug"):
                pool.run(TEXTUAL, items)
            assert time.monotonic() - started_s < 30
        assert pool.summary["jobs_failed"] == 1
    with ToolPool(devices="cpu:1") as again:
        assert again.run(TEXTUAL, ["a"]) == ["A.plain"]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have Ctrl-C interrupt: it does not in tests that were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_call_that_is_interrupted_once_its_report_is_there_leaves_nothing_lent(
    ctrl_c: None,
) -> None:
    with ToolPool(devices="cpu:1") as pool:
        pool.run(TEXTUAL, ["warm"])
        timer = threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pool.run(TEXTUAL, ["a"], {"sleep_s": 0.5})
        timer.join()
        opened = pool._opened()
        assert opened.summary()["jobs_served"] == 2
        assert eventually(
            lambda: not opened._inbox.ask(lambda: dict(opened._loop.scheduler.jobs._lent))
        )
        assert pool.run(TEXTUAL, ["a"]) == ["A.plain"]


def test_a_call_that_is_interrupted_or_refused_is_computed_no_further(ctrl_c: None) -> None:
    with ToolPool(devices="cpu:1") as pool:
        pool.run(TEXTUAL, ["warm"])
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        many = [f"{number}" * 20 for number in range(100, 300)]  # each is a micro-batch
        with pytest.raises(KeyboardInterrupt):
            pool.run(TEXTUAL, many, {"sleep_s": 0.2})
        timer.join()
        opened = pool._opened()
        assert pool.run(TEXTUAL, ["a"]) == ["A.plain"]
        assert opened.summary()["jobs_failed"] == 1
        computed = opened._inbox.ask(lambda: opened._loop.scheduler.ledger.computed)
        assert computed < len(many), "nobody waits for the others"
        with pytest.raises(ContractError):
            pool.run(TEXTUAL, ["x" * 1_000_000, "y" * 1_000_000, lambda: None])
        left = [path for each in opened.spools for path in Path(each).glob("*.blob")]
        assert not left, "what was put there beforehand is removed"


def test_the_pool_says_who_is_where() -> None:
    pool = ToolPool(devices="cpu:2")
    assert repr(pool) == "<ToolPool: is not open: use it in a with block>" == str(pool)
    with pool:
        assert pool.allocation_map() == {"cpu:0": [], "cpu:1": []}
        pool.run(TEXTUAL, ["a"])
        there = pool.allocation_map()
        assert sorted(owners for owners in there.values()) == [[], ["Textual (plain)"]]
        for name, owners in there.items():
            assert DeviceManager.get_instance().allocation_map()[name] == owners
            assert f"\n  {name}: {', '.join(owners) or 'nobody'}" in str(pool)
        assert repr(pool) == "<ToolPool on cpu:0, cpu:1>"
    assert not any(DeviceManager.get_instance().allocation_map().values())
    assert "is closed" in str(pool)


PROGRAM = """
import multiprocessing, os, sys, threading, time
from pathlib import Path
from snakemake_executor_gpupool import DeviceManager, ToolPool
from snakemake_executor_gpupool.errors import PoolEnded

TEXTUAL, MISBEHAVING = sys.argv[1:3]
"""
FORK_THAT_EXITS = """
with ToolPool(devices="cpu:1") as pool:
    pool.run(TEXTUAL, ["a"])
    directory = pool._opened().paths.directory
    for leave in (sys.exit, os._exit, lambda code: exec("raise ValueError")):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            sys.stderr = open(os.devnull, "w")
            assert ToolPool.current() is None
            try:
                pool.run(TEXTUAL, ["b"])
            except PoolEnded as error:
                assert "from which this one was forked" in str(error), error
            leave(0)
        os.waitpid(child, 0)
        assert directory.exists() and all(map(os.path.exists, pool._opened().paths.spools))
        assert pool.run(TEXTUAL, [f"after {child}"])
print("end", directory.exists())
"""
FORK_THAT_STAYS = """
with ToolPool(devices="cpu:1") as pool:
    pool.run(TEXTUAL, ["a"])
    processes = multiprocessing.get_context("fork").Pool(2)
    assert processes.map(abs, [-1]) == [1]
    pool.run(TEXTUAL, ["b"])
started_s = time.monotonic()
print("end", os.path.exists(pool._opened().paths.directory))
processes.terminate()
"""
FORK_WITH_A_POOL_OF_ITS_OWN = """
with ToolPool(devices="cpu:1") as pool:
    child = os.fork()
    if child == 0:
        with ToolPool(devices="cpu:1") as own:
            assert own.run(TEXTUAL, ["c"]) == ["C.plain"]
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.run(TEXTUAL, ["a"]) == ["A.plain"]
print("end", os.path.exists(pool._opened().paths.directory))
"""
NEVER_CLOSED = """
pool = ToolPool(devices="cpu:1")
pool.__enter__()
pool.run(TEXTUAL, ["a"])
print("end", False)
print(pool._opened().paths.directory)
"""
EXIT_WITH_A_CALL_IN_FLIGHT = """
def call():
    try:
        pool.run(MISBEHAVING, ["sleep"])
    except PoolEnded:
        pass
with ToolPool(devices="cpu:1") as pool:
    threading.Thread(target=call).start()
    while pool.summary["items"] == 0:  # until it is in flight
        time.sleep(0.01)
print("end", os.path.exists(pool._opened().paths.directory))
"""
ABORTED = """
with ToolPool(devices="cpu:1") as pool:
    pool.run(TEXTUAL, ["a"])
    print("end", False)
    print(pool._opened().paths.root, *pool._opened().paths.spools)
    sys.stdout.flush()
    os.kill(os.getpid(), SIGNAL)
"""


def run_program(directory: Path, text: str, within_s: float = 90) -> list[str]:
    """Run a program to its end; return the lines that it printed."""
    path = directory / "program.py"
    path.write_text(PROGRAM + textwrap.dedent(text))
    command = [sys.executable, str(path), TEXTUAL, MISBEHAVING]
    env = {**os.environ, "GPUPOOL_PROFILE": "off", "TMPDIR": str(directory)}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=within_s, check=False
    )
    assert "end False" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "text",
    [
        FORK_THAT_EXITS,
        FORK_THAT_STAYS,
        FORK_WITH_A_POOL_OF_ITS_OWN,
        NEVER_CLOSED,
        EXIT_WITH_A_CALL_IN_FLIGHT,
    ],
    ids=["fork exits", "fork stays", "fork has its own", "never closed", "call in flight"],
)
def test_a_program_ends_and_leaves_nothing(tmp_path: Path, text: str) -> None:
    run_program(tmp_path, text)
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.parametrize("number", ["9", "15", "1"])
def test_a_program_that_is_killed_leaves_nothing(tmp_path: Path, number: str) -> None:
    root, *spools = run_program(tmp_path, ABORTED.replace("SIGNAL", number))[-1].split()
    for directory in (root, *spools):
        assert eventually(lambda path=directory: not Path(path).exists()), directory
