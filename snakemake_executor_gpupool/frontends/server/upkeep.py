"""Ends processes of a server that no job will come for, and forgets what they started from."""

from __future__ import annotations

import asyncio
import time

from snakemake_executor_gpupool.frontends.server.workplaces import Workplace, Workplaces
from snakemake_executor_gpupool.runtime.pool import Pool
from snakemake_executor_gpupool.scheduling.models.idle_time import IdleTime

#: How long after its last job a workplace's files stay, for processes that are about to start.
FORGET_S = 60.0


class Upkeep:
    """Looks after workplaces; used by the server's event loop.

    Parameters
    ----------
    workplaces
        Those of the pool's workers.
    idle
        After how long without a job a model's processes end.
    """

    def __init__(self, workplaces: Workplaces, idle: IdleTime) -> None:
        self._workplaces, self._idle = workplaces, idle

    def retire_earlier(self, pool: Pool, place: Workplace) -> None:
        """End the processes of a tool's earlier code: no job will come for them."""
        for other in self._workplaces:
            is_same_tool = (other.ref.spec, other.software) == (place.ref.spec, place.software)
            is_over = other.code != place.code or not self._workplaces.is_current(other)
            if is_same_tool and is_over and other is not place and not other.jobs:
                self._retire(pool, other)

    @property
    def has_models(self) -> bool:
        """Whether the processes of any tool are kept."""
        return any(not place.is_retired for place in self._workplaces)

    async def look_after(self, pool: Pool) -> None:
        """End what has had no job for long; called again and again.

        Models end by themselves; here the processes that read and write for them do.
        """
        now_s = time.monotonic()
        least_s = self._idle.of(0)
        unused = [p for p in self._workplaces if not p.jobs and now_s - p.used_s >= least_s]
        if not unused:
            return
        kept = [place for place in unused if not place.is_retired]
        loads_s = await asyncio.to_thread(pool.load_times) if kept else {}
        for place in unused:
            unused_s = now_s - place.used_s
            if place.jobs:
                continue  # one has come meanwhile
            if place.is_retired:
                if unused_s >= place.kept_s + FORGET_S:
                    self._workplaces.forget(place)
                continue
            place.kept_s = self._idle.of(loads_s.get(place.ref))
            if unused_s >= place.kept_s:
                self._retire(pool, place)

    @staticmethod
    def _retire(pool: Pool, place: Workplace) -> None:
        if not place.is_retired:
            place.is_retired = True
            pool.retire(place.ref)
