"""What workers of a client's job start from, under a name that says all of it: the stamp."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.errors import CodeChanged, FoundHere
from snakemake_executor_gpupool.frontends.server.code_watch import ToolCode, ToolError
from snakemake_executor_gpupool.frontends.server.job_requests import (
    ClientJob,
    ComputeThere,
    Renewed,
)
from snakemake_executor_gpupool.frontends.server.variables import depends_on_place
from snakemake_executor_gpupool.hosts.surroundings import Surroundings
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.requests import ToolRef, stamps_of, start_of, texts_of
from snakemake_executor_gpupool.worker.noted_reads import NotedReads
from snakemake_executor_gpupool.worker.unchanged import VARIABLE

#: The error of a job that needs processes which start in its own directory.
FOUND_HERE = FoundHere.__name__
#: What a process starts from whose workplace is gone: nothing, so that it does not start.
NOWHERE = Surroundings({}, "/nonexistent/gpupool", 0o077)


#: Returns the workplace of a job whose processes are to start in a directory.
PlaceOf = Callable[[ClientJob, str], Awaitable["Workplace"]]


@dataclass(eq=False)
class Workplace:
    """What workers start from, and who uses it.

    Attributes
    ----------
    jobs
        How many jobs are in flight.
    used_s
        When the last one ended.
    kept_s
        How long after that its processes are kept.
    software
        Identifies the environment that its code was imported in.
    reads
        What its processes have read beside code.
    """

    ref: ToolRef
    surroundings: Surroundings
    expected: Path
    code: ToolCode
    software: str
    reads: NotedReads
    jobs: int = 0
    used_s: float = 0.0
    kept_s: float = 0.0
    #: The stamps of tools that its file processes may have imported besides, by their specs.
    after: dict[str, str] = field(default_factory=dict)
    is_retired: bool = field(default=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def unfit_for(self, job: ClientJob) -> str:
        """Return the error for which a call's items must not go to its processes; empty: they may.

        Other jobs are read by one of these processes, which finds that out.
        """
        return "" if job.is_repeatable else await asyncio.to_thread(self._unfit_for, job.cwd)

    def _unfit_for(self, cwd: str) -> str:
        with self._lock:
            try:
                self.reads.require()
                self.reads.require_none_in(cwd)
            except (CodeChanged, FoundHere) as error:
                return type(error).__name__
        return ""

    def has_met_others(self, after: Iterable[Workplace]) -> bool:
        """Note the tools of jobs that follow; return whether the code of one has changed since."""
        now = {place.ref.spec: place.ref.stamp for place in after}
        is_changed = any(self.after.get(spec, stamp) != stamp for spec, stamp in now.items())
        self.after = {**({} if is_changed else self.after), **now}
        return is_changed


class Workplaces:
    """All that are in use; ``surroundings`` may be called by another thread.

    Parameters
    ----------
    directory
        The server's: workers of most jobs start in an empty directory there.
    """

    def __init__(self, directory: Path) -> None:
        self._expected = directory / "expected"
        self._empty = directory / "empty"
        for each in (self._expected, self._empty):
            each.mkdir(mode=0o700, exist_ok=True)
        for left in self._expected.iterdir():  # by a server that was killed
            left.unlink()
        self._known: dict[str, Workplace] = {}
        #: How many workplaces were given up, by the stamp without its number.
        self._spoiled: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Workplace]:
        return iter(list(self._known.values()))

    @property
    def neutral(self) -> str:
        """The directory of workers that may start anywhere."""
        return str(self._empty)

    def surroundings(self, tool: ToolRef) -> Surroundings | None:
        """Return what a tool's processes start from; called by the run loop's thread."""
        if not tool.stamp:
            return None
        known = [self._known.get(stamp) for stamp in stamps_of(tool.stamp)]
        first = known[0]
        if first is None or None in known:
            return NOWHERE
        if not tool.more:
            return first.surroundings
        expected = str(first.expected.with_name(f"{tool.stamp}.json"))
        return replace(
            first.surroundings, variables={**first.surroundings.variables, VARIABLE: expected}
        )

    def of_job(
        self,
        python: str,
        mode: Mode,
        code: ToolCode,
        variables: Mapping[str, str],
        software: str,
        job: ClientJob,
        *,
        is_here: bool,
    ) -> Workplace:
        """Return the workplace of a job, new if no other job had the same.

        ``is_here``: it is to start in the client's directory in any case.

        Raises
        ------
        OSError
            The disk is full.
        """
        depends = is_here or self._depends_on(job.cwd, code, variables, job.job.params)
        start = job.cwd if depends else self.neutral
        entrance = job.entrance
        begins = [python, repr(entrance), sorted(variables.items()), job.umask]
        base = f"{_digest(begins)}~{_digest([start])}.{_digest([job.spec, code.watched])}"
        stamp = f"{base}-{self._spoiled[base]}"
        known = self._known.get(stamp)
        if known is None:
            expected = self._expected / f"{stamp}.json"
            told = {"tool": job.name, "watched": code.watched, "anywhere": not depends}
            expected.write_text(json.dumps(told), encoding="utf-8")
            surroundings = Surroundings({**variables, VARIABLE: str(expected)}, start, job.umask)
            plain = ToolRef(job.spec, start, python, mode=mode, name=job.name, stamp=stamp)
            ref = plain if entrance is None else replace(plain, **entrance.fields())
            reads = NotedReads([str(expected)])
            known = Workplace(ref, surroundings, expected, code, software, reads)
            self._known[stamp] = known
        known.is_retired = False
        return known

    @staticmethod
    def _depends_on(
        cwd: str, code: ToolCode, variables: Mapping[str, str], params: Mapping[str, Any]
    ) -> bool:
        """Whether the model's process may find something in the client's directory.

        It may if anything there has a name that the code or a param mentions.
        """
        if depends_on_place(variables):
            return True
        words = {*(word for word in code.words if not word.startswith("/")), *texts_of(params)}
        return any(os.path.lexists(os.path.join(cwd, word)) for word in words if word)

    def is_current(self, workplace: Workplace) -> bool:
        """Return whether later jobs may have it: it was not given up."""
        return workplace.ref.stamp == f"{_base_of(workplace)}-{self._spoiled[_base_of(workplace)]}"

    def spoil(self, workplace: Workplace) -> None:
        """Have later jobs start from the same, but in processes of their own."""
        base, _, number = workplace.ref.stamp.rpartition("-")
        self._spoiled[base] = max(self._spoiled[base], int(number) + 1)

    def forget(self, workplace: Workplace) -> None:
        """Forget a workplace whose processes have ended."""
        self._known.pop(workplace.ref.stamp, None)
        base = _base_of(workplace)
        if not any(_base_of(other) == base for other in self._known.values()):
            self._spoiled.pop(base, None)  # nothing has a number any longer
        for path in (workplace.expected, *map(Path, workplace.reads.files)):
            with contextlib.suppress(OSError):
                path.unlink()


def _digest(what: list[Any]) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


async def places_after(job: ClientJob, place: Workplace, place_of: PlaceOf) -> list[Workplace]:
    """Return the workplaces of the jobs that follow one, as far as one process could serve all.

    What is wrong with one of them is said once it is its turn.
    """
    places: list[Workplace] = []
    for later in job.after:
        try:
            its = await place_of(later, place.ref.base_dir)
        except (ToolError, ComputeThere, Renewed, OSError):
            break
        if start_of(its.ref.stamp) != start_of(place.ref.stamp):
            break
        places.append(its)
    return places


def _base_of(workplace: Workplace) -> str:
    """Return the stamp without its number."""
    return workplace.ref.stamp.rpartition("-")[0]
