"""Processes that are started before the run knows what for: taken over, or not."""

from __future__ import annotations

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

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.hosts.base import FrameArrived
from snakemake_executor_gpupool.hosts.early import EarlyProcesses
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.last_run import LastRunFile, last_run_path
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.requests import ToolRef
from tests.waiting import eventually

#: Each import of it leaves a line; what it finds then decides what it is.
HEAVY = """
import os
with open(os.environ["IMPORTS"], "a") as file:
    file.write(f"{os.getpid()} {os.environ.get('MODE', '')}\\n")
print("heavy is here")
MODE = os.environ.get("MODE", "")
"""
TOOL = """
from snakemake_executor_gpupool import Tool
{first}
class Embed(Tool):
    devices = ("cpu",)
    def read(self, job): return []
    def load(self, device):
        {setup}
        import heavy
        print("MODE", repr(heavy.MODE))
    def run(self, items): return items
    def write(self, job, results): pass
"""


class Place:
    """A tool that imports an installed package, and runs of a host for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "lib" / "site-packages"
        self.site.mkdir(parents=True)
        (self.site / "heavy.py").write_text(HEAVY)
        self.imports = directory / "imports"
        self.record = directory / "early" / "run.json"
        self.write()

    def write(self, first: str = "", setup: str = "pass") -> None:
        (self.directory / "tool.py").write_text(TOOL.format(first=first, setup=setup))

    @property
    def imported(self) -> list[str]:
        """A line for each import: in which process, and in which mode."""
        return self.imports.read_text().splitlines() if self.imports.exists() else []

    def begin(self, cores: int = 2) -> EarlyProcesses:
        early = EarlyProcesses(LastRunFile(self.record, "0"), str(Path.cwd()))
        early.start(os.environ, cores)
        return early

    def serve(self, early: EarlyProcesses) -> tuple[int, str]:
        """Load the model in a worker; return its process and its log."""
        paths = RunPaths(self.directory / "runs", run_id=str(len(self.imported)))
        paths.create()
        host = LocalHost(paths, 1)
        host.launcher.early = early
        try:
            tool = ToolRef("tool.py:Embed", str(self.directory), sys.executable)
            pid = host.start("embed.1", tool, (cpu_slot(0),))
            assert pid is not None
            self.answer(host, "tool")
            load = {"type": "load", "device": "cpu", "model": ""}
            host.send("embed.1", load, [pickle.dumps({})])
            self.answer(host, "loaded")
            assert eventually(lambda: not host.poll(0.05)), "what it imports has been said"
        finally:
            host.close(lambda end: None)
            paths.remove_spools()
        return pid, paths.worker_log("embed.1").read_text()

    @staticmethod
    def answer(host: LocalHost, kind: str) -> None:
        arrived: list[Any] = []

        def came() -> bool:
            arrived.extend(host.poll(1.0))
            return bool(arrived)

        assert eventually(came)
        assert isinstance(arrived[0], FrameArrived), arrived
        assert arrived[0].frame.type == kind, arrived


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    there = Place(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(there.site))
    monkeypatch.setenv("IMPORTS", str(there.imports))
    monkeypatch.delenv("MODE", raising=False)
    yield there


def waits(early: EarlyProcesses, place: Place) -> int:
    """The process that waits, once it has imported what it was to."""
    assert [each.known.imports for each in early._waiting] == [("heavy",)]
    pid = early._waiting[0].process.pid
    assert eventually(lambda: any(line.split()[0] == str(pid) for line in place.imported))
    return pid


def test_the_next_run_takes_over_what_was_started_early(place: Place) -> None:
    with_nothing = place.begin()
    assert len(with_nothing) == 0
    first, log = place.serve(with_nothing)
    assert place.imported == [f"{first} "] and "MODE ''" in log
    early = place.begin()
    waiting = waits(early, place)
    pid, log = place.serve(early)
    assert pid == waiting != first
    assert place.imported == [f"{first} ", f"{pid} "], "imported once, before there was a run"
    assert log.splitlines() == ["heavy is here", "MODE ''"], "as any worker's log"
    again = place.begin()
    assert waits(again, place) != pid, "the third run finds the same as the second"
    again.close()


@pytest.mark.parametrize(
    "edit",
    [
        {"first": "import os\nos.environ['MODE'] = 'edited'"},
        {"setup": "import os; os.environ['MODE'] = 'edited'"},
    ],
)
def test_edited_code_is_run_as_if_nothing_had_been_imported(
    place: Place, edit: dict[str, str]
) -> None:
    place.serve(place.begin())
    early = place.begin()
    waiting = waits(early, place)
    place.write(**edit)
    pid, log = place.serve(early)
    assert pid == waiting, "the same process"
    assert place.imported[-1] == f"{pid} edited", "which has become another program"
    assert "MODE 'edited'" in log
    # What the code changes before it imports the package cannot be done ahead.
    known = LastRunFile(place.record, "0").read()
    assert known is not None and [each.imports for each in known.processes] == [()]


@pytest.mark.parametrize("change", ["variable", "directory", "umask", "dead", "another tool's"])
def test_what_would_not_be_started_so_is_not_taken(
    place: Place, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.serve(place.begin())
    early = place.begin()
    waiting = waits(early, place)
    before = os.umask(0o022)
    try:
        match change:
            case "variable":
                monkeypatch.setenv("MODE", "set meanwhile")
            case "directory":
                monkeypatch.chdir(place.directory)
            case "umask":
                os.umask(0o027)
            case "dead":
                os.kill(waiting, signal.SIGKILL)
                os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)
            case _:
                (entry,) = early._waiting
                entry.known = type(entry.known)(**{**vars(entry.known), "spec": "other.py:Embed"})
        pid, log = place.serve(early)
    finally:
        os.umask(before)
    assert pid != waiting
    assert f"MODE {'set meanwhile' if change == 'variable' else ''!r}" in log
    assert len(early) == 0 and not Path(f"/proc/{waiting}").exists(), "nothing is left behind"


def test_a_package_that_is_gone_is_no_reason_to_fail(place: Place) -> None:
    place.serve(place.begin())
    (place.site / "heavy.py").rename(place.directory / "heavy.py")
    early = place.begin()
    place.write(first="import os, sys\nsys.path.insert(0, os.path.dirname(__file__))")
    pid, log = place.serve(early)
    assert "MODE ''" in log and place.imported[-1] == f"{pid} "


def test_few_are_started_and_none_for_ever(place: Place) -> None:
    place.serve(place.begin())
    assert len(place.begin(cores=1)) == 0, "Snakemake needs a core"
    for _ in range(2):
        early = place.begin()
        assert len(early) == 1
        early.close()  # a run that had nothing to do
    assert len(place.begin()) == 0
    place.serve(place.begin())
    early = place.begin()
    assert len(early) == 1, "it is known again what is needed"
    early.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="Snakemake needs the only core")
@pytest.mark.parametrize(("word", "begun"), [("--jobs=1", 1), ("--dry-run", 0)])
def test_snakemake_s_program_starts_them_while_it_is_imported(
    place: Place, word: str, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses its command line: nothing has come to the point where settings are made."""
    monkeypatch.setenv("GPUPOOL_PROFILE", str(place.directory / "profile.json"))
    place.serve(place.begin())
    (place.directory / "Snakefile").touch()
    path = last_run_path(os.environ, os.path.realpath(place.directory / "Snakefile"))
    known = LastRunFile(place.record, "0").read()
    assert path is not None and known is not None
    LastRunFile(path, __version__).write(known)
    command = [sys.executable, "-m", "snakemake", "--executor", "gpupool", word, "--no-such-option"]
    done = subprocess.run(command, cwd=place.directory, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--no-such-option" in done.stderr
    after = LastRunFile(path, __version__).read()
    assert after is not None and after.in_vain == begun


KILLED = """
import os, signal, sys
from pathlib import Path
from snakemake_executor_gpupool.hosts.early import EarlyProcesses
from snakemake_executor_gpupool.records.last_run import LastRunFile
early = EarlyProcesses(LastRunFile(Path(sys.argv[1]), "0"), os.getcwd())
early.start(os.environ, 2)
print(early._waiting[0].process.pid, flush=True)
os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(place: Place, number: int) -> None:
    place.serve(place.begin())
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(place.record), str(int(number))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -number
    assert eventually(lambda: not Path(f"/proc/{done.stdout.strip()}").exists())
