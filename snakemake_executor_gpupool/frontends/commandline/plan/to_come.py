"""What the pool of a planned run is told of the jobs to come, as that of a real one is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from snakemake_executor_gpupool.frontends.snakemake.planned import PlannedJob, Way
from snakemake_executor_gpupool.runtime.expected import ExpectedJob
from snakemake_executor_gpupool.scheduling.forecast import (
    Forecast,
    Node,
    first_of,
    forecast_of,
)
from snakemake_executor_gpupool.wire.requests import Request

#: Of a large graph only the beginning is told; what follows, so much later.
LOOK_AGAIN_S = 10.0


class JobsToCome:
    """Makes forecasts of a planned run's graph.

    Parameters
    ----------
    jobs
        All jobs that can be done.
    expected
        By job number, what each served job will ask for.
    is_complete
        No checkpoint may add some.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        expected: Mapping[int, ExpectedJob],
        *,
        is_complete: bool = True,
    ) -> None:
        self._jobs, self._expected, self._is_complete = jobs, expected, is_complete
        self._requests: dict[Hashable, Request | None] = {job.number: job.request for job in jobs}
        self._wave_of: dict[Hashable, str] = {}
        self._begun: dict[int, str] = {}
        self._next_s: float | None = 0.0

    def look(self, now_s: float, done: Collection[int]) -> Forecast | None:
        """Return a forecast if it says more than the last one; ``done``: jobs that have ended."""
        if self._next_s is None or now_s < self._next_s:
            return None
        nodes: dict[Hashable, Node] = {
            job.number: self._node(job) for job in self._jobs if job.number not in done
        }
        forecast, self._wave_of = forecast_of(nodes, is_complete=self._is_complete)
        self._next_s = now_s + LOOK_AGAIN_S if forecast.is_cut else None
        first = first_of({wave.kind for wave in forecast.waves}, forecast, self._wave_of)
        requests = {kind: self._requests.get(number) for kind, number in first.items()}
        foretold = {kind: each for kind, each in requests.items() if each is not None}
        return replace(forecast, foretold=foretold)

    def wave_of(self, number: int) -> str:
        """Return the wave of a job that becomes ready; empty: it has none."""
        wave = self._wave_of.pop(number, "")
        if wave:
            self._begun[number] = wave
        return wave

    def _node(self, job: PlannedJob) -> Node:
        if job.way is not Way.SERVED or job.request is None or job.number not in self._expected:
            return Node("", after=job.after)
        tool, model = str(job.request.tool), self._expected[job.number].model.model
        return Node(f"{tool} {model}", tool, job.after, self._begun.get(job.number, ""))
