"""Worker processes that are started before the run knows what for.

Importing torch takes a second or more, and so does what Snakemake does before it hands out a job.
The processes that the last run of a workflow started are probably the ones that this run will
want: so they are started at once, import installed packages, and wait. A worker that is started
later takes such a process over if it would be started exactly so; else it is a process of its own.

Nothing depends on the guess. Such a process has neither a device nor a tool: the tool's own code
is read when it has been taken over (:mod:`~snakemake_executor_gpupool.worker.early`). It ends with
this process, with :meth:`EarlyProcesses.close`, or after two minutes that nobody wanted it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import secrets
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.visibility import CONTAINER_PREFIXES, LEASE_VARIABLE
from snakemake_executor_gpupool.errors import WorkerStartError
from snakemake_executor_gpupool.hosts.forked import ForkServer
from snakemake_executor_gpupool.hosts.process import ServedProcess, WorkerProcess
from snakemake_executor_gpupool.hosts.reaper import PROCESS_VARIABLE, is_ready
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.known_process import KnownProcess, LastRun
from snakemake_executor_gpupool.wire.requests import ToolRef

#: What such a process is to import; :mod:`~snakemake_executor_gpupool.worker.early` reads it.
VARIABLE = "GPUPOOL_EARLY"
#: What a process learns when it is taken over: nothing that is imported depends on these.
_LATE = {"GPUPOOL_WORKER", *(f"{prefix}{LEASE_VARIABLE}" for prefix in ("", *CONTAINER_PREFIXES))}
#: Seconds after which a process that waits is not taken any more: it ends after two minutes.
TAKEN_S = 110.0
#: Seconds that one that is killed may take to end.
ENDS_S = 1.0
#: Processes with models that are started early, at most.
MAX_MODELS = 8
#: Imports that are worth a process of its own, as text.
MAX_ASKED_BYTES = 64 * 1024


@dataclass(eq=False)
class _Waiting:
    process: WorkerProcess
    known: KnownProcess
    #: What it was started from, but for what is learnt late.
    variables: dict[str, str]
    cwd: str
    umask: str
    mark: str
    since_s: float
    #: It imports for several workers; None: for one.
    server: ForkServer | None = None
    #: How many workers may still be had of it.
    left: int = 1


@dataclass(eq=False)
class _Started:
    """A worker of this run, for the next one."""

    known: KnownProcess
    alive: set[str]


class Record(Protocol):
    """Where it is kept from run to run."""

    def read(self) -> LastRun | None:
        """Return what is known; None: nothing."""

    def write(self, last: LastRun) -> None:
        """Keep it. Never raises."""


class EarlyProcesses:
    """The processes that wait, and what is noted of this run's for the next.

    Parameters
    ----------
    record
        Keeps what is known of the workflow's last run.
    home
        The directory that Snakemake was started for.
    """

    def __init__(self, record: Record, home: str) -> None:
        self._record, self._home = record, home
        self._last = record.read()
        self._waiting: list[_Waiting] = []
        self._started: dict[tuple[Any, ...], _Started] = {}
        self._by_worker: dict[str, _Started] = {}
        self._has_taken = self._has_begun = False
        self._servers: list[_Waiting] = []
        let_go_in_children(self)

    def __len__(self) -> int:
        return len(self._waiting)

    # -- before the run ----------------------------------------------------------------
    def start(self, environment: Mapping[str, str], cores: int) -> None:
        """Start what the last run had, as far as there are cores beside Snakemake's own.

        Parameters
        ----------
        environment
            What all workers will start from, as far as it is known now.
        """
        last = self._last
        if last is None or not last.is_worth_it or _searches_here(environment):
            return
        models: list[KnownProcess] = []
        files: list[KnownProcess] = []
        for known in last.processes:
            count = 1 if _is_shared(known) else min(known.count, MAX_MODELS)
            (models if known.has_model else files).extend([known] * count)
        spare = max(cores - 1, 0)
        for known in [*files[:spare], *models[: min(spare, MAX_MODELS)]]:
            with contextlib.suppress(OSError, WorkerStartError):
                self._start(known, environment)
        self._has_begun = bool(self._waiting)
        if self._has_begun:  # a run that has nothing to do says nothing at its end
            again = dataclasses.replace(last, in_vain=last.in_vain + 1)
            self._record.write(again)

    def _start(self, known: KnownProcess, environment: Mapping[str, str]) -> None:
        forks = _is_shared(known)
        asked = json.dumps({"imports": known.imports, "code": known.code, "forks": forks})
        if len(asked) > MAX_ASKED_BYTES:
            return
        mark, cwd = secrets.token_hex(16), os.path.normpath(f"{self._home}/{known.place}")
        variables = {**environment, **known.variables}
        process = WorkerProcess(
            "early",
            known.python,
            {**variables, PROCESS_VARIABLE: mark, VARIABLE: asked},
            Path(os.devnull),
            known.activation,
            cwd=cwd,
        )
        here = _fixed(variables), cwd, _umask()
        each = _Waiting(process, known, *here, mark, time.monotonic())
        if forks:
            each.server, each.left = ForkServer(process, mark), min(known.count, MAX_MODELS)
            self._servers.append(each)
        self._waiting.append(each)

    # -- while it lasts ----------------------------------------------------------------
    def take(
        self,
        worker_id: str,
        tool: ToolRef,
        variables: Mapping[str, str],
        log: Path,
        *,
        has_model: bool,
    ) -> tuple[ServedProcess, str] | None:
        """Return a process for a worker that is to be started so, and its mark; None: none fits.

        ``variables`` are all that the worker is to have.
        """
        here = _fixed(variables), _cwd(), _umask()
        asked = tool.spec, tool.python, tool.activation, has_model
        for each in list(self._waiting):
            known = each.known
            is_its = (known.spec, known.python, known.activation, known.has_model) == asked
            if is_its and (each.variables, each.cwd, each.umask) == here:
                taken = self._taken(each, worker_id, log)
                if taken is not None:
                    return taken
        return None

    def _taken(self, each: _Waiting, worker_id: str, log: Path) -> tuple[ServedProcess, str] | None:
        """Return what waits as a worker; None: it waits no longer."""
        is_late = time.monotonic() > each.since_s + TAKEN_S
        process: ServedProcess | None = None
        mark = each.mark
        if not is_late and each.process.exit_code() is None:
            with contextlib.suppress(OSError):
                files = resource.RLIMIT_NOFILE
                resource.prlimit(each.process.pid, files, resource.getrlimit(files))
            if each.server is None:
                process = each.process
                process.worker_id, process.log_path = worker_id, log
            else:
                mark = secrets.token_hex(16)
                process = each.server.fork(worker_id, log, mark)
        each.left -= 1
        if process is None or not each.left:
            self._waiting.remove(each)
        if process is None:
            if each.server is None:
                _end(each.process)
            return None
        self._has_taken = True
        return process, mark

    def told(self, variables: Mapping[str, str], log: Path) -> dict[str, object]:
        """Return what a worker's first frame says of this."""
        late = {name: text for name, text in variables.items() if name in _LATE}
        return {"log": str(log), "variables": late}

    def started(
        self,
        worker_id: str,
        tool: ToolRef,
        ours: Mapping[str, str],
        *,
        has_model: bool,
        forks: bool,
    ) -> None:
        """Note a worker, with the variables that gpupool has set for it.

        ``forks``: several of them may be forked from one process.
        """
        place = os.path.relpath(_cwd(), self._home)
        words = tool.spec, tool.python, tool.activation
        known = KnownProcess(*words, _fixed(ours), place, has_model=has_model, forks=forks)
        each = self._started.setdefault(_key(known), _Started(known, set()))
        each.alive.add(worker_id)
        self._by_worker[worker_id] = each
        count = max(each.known.count, len(each.alive))
        each.known = dataclasses.replace(each.known, count=count)

    def ended(self, worker_id: str) -> None:
        """Note that a worker has ended."""
        each = self._by_worker.pop(worker_id, None)
        if each is not None:
            each.alive.discard(worker_id)
        self._dismiss_idle()

    def heard(self, worker_id: str, frame: Frame) -> None:
        """Note which packages a worker has imported first."""
        each = self._by_worker.get(worker_id)
        names, code = frame.meta.get("names"), frame.meta.get("code")
        with contextlib.suppress(ValueError):
            if each is not None:
                entry = {**dataclasses.asdict(each.known), "imports": names, "code": code}
                each.known = KnownProcess.from_json(entry)

    # -- the end -----------------------------------------------------------------------
    def close(self) -> None:
        """End what nobody wanted, and write down what this run had. Never raises."""
        unable = self._unable()
        for process in self._dismiss_idle():
            _await_end(process)  # its workers' processor time counts with its own
        for each in {id(each): each for each in (*self._waiting, *self._servers)}.values():
            _end(each.process)
        self._waiting.clear()
        self._servers.clear()
        processes = tuple(
            dataclasses.replace(each, forks=each.forks and (_key(each), each.code) not in unable)
            for each in (started.known for started in self._started.values())
            if each.code
        )
        if processes:
            self._record.write(LastRun(processes, unfit=self._unfit(processes)))
        self._started.clear()

    def _dismiss_idle(self) -> list[WorkerProcess]:
        """Let servers end of which no worker is left, or may still be had, and return them."""
        idle: list[WorkerProcess] = []
        for each in self._servers:
            if each.server is not None and each.server.is_idle and not each.left:
                each.server.dismiss()
                idle.append(each.process)
        return idle

    def _unable(self) -> set[tuple[Any, str]]:
        """Return which processes are not to be forked: their imports cannot be shared."""
        for each in self._servers:
            if each.server is not None:
                each.server.news()
        known = [e.known for e in self._servers if e.server is not None and not e.server.is_sharing]
        last = self._last.processes if self._last is not None else ()
        known += [each for each in last if each.has_model and not each.forks]
        return {(_key(each), each.code) for each in known}

    def _unfit(self, processes: Sequence[KnownProcess]) -> int:
        """Return how many runs in a row, this one included, could take nothing over."""
        last = self._last
        if self._has_taken or last is None:
            return 0
        if self._has_begun:
            return last.unfit + 1
        is_same = {_key(each) for each in processes} == {_key(each) for each in last.processes}
        return last.unfit if is_same else 0

    def in_child(self) -> None:
        """Close the channels in a forked child: the processes are its parent's."""
        for each in (*self._waiting, *self._servers):
            each.process.in_child()
        self._waiting.clear()
        self._servers.clear()
        self._started.clear()


def _is_shared(known: KnownProcess) -> bool:
    """Tell whether one process imports for several workers."""
    return known.forks and known.has_model and known.count > 1


def _key(known: KnownProcess) -> tuple[Any, ...]:
    words = known.spec, known.python, known.activation, known.place, known.has_model
    return (*words, tuple(sorted(known.variables.items())))


def _end(process: WorkerProcess) -> None:
    process.kill()
    _await_end(process)
    process.exit_code()
    process.close()


def _await_end(process: WorkerProcess) -> None:
    if process.handle >= 0:
        is_ready(process.handle, select.POLLIN, ENDS_S)


def _fixed(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process must have from its start."""
    return {k: v for k, v in variables.items() if k not in _LATE and k != PROCESS_VARIABLE}


def _searches_here(environment: Mapping[str, str]) -> bool:
    """Tell whether what an import finds depends on the working directory."""
    given = environment.get("PYTHONPATH")
    return given is not None and not all(map(os.path.isabs, given.split(os.pathsep)))


def _cwd() -> str:
    try:
        return os.path.normpath(os.getcwd())  # noqa: PTH109 - a plain string
    except OSError:  # it has been removed
        return ""


def _umask() -> str:
    """Return the umask of this process, which cannot be asked for without setting it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return line
    return ""
