"""Workers that are forked from one process, which has imported for all: like any other worker."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.hosts.base import FrameArrived, HostEvent, WorkerForked, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.last_run import LastRunFile
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.known_process import LastRun
from snakemake_executor_gpupool.wire.requests import ToolRef
from tests.integration.test_early import Place
from tests.waiting import eventually

#: An installed package that leaves nothing behind, but for what a test has it do.
HEAVY = """
import os
MODE = os.environ.get("MODE", "")
print("IMPORTED", os.readlink("/proc/self"), MODE or "plain")
{trace}
"""
#: What a tool does when its model is loaded: it says what must be its own, and starts two others,
#: of which one runs no other program.
SETUP = """
        import os, random, subprocess, sys, numpy
        print("DRAWN", numpy.random.random(), random.random())
        print("SESSION", os.getsid(0), os.getpgid(0))
        import torch
        print("SEEDED", torch.initial_seed(), torch.rand(1).item())
        import multiprocessing
        print("KEY", bytes(multiprocessing.current_process().authkey).hex())
        child = os.fork()
        if not child:
            os.setsid()
            while True: __import__("time").sleep(1)
        other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("CHILDREN", child, other.pid, flush=True)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    there = Place(tmp_path)
    (there.site / "heavy.py").write_text(HEAVY.format(trace=""))
    monkeypatch.setenv("PYTHONPATH", str(there.site))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.delenv("MODE", raising=False)
    yield there


class Run:
    """A host with two workers of a tool, on two cores."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.early = place.begin()
        self.paths = RunPaths(place.directory / "runs", run_id=name)
        self.paths.create()
        self.host = LocalHost(self.paths, 1)
        self.host.launcher.early = self.early
        self.happened: list[HostEvent] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.host.close(self.happened.append)
        self.paths.remove_spools()

    def start(self) -> None:
        tool = ToolRef("tool.py:Embed", str(self.place.directory), sys.executable)
        self.given = {
            worker: self.host.start(worker, tool, (cpu_slot(number),))
            for number, worker in enumerate(("one", "two"))
        }

    def until(self, condition: Any) -> bool:
        def is_so() -> bool:
            self.happened += self.host.poll(0.05)
            return bool(condition())

        return eventually(is_so)

    def until_now(self, condition: Any) -> bool:
        self.happened += self.host.poll(0.05)
        return bool(condition())

    def frames(self, kind: str) -> set[str]:
        arrived = (e for e in self.happened if isinstance(e, FrameArrived))
        return {e.worker_id for e in arrived if e.frame.type == kind}

    def gone(self, worker: str) -> WorkerGone | None:
        ends = (e for e in self.happened if isinstance(e, WorkerGone))
        return next((e for e in ends if e.worker_id == worker), None)

    def load(self) -> None:
        """Have both load the model."""
        self.start()
        assert self.until(lambda: self.frames("tool") == {"one", "two"}), self.happened
        for worker in self.given:
            load = {"type": "load", "device": "cpu", "model": ""}
            self.host.send(worker, load, [pickle.dumps({})])
        assert self.until(lambda: self.frames("loaded") == {"one", "two"}), self.happened
        assert self.until(lambda: not self.host.poll(0.05)), "what they import has been said"

    @property
    def pids(self) -> dict[str, int]:
        forked = {e.worker_id: e.pid for e in self.happened if isinstance(e, WorkerForked)}
        return forked or {name: pid for name, pid in self.given.items() if pid is not None}

    def log(self, worker: str) -> list[str]:
        return self.paths.worker_log(worker).read_text().splitlines()

    def said(self, worker: str, what: str) -> list[str]:
        return next(line.split()[1:] for line in self.log(worker) if line.split()[0] == what)

    def imported(self) -> list[list[str]]:
        """Return of each worker in which process, and in which mode, it was imported."""
        return [self.said(worker, "IMPORTED") for worker in self.given]

    def mark(self, pid: int) -> bytes:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next(each for each in variables if each.startswith(b"GPUPOOL_PROCESS="))


def known(place: Place) -> LastRun:
    last = LastRunFile(place.record, "0").read()
    assert last is not None
    return last


def first_run(place: Place) -> None:
    with Run(place, "first") as run:
        run.load()
        assert run.imported() == [[str(pid), "plain"] for pid in run.pids.values()]
    assert [(each.count, each.forks) for each in known(place).processes] == [(2, True)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_two_workers_of_one_import_share_nothing_else(place: Place) -> None:
    place.write(setup=SETUP.strip())
    first_run(place)
    with Run(place, "second") as run:
        (waiting,) = run.early._waiting
        server = waiting.process.pid
        run.load()
        assert run.imported() == [[str(server), "plain"]] * 2, "once, by neither of them"
        one, two = run.pids["one"], run.pids["two"]
        assert len({one, two, server}) == 3 and set(run.host.pids()) == {one, two}
        assert run.said("one", "SESSION") == [str(one), str(one)], "a session and group of its own"
        for own in ("DRAWN", "SEEDED", "KEY", "SESSION", "CHILDREN"):
            assert not set(run.said("one", own)) & set(run.said("two", own)), own
        assert run.mark(one) != run.mark(two) != run.mark(server)
        logs = [run.paths.worker_log(name).read_text() for name in ("one", "two")]
        assert all(log.startswith("IMPORTED ") and "MODE ''" in log for log in logs)
        # What one has started ends with it, whatever program it runs; the other goes on.
        children = [int(pid) for pid in run.said("one", "CHILDREN")]
        others = [int(pid) for pid in run.said("two", "CHILDREN")]
        assert all(map(is_running, children))
        assert {run.mark(pid) for pid in children} == {run.mark(one)}
        os.kill(one, signal.SIGKILL)
        assert run.until(lambda: run.gone("one"))
        end = run.gone("one")
        assert end is not None and end.exit_code == -signal.SIGKILL and not end.expected
        assert "killed by SIGKILL" in end.reason and "IMPORTED" in end.reason
        assert eventually(lambda: not any(map(is_running, children)))
        assert is_running(two) and is_running(server) and all(map(is_running, others))
        run.host.stop("two")
        assert run.until(lambda: run.gone("two"))
        end = run.gone("two")
        assert end is not None and end.exit_code == 0 and end.expected
        assert eventually(lambda: not any(map(is_running, [server, *others])))
    assert [(each.count, each.forks) for each in known(place).processes] == [(2, True)]


def test_edited_code_is_run_as_if_nothing_had_been_imported(place: Place) -> None:
    first_run(place)
    with Run(place, "second") as run:
        place.write(first="import os\nos.environ['MODE'] = 'edited'")
        run.load()
        for worker, pid in run.pids.items():
            imports = [line for line in run.log(worker) if line.startswith("IMPORTED")]
            assert imports[1:] == [f"IMPORTED {pid} edited"], imports
        marks = {run.mark(pid) for pid in run.pids.values()}
        assert len(marks) == 2, "also of a process that has begun anew"
        assert all("MODE 'edited'" in run.log(w) for w in run.given)


@pytest.mark.parametrize(
    "trace",
    [
        "import threading; threading.Thread(target=__import__('time').sleep, args=(1000,), "
        "daemon=True).start()",
        "kept = open('/etc/passwd')",
        "open('{place}/written', 'w').close()",
        "import tempfile; kept = tempfile.mkdtemp(dir='{place}')",
        "import subprocess; subprocess.run(['true'])",
        "import mmap; kept = mmap.mmap(-1, 4096)",
        "import random; kept = random.random()",
        "import uuid; kept = uuid.uuid4()",
        "kept = os.getpid()",
        "import random; kept = random.Random()",
        "import secrets; kept = secrets.token_hex()",
        "import numpy; kept = numpy.random.default_rng()",
        "import numpy; numpy.random.seed(0)",
        "import torch; torch.manual_seed(0)",
        "import socket; kept = socket.socket()",
    ],
)
def test_imports_that_leave_something_behind_are_not_shared(place: Place, trace: str) -> None:
    (place.site / "heavy.py").write_text(HEAVY.format(trace=trace.format(place=place.directory)))
    first_run(place)
    with Run(place, "second") as run:
        run.load()
        assert len(set(run.pids.values())) == 2
        assert run.imported() == [[str(pid), "plain"] for pid in run.pids.values()]
        assert len({run.mark(pid) for pid in run.pids.values()}) == 2
    with Run(place, "third") as run:
        waiting = {each.process.pid for each in run.early._waiting}
        run.load()
        assert waiting < set(run.pids.values()), "it is known now: a process for each"
    assert [(each.count, each.forks) for each in known(place).processes] == [(2, False)]


def marked(mark: bytes) -> set[int]:
    """Return the processes that have a mark and run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if mark in variables and is_running(int(process.name)):
                found.add(int(process.name))
    return found


def test_what_an_import_starts_ends_with_the_run(place: Place) -> None:
    started = "subprocess.Popen(['sleep', '1000'], start_new_session=True)"
    trace = f"import subprocess; kept = {started}"
    (place.site / "heavy.py").write_text(HEAVY.format(trace=trace))
    first_run(place)
    with Run(place, "second") as run:
        server = run.early._waiting[0].process.pid
        run.load()
        mark = run.mark(server)
        assert len(marked(mark) - {server}) == 1
    assert eventually(lambda: not marked(mark))


@pytest.fixture
def gate(place: Place) -> Iterator[Path]:
    """Its opening ends the import in the server; before there was one it was open."""
    gate = place.directory / "gate"
    trace = f"if os.path.exists({str(gate)!r}): open({str(gate)!r}).read()"
    (place.site / "heavy.py").write_text(HEAVY.format(trace=trace))
    first_run(place)
    os.mkfifo(gate)
    yield gate


def test_a_worker_that_is_not_there_yet_can_be_stopped(place: Place, gate: Path) -> None:
    with Run(place, "second") as run:
        run.start()
        assert set(run.given.values()) == {None} and run.host.pids() == []
        run.host.stop("one")
        assert not run.until_now(lambda: run.gone("one"))
        gate.write_text("")
        assert run.until(lambda: run.gone("one") and "two" in run.frames("tool"))
        end = run.gone("one")
        assert end is not None and end.expected and end.exit_code == 0


def test_workers_of_an_import_that_hangs_can_be_killed(place: Place, gate: Path) -> None:
    with Run(place, "second") as run:
        server = run.early._waiting[0].process.pid
        run.start()
        for worker in run.given:
            run.host.stop(worker, force=True, complaint="it takes too long")
        assert run.until(lambda: run.gone("one") and run.gone("two"))
        assert not is_running(server)


def test_workers_end_with_the_process_that_forked_them(place: Place) -> None:
    first_run(place)
    with Run(place, "second") as run:
        server = run.early._waiting[0].process.pid
        run.load()
        os.kill(server, signal.SIGKILL)
        assert run.until(lambda: run.gone("one") and run.gone("two"))
        for worker, pid in run.pids.items():
            end = run.gone(worker)
            assert end is not None and end.exit_code == -signal.SIGKILL and not end.expected
            assert not is_running(pid)


KILLED = """
import os, signal, sys
from pathlib import Path
from snakemake_executor_gpupool.devices.device import cpu_slot
from tests.integration.test_early import Place
from tests.integration.test_forked_workers import Run
place = Place.__new__(Place)
place.directory = Path(sys.argv[1])
place.record, place.imports = place.directory / "early" / "run.json", place.directory / "imports"
run = Run(place, "killed")
server = run.early._waiting[0].process.pid
run.load()
print(server, *run.pids.values(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_all_end_with_the_process_that_started_them(place: Place) -> None:
    first_run(place)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(place.directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(set(pids)) == 3 and eventually(lambda: not any(map(is_running, pids)))


def test_where_a_fork_is_refused_workers_import_for_themselves(place: Place) -> None:
    first_run(place)
    refused = "def fork(): raise BlockingIOError(11, 'no more processes')\nos.fork = fork"
    (place.site / "heavy.py").write_text(HEAVY.format(trace=refused))
    with Run(place, "second") as run:
        run.load()
        assert len(set(run.pids.values())) == 2
        assert run.imported() == [[str(pid), "plain"] for pid in run.pids.values()]
    assert [each.forks for each in known(place).processes] == [True], "there may be room again"
