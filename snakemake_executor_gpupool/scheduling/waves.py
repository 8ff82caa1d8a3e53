"""How the waves of the forecast stand: which jobs have come, are in flight, are done. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snakemake_executor_gpupool.scheduling.forecast import (
    Forecast,
    Need,
    Wave,
    kind_of,
    rows_after,
    wave_of_client,
)
from snakemake_executor_gpupool.wire.requests import Request


@dataclass
class Count:
    """How the jobs of a wave stand."""

    coming: int = 0
    in_flight: int = 0
    done: int = 0
    #: Of those in flight: how many have not been read, and of how many all results are there.
    unread: int = 0
    computed: int = 0

    @property
    def total(self) -> int:
        """How many there are in all."""
        return self.coming + self.in_flight + self.done

    @property
    def arrived(self) -> int:
        """How many have become ready."""
        return self.in_flight + self.done


class WaveTable:
    """Counts the jobs of each wave.

    Attributes
    ----------
    waves
        Those of the latest forecast by their names.
    counts
        Of these, and of waves of earlier forecasts that have jobs in flight.
    rows
        How many waves follow on each.
    is_complete, foretold
        See :class:`~.forecast.Forecast`.
    """

    def __init__(self) -> None:
        self.waves: dict[str, Wave] = {}
        self._of_kind: dict[str, list[Wave]] = {}
        #: Where each stands among all.
        self._places: dict[str, int] = {}
        self.counts: dict[str, Count] = {}
        self.rows: dict[str, int] = {}
        self.is_complete = False
        self.foretold: dict[str, Request] = {}
        #: By whose they are.
        self._forecasts: dict[str, Forecast] = {}
        self._wave_of: dict[int, str] = {}
        self._unread: dict[int, Count] = {}
        self._computed: dict[int, Count] = {}
        #: Jobs that are being read and that nobody foresaw, with their tools, and how many of each.
        self._unforeseen: dict[int, str] = {}
        self._unforeseen_of: Counter[str] = Counter()

    @property
    def is_known(self) -> bool:
        """Whether there is a forecast."""
        return bool(self.waves) or self.is_complete

    @property
    def is_shared(self) -> bool:
        """Whether several clients may have forecasts, so that others may come at any time."""
        return any(self._forecasts)

    # -- what happens; some return whether a count has changed ---------------------------
    def replace(self, forecast: Forecast, client: str = "") -> None:
        """Take in a new forecast; jobs in flight keep the waves that they came with.

        Parameters
        ----------
        client
            Whose it is, of several, who names its waves as it does by itself; what others foresee
            counts on. Empty: there are no others.
        """
        if client:
            forecast = Forecast.merged({client: forecast})
        self._forecasts[client] = forecast
        if client and not forecast.waves:
            del self._forecasts[client]
        known = self._forecasts.values()
        self.waves = {wave.name: wave for each in known for wave in each.waves}
        self._places = {name: place for place, name in enumerate(self.waves)}
        self._of_kind = {}
        for wave in self.waves.values():
            self._of_kind.setdefault(wave.kind, []).append(wave)
        self.is_complete = bool(known) and all(each.is_complete for each in known)
        self.foretold = {kind: each for part in known for kind, each in part.foretold.items()}
        self.rows = rows_after(Forecast(tuple(self.waves.values())))
        in_flight = Counter(name for name in self._wave_of.values() if _is_of(client, name))
        own = {name: Count(in_flight=count) for name, count in in_flight.items()}
        others = {
            name: each
            for name, each in self.counts.items()
            if not _is_of(client, name) and (each.in_flight or name in self.waves)
        }
        self.counts = {**others, **own}
        for job_id in self._unread:
            if (name := self._wave_of[job_id]) in own:
                self._unread[job_id] = count = own[name]
                count.unread += 1
        for job_id in self._computed:
            if (name := self._wave_of[job_id]) in own:
                self._computed[job_id] = count = own[name]
                count.computed += 1
        for wave in forecast.waves:
            self.counts.setdefault(wave.name, Count()).coming = wave.jobs

    def job_ready(self, request: Request) -> bool:
        """A job has come."""
        count = self.counts.get(request.wave)
        if count is None:
            self._unforeseen[request.job_id] = tool = str(request.tool)
            self._unforeseen_of[tool] += 1
            return False
        self._wave_of[request.job_id] = request.wave
        if request.attempt > 1:  # it was counted before
            count.done = max(count.done - 1, 0)
        else:
            count.coming = max(count.coming - 1, 0)
        count.in_flight += 1
        count.unread += 1
        self._unread[request.job_id] = count
        return True

    def job_read(self, job_id: int) -> None:
        """All items of a job are known, or none ever will be."""
        tool = self._unforeseen.pop(job_id, None)
        if tool is not None:
            self._unforeseen_of[tool] -= 1
            if not self._unforeseen_of[tool]:
                del self._unforeseen_of[tool]
        count = self._unread.pop(job_id, None)
        if count is not None:
            count.unread -= 1

    def job_computed(self, job_id: int) -> bool:
        """All results of a job are there; its outputs are to be written."""
        count = self.counts.get(self._wave_of.get(job_id, ""))
        if count is None or job_id in self._computed:
            return False
        self._computed[job_id] = count
        count.computed += 1
        return True

    def job_over(self, job_id: int) -> bool:
        """A job has ended, in whatever way."""
        self.job_read(job_id)
        if job_id in self._computed:
            self._computed.pop(job_id).computed -= 1
        count = self.counts.get(self._wave_of.pop(job_id, ""))
        if count is None:
            return False
        count.in_flight, count.done = max(count.in_flight - 1, 0), count.done + 1
        return True

    # -- what is known ----------------------------------------------------------------------
    def kinds_read(self) -> Iterator[str]:
        """Yield the kinds of jobs that are being read; empty: of one that nobody foresaw."""
        yield from ("" for _ in self._unforeseen)
        yield from (kind_of(name) for name, count in self.counts.items() if count.unread)

    def of_jobs_in_flight(self) -> Iterator[str]:
        """Yield the names of waves with jobs in flight."""
        return (name for name, count in self.counts.items() if count.in_flight)

    def of_kind(self, kind: str) -> Sequence[Wave]:
        """Return the waves of the latest forecast that are of a kind, in its order."""
        return self._of_kind.get(kind, ())

    def place_of(self, wave: Wave) -> int:
        """Return where a wave stands in the latest forecast."""
        return self._places[wave.name]

    def kinds(self) -> set[str]:
        """Return the kinds of jobs that are to come, or in flight."""
        coming = {wave.kind for wave in self.waves.values()}
        return coming.union(map(kind_of, self.of_jobs_in_flight()))

    def is_reading_unforeseen(self, tool: str) -> bool:
        """Whether jobs of a tool are being read that nobody foresaw."""
        return tool in self._unforeseen_of

    def imminent(self, wave: Wave) -> int:
        """Return how many jobs to come wait for nothing but what is being written, or is there.

        Nobody knows when those come that also wait for other jobs, or for none.
        """
        if wave.waits_elsewhere or not wave.after:
            return 0
        count = self.counts[wave.name]
        if not any(map(self._has_begun, wave.after)):
            return 0  # where some wait for none of one wave, they wait for some of another
        free = min(self._free_after(wave, need) for need in wave.after)
        return min(count.coming, free - count.arrived)

    def _has_begun(self, need: Need) -> bool:
        """Return whether all results are there of a job of a wave that another one waits for."""
        theirs = self.counts.get(need.wave, Count())
        return theirs.done + theirs.computed > 0 or not theirs.total

    def _free_after(self, wave: Wave, need: Need) -> int:
        """Return how many jobs of a wave, from its first on, wait for no more of another one."""
        mine, theirs = self.counts[wave.name], self.counts.get(need.wave, Count())
        there = theirs.done + theirs.computed
        if there >= theirs.total:
            return mine.total
        if there < need.jobs:
            return 0
        return 1 + (there - need.jobs) * (mine.total - 1) // max(theirs.total - need.jobs, 1)


def _is_of(client: str, wave: str) -> bool:
    """Return whether a wave is a client's; without a name there is only one."""
    return not client or wave == wave_of_client(wave.rpartition(":")[0], client)
