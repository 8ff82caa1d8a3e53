"""Which models are not loaded yet, since more of their jobs are being handed over. Pure decisions.

Snakemake hands over all jobs that are ready before it looks after one that has ended: meanwhile
nothing starts that waits for a result, and nobody hears of one. Jobs of more models than there are
devices come mixed. A model that makes room for another one then is loaded again for those of its
jobs that come later, and what its few jobs take that are there now is done with them as well::

    jobs     a b c a b c a b c a b c |          a, b, c: as they are handed over
    at once  A..a B..b C..c A..a B..b | C..c A..a B..b
    held     A..a   a    a    a    a  | B..b C..c
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.models.shares import waiting_s
from snakemake_executor_gpupool.scheduling.outlook import PAID_LOADS, Outlook

#: Work that takes less than this share of a load is not worth one that is known not to be the last:
#: should nothing come of waiting, so much time is lost.
WORTH_SHARE = 1.0 / PAID_LOADS
#: Handing over that has paused for so long is taken to be over.
MAX_PAUSE_S = 1.0


class ArrivingJobs:
    """Holds models back while jobs are handed over.

    Parameters
    ----------
    outlook
        Knows which jobs are still to come.

    Attributes
    ----------
    held
        The models that were found not to be worth a load yet.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._goes_on = False
        self._came_s = -math.inf
        self.held: dict[Hashable, Model] = {}

    def handing_over(self, *, goes_on: bool, now_s: float) -> list[Model]:
        """Jobs begin to be handed over, or have all been; return the models to look at for that."""
        self._goes_on, self._came_s = goes_on, now_s
        return [] if goes_on else [*self.held.values()]

    def job_came(self, now_s: float) -> None:
        """A job was handed over."""
        self._came_s = now_s

    def forget(self, model: Model) -> None:
        """Forget a model."""
        self.held.pop(model.key, None)

    def holds(self, model: Model, now_s: float) -> bool:
        """Return whether a model without a worker is to wait for more of its jobs.

        Not where its jobs have a priority, nor before it was measured.
        """
        if not self._goes_on or now_s - self._came_s > MAX_PAUSE_S:
            return False
        if model.priority or model.alive or not model.queue or not is_gpu(model.spec):
            return False
        if model.is_chain or model.suspects or model.oversized or model.awaited_by:
            return False
        if model.load_s is None or model.speed.s_per_cost is None or model.large_jobs.later_cost:
            return False
        return waiting_s(model) < WORTH_SHARE * model.load_s and self._outlook.comes_now(model)
