"""What is still to come of jobs whose items become work piece by piece. Pure bookkeeping."""

from __future__ import annotations

from snakemake_executor_gpupool.scheduling.packed import Later


class LargeJobs:
    """The large jobs of a model, as far as they have items that are not work yet."""

    def __init__(self) -> None:
        self._later: dict[int, Later] = {}

    def __len__(self) -> int:
        return len(self._later)

    def add(self, job_id: int, later: Later) -> None:
        """A job has such items; of others that have none left nothing is kept."""
        if job_id not in self._later:
            self._later = {number: each for number, each in self._later.items() if each.cost}
        self._later[job_id] = later

    @property
    def later_cost(self) -> float:
        """Estimate what these items cost, of all jobs."""
        return sum([later.cost for later in self._later.values()]) if self._later else 0.0
