"""Runs a tool in a fresh process, where nothing else has run.

The pool reads, computes and writes in different processes, so nothing may pass between them but
items and results. A fresh process also draws other hashes of strings.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.explain import said
from snakemake_executor_gpupool.frontends.commandline.check.scratch import scratch_directory
from snakemake_executor_gpupool.hosts.process import describe_exit
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.contract import checked_run, items_of, results_of
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.payload import load_bytes, pack
from snakemake_executor_gpupool.worker.describe import describe_item
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files

CHILD = (
    f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import answer; answer(sys.argv[1])"
)
QUESTION, ANSWER = "question", "answer"


class FreshFailure(Exception):
    """A call in a fresh process failed; the message says how."""


def packed(value: Any) -> bytes:
    """Return a value pickled as it passes between processes."""
    return b"".join(bytes(part) for part in pack(value))


@dataclass(frozen=True)
class FreshProcess:
    """Calls a tool in fresh processes, a new one for each call.

    Parameters
    ----------
    spec
        The tool's name, resolved.
    search_path
        Its ``sys.path``.
    limit_s
        A process that takes longer counts as hung.
    """

    spec: str
    search_path: Sequence[str]
    limit_s: float

    def read(self, jobs: Sequence[Job]) -> list[list[tuple[str, str]]]:
        """Return content hash and key of each item of each job."""
        answer: list[list[tuple[str, str]]] = self._ask("read", [packed(job) for job in jobs])
        return answer

    def run(self, device: str, calls: Sequence[tuple[Any, Any, Any, Sequence[Any]]]) -> list[Any]:
        """Return the results of each call of ``run``.

        Parameters
        ----------
        calls
            (model's name, its params, params of the items, items) in order; a model is loaded
            when it is first named.
        """
        sent = [
            (model, packed(dict(load)), packed(dict(params)), [packed(item) for item in items])
            for model, load, params, items in calls
        ]
        return [[load_bytes(r) for r in results] for results in self._ask("run", (device, sent))]

    def write(self, read_first: Sequence[Job], jobs: Sequence[tuple[Job, Sequence[Any]]]) -> None:
        """Write the outputs of jobs from their results, after reading some jobs."""
        sent = [(packed(job), [packed(result) for result in results]) for job, results in jobs]
        self._ask("write", ([packed(job) for job in read_first], sent))

    def _ask(self, action: str, what: Any) -> Any:
        """Return the answer of a fresh process.

        Raises
        ------
        FreshFailure
            The tool failed there, or the process died.
        """
        # Other hashes than here, whatever this process was given.
        seed = int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0") or 0) + 1
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        with scratch_directory() as directory:
            Path(directory, QUESTION).write_bytes(pickle.dumps((self.spec, action, what)))
            command = [sys.executable, "-c", CHILD, str(directory), *self.search_path]
            try:
                done = subprocess.run(command, env=environment, check=False, timeout=self.limit_s)
            except subprocess.TimeoutExpired:
                raise FreshFailure(f"the process did not end within {self.limit_s:.0f} s") from None
            try:
                answer, failure = pickle.loads(Path(directory, ANSWER).read_bytes())
            except FileNotFoundError:
                raise FreshFailure(f"the process ended: {describe_exit(done.returncode)}") from None
        if failure:
            raise FreshFailure(failure)
        return answer


# -- the other side ------------------------------------------------------------------
def answer(directory: str) -> None:
    """Do what the question in a directory asks for, and leave the answer there."""
    spec, action, what = pickle.loads(Path(directory, QUESTION).read_bytes())
    tool_class = load_tool_class(spec)
    try:
        done = ACTIONS[action](tool_class, what), ""
    except (Exception, SystemExit) as error:
        done = None, said(error, tool_class)
    Path(directory, ANSWER).write_bytes(pickle.dumps(done))


def _read(tool_class: type[Tool], jobs: Sequence[bytes]) -> list[list[tuple[str, str]]]:
    answers = []
    for data in jobs:
        job = load_bytes(data)
        tool = for_files(tool_class, job.params)
        answers.append(
            [
                (content_hash(item), describe_item(tool, item, place).key)
                for place, item in enumerate(items_of(tool, job))
            ]
        )
    return answers


def _run(tool_class: type[Tool], what: Any) -> list[list[bytes]]:
    device, calls = what
    loaded: dict[Any, LoadedTool] = {}
    answers = []
    for model, load_params, run_params, items in calls:
        if model not in loaded:
            loaded[model] = LoadedTool(tool_class, load_bytes(load_params))
            loaded[model].load(device)
        tool = loaded[model].show(load_bytes(run_params))
        returned = checked_run(tool, [load_bytes(item) for item in items])
        results = results_of(tool, returned, len(items))
        answers.append([packed(result) for result in results])
    return answers


def _write(tool_class: type[Tool], what: Any) -> None:
    read_first, jobs = what
    for data in read_first:
        job = load_bytes(data)
        list(items_of(for_files(tool_class, job.params), job))
    for data, results in jobs:
        job = load_bytes(data)
        tool = for_files(tool_class, job.params)
        tool.write(job, [load_bytes(result) for result in results])


ACTIONS = {"read": _read, "run": _run, "write": _write}
