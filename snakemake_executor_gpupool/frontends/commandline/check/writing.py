"""Probes of write(): it writes its outputs, all of them and nothing else, from its job alone."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.finding import NotTested
from snakemake_executor_gpupool.frontends.commandline.check.fresh import FreshFailure, packed
from snakemake_executor_gpupool.frontends.commandline.check.scratch import scratch_directory
from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.tool_api.contract import items_of
from snakemake_executor_gpupool.tool_api.values import Job, Params
from snakemake_executor_gpupool.wire.payload import load_bytes

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
NO_OUTPUTS = "no outputs are named; give --output, or take the job from its rule: --rule NAME"


class Watch:
    """Notes which files this process opens for writing, renames or makes, while it is on.

    Sees what Python code does; not what a library does from C, nor a child.
    """

    def __init__(self) -> None:
        self.on = False
        self.paths: list[str] = []
        # A hook cannot be taken out again; it does nothing while the watch is off.
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        path: Any = None
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITING_FLAGS):
                return
        elif event == "os.rename":
            path = arguments[1]
        elif event == "os.mkdir":
            path = arguments[0]
        if isinstance(path, (str, bytes, os.PathLike)):
            self.paths.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - as it was


@functools.cache
def _watch() -> Watch:
    return Watch()


@dataclass(frozen=True)
class Scratch:
    """Temporary places for the outputs of a job, whose base names they keep."""

    root: Path
    job: Job

    @functools.cached_property
    def places(self) -> dict[str, Path]:
        """Where each output is written, each in a directory of its own."""
        return {
            path: self.root / f".gpupool-{self.root.name}-{number}" / Path(path).name
            for number, path in enumerate(self.job.output)
        }

    @functools.cached_property
    def staged(self) -> Job:
        """The job with these outputs."""
        for place in self.places.values():
            place.parent.mkdir(parents=True, exist_ok=True)
        return self.job.replace(output=self.job.output.mapped(lambda path: str(self.places[path])))

    def content(self) -> dict[str, bytes]:
        """Return what was written: the bytes of every file."""
        content = {}
        for path, place in self.places.items():
            if place.is_file():
                content[path] = place.read_bytes()
            for file in sorted(place.rglob("*")) if place.is_dir() else ():
                if file.is_file():
                    content[f"{path}/{file.relative_to(place)}"] = file.read_bytes()
        return content


def _jobs(trial: Trial) -> list[int]:
    """Return the jobs whose outputs can be written here.

    Raises
    ------
    NotTested
        There are none.
    """
    jobs = [
        number
        for number, job in enumerate(trial.jobs)
        if job.output and (not trial.items_of(number) or trial.model(number) in trial.models)
    ]
    if not jobs:
        raise NotTested(NO_OUTPUTS)
    return jobs


# -- here ----------------------------------------------------------------------------
def writing(trial: Trial) -> Iterator[str]:
    """Write each job's outputs in a process that has read and computed, as when cold."""
    for number in _jobs(trial):
        with scratch_directory() as root:
            scratch = Scratch(root, trial.jobs[number])
            results = trial.results(number)
            places = _listing(trial.jobs[number])
            watch = _watch()
            watch.paths.clear()
            watch.on = True
            try:
                _write_here(trial, number, scratch, results)
            finally:
                watch.on = False
            new_paths = _listing(trial.jobs[number]) - places
            problems = list(_wrong_files(trial, scratch, {*watch.paths, *new_paths}))
            yield from problems
            if problems:
                return


def _write_here(trial: Trial, number: int, scratch: Scratch, results: Sequence[Any]) -> None:
    list(items_of(trial.reader(number), trial.jobs[number]))
    # Copies, as write() may work on them in place.
    copies = [load_bytes(packed(result)) for result in results]
    trial.reader(number).write(_given(trial, number, scratch), copies)


def _given(trial: Trial, number: int, scratch: Scratch) -> Job:
    """Return the job as write() is given it."""
    names = [item.meta.name for item in trial.items_of(number)]
    params = Params(trial.reader(number).params)
    return scratch.staged.replace(item_names=names, params=params)


def _wrong_files(trial: Trial, scratch: Scratch, touched: set[str]) -> Iterator[str]:
    places = scratch.places
    missing = [p for p, place in places.items() if not place.exists() and p not in trial.touched]
    known = {*places.values(), *(place.parent for place in places.values())}
    beside = sorted(path.name for path in scratch.root.glob("*/*") if path not in known)
    elsewhere = sorted(path for path in touched if _is_elsewhere(Path(path), scratch, trial))
    if missing:
        yield f"write() did not write {', '.join(missing)}"
    if beside:
        yield f"write() left {', '.join(beside)} beside its outputs, which would be lost"
    if elsewhere:
        yield f"write() wrote to {', '.join(elsewhere)}; it may write job.output alone"
    if trial.from_rule:
        for path, place in places.items():
            if place.exists() and place.is_dir() != (path in trial.directories):
                kind = "directory" if place.is_dir() else "file"
                declared = "directory()" if path in trial.directories else "file"
                yield f"write() made a {kind} of {path}, which the rule declares as a {declared}"


def _listing(job: Job) -> set[str]:
    """Return what lies where a tool might write by mistake."""
    folders = {Path(), *(Path(path).parent for path in (*job.output, *job.input))}
    return {
        os.path.join(folder.resolve(), entry.name)  # noqa: PTH118 - links are not followed
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
    }


def _is_elsewhere(path: Path, scratch: Scratch, trial: Trial) -> bool:
    """Tell whether a file that was written is still there, and is no output, log or cache."""
    known = (scratch.root, Path("/dev"), Path("/proc"))
    is_cache = {"__pycache__", ".cache"} & set(path.parts)
    logs = {os.path.abspath(log) for log in scratch.job.log}  # noqa: PTH100
    is_known = str(path) in logs or any(path.is_relative_to(place) for place in known)
    return path.exists() and not is_cache and not is_known


# -- elsewhere -----------------------------------------------------------------------
def writing_elsewhere(trial: Trial) -> Iterator[str]:
    """Write in processes that have not computed, one of which has read all the jobs before."""
    jobs = _jobs(trial)
    with scratch_directory() as root:
        here = _written_here(trial, jobs, root / "here")
        try:
            bare = _written_there(trial, jobs, root / "bare", ())
            read = _written_there(trial, jobs, root / "read", trial.jobs)
            again = _written_there(trial, jobs, root / "bare", ())
        except FreshFailure as failure:
            yield (
                "write() works where the model was loaded and this input read, but not in a "
                f"process of its own: {failure}"
            )
            return
        # What has the time in it differs only if enough of it has passed.
        is_steady = bare == again and here == _written_here(trial, jobs, root / "here")
        yield from _differing(trial, here, bare, read, is_steady=is_steady)


def _written_here(trial: Trial, jobs: Sequence[int], root: Path) -> list[dict[str, bytes]]:
    """Return what write() writes of each job in this process."""
    content = []
    for number in jobs:
        with _fresh(Scratch(root / str(number), trial.jobs[number])) as scratch:
            _write_here(trial, number, scratch, trial.results(number))
            content.append(scratch.content())
    return content


def _written_there(
    trial: Trial, jobs: Sequence[int], root: Path, read_first: Sequence[Job]
) -> list[dict[str, bytes]]:
    """Return what write() writes of each job in a process of its own."""
    with contextlib.ExitStack() as stack:
        there = [
            stack.enter_context(_fresh(Scratch(root / str(number), trial.jobs[number])))
            for number in jobs
        ]
        asked = [
            (_given(trial, number, scratch), trial.results(number))
            for number, scratch in zip(jobs, there, strict=True)
        ]
        trial.fresh.write(read_first, asked)
        return [scratch.content() for scratch in there]


@contextlib.contextmanager
def _fresh(scratch: Scratch) -> Iterator[Scratch]:
    """Yield places for outputs, and remove them afterwards: the same are used again."""
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch.root, ignore_errors=True)


def _differing(
    trial: Trial,
    here: Sequence[dict[str, bytes]],
    bare: Sequence[dict[str, bytes]],
    read: Sequence[dict[str, bytes]],
    *,
    is_steady: bool,
) -> Iterator[str]:
    names = [name for content in here for name in content]
    holding = [name for content in bare for name, data in content.items() if b".gpupool-" in data]
    if holding:
        yield (
            f"write() writes where its outputs lie into {holding[0]}, and they lie in a temporary "
            "place while it runs: take names from job.wildcards or job.item_names"
        )
    elif not is_steady:
        trial.remark(
            f"write() writes other bytes each time ({', '.join(names)}), so it was not compared "
            "with what it writes in the process that has computed"
        )
    elif not here == bare == read:
        where = "read other jobs" if here == bare else "loaded and computed"
        name = next(
            name
            for one, *others in zip(bare, here, read, strict=True)
            for name in {**one, **others[0], **others[1]}
            if any(one.get(name) != other.get(name) for other in others)
        )
        yield (
            f"write() writes another {name} in a process of its own than in one that has {where}; "
            "it may use job and results alone, no globals and nothing that other methods have set"
        )
