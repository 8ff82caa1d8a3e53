"""Which inputs are pipes is told as Snakemake tells it, without its search among many jobs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from snakemake.jobs import Job

from snakemake_executor_gpupool.frontends.snakemake.many_inputs import MANY_JOBS, ManyInputs


class Dag:
    """Jobs, and what they read of each other."""

    def __init__(self) -> None:
        self.dependencies: dict[Any, dict[Any, set[str]]] = defaultdict(dict)
        self.jobs: list[Any] = []
        self.looks = 0

    def __len__(self) -> int:
        return len(self.jobs)

    def needrun_jobs(self) -> list[Any]:
        self.looks += 1
        return self.jobs


class OneJob:
    """Asks of each input whether it is a pipe, by Snakemake's own function."""

    is_pipe_or_service_input = Job.is_pipe_or_service_input

    def __init__(self, dag: Dag, *inputs: str) -> None:
        self.dag, self.input = dag, inputs
        self.pipe_or_service_output: set[str] = set()
        self.fails = False
        dag.jobs.append(self)

    async def prepare(self) -> set[str]:
        if self.fails:
            raise OSError("an input is missing")
        self.found = {path for path in self.input if self.is_pipe_or_service_input(path)}
        return self.found


def collecting(jobs: int) -> OneJob:
    """Return a job that reads what so many others write, and a file that nobody writes."""
    dag = Dag()
    job = OneJob(dag, *(f"{number}.txt" for number in range(jobs)), "source.txt")
    for number in range(jobs):
        dag.dependencies[job][OneJob(dag)] = {f"{number}.txt"}
    return job


@pytest.mark.parametrize("jobs", [1, MANY_JOBS, 3 * MANY_JOBS])
@pytest.mark.parametrize("pipes", [set(), {"0.txt"}, {"0.txt", "source.txt", "other.txt"}])
def test_pipes_are_found_as_snakemake_finds_them(jobs: int, pipes: set[str]) -> None:
    job = collecting(jobs)
    first, *_ = job.dag.dependencies[job]
    first.pipe_or_service_output = pipes
    asyncio.run(job.prepare())
    expected = job.found
    ManyInputs().look(job.dag)
    assert ("prepare" in vars(job)) is (jobs >= MANY_JOBS), "no others are touched"
    asyncio.run(job.prepare())
    assert job.found == expected == pipes & {"0.txt"}


def test_no_job_is_looked_for_while_none_writes_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    job = collecting(MANY_JOBS)
    ManyInputs().look(job.dag)
    searched: list[str] = []
    monkeypatch.setattr(OneJob, "is_pipe_or_service_input", lambda job, path: searched.append(path))
    asyncio.run(job.prepare())
    assert searched == []


def test_what_changes_later_is_heeded() -> None:
    job = collecting(MANY_JOBS)
    ManyInputs().look(job.dag)
    job.fails = True
    with pytest.raises(OSError, match="missing"):
        asyncio.run(job.prepare())
    job.fails = False
    first, *_ = job.dag.dependencies[job]
    first.pipe_or_service_output = {"0.txt"}
    assert job.is_pipe_or_service_input("0.txt")
    asyncio.run(job.prepare())
    assert job.found == {"0.txt"}


def test_a_graph_is_looked_through_when_it_has_changed() -> None:
    job = collecting(MANY_JOBS)
    inputs = ManyInputs()
    for _ in range(3):
        inputs.look(job.dag)
    assert job.dag.looks == 1
    later = OneJob(job.dag)
    job.dag.dependencies[later] = dict(job.dag.dependencies[job])
    inputs.look(job.dag)
    assert job.dag.looks == 2 and "prepare" in vars(later)
