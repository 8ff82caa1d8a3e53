"""What the allocator asks of whoever knows which jobs are still to come. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from snakemake_executor_gpupool.devices.allocation.requests import Holder, Phase


class Foresight:
    """Knows nothing: the least recently used worker is evicted, requests are served as they come.

    The methods' ``group`` is that of a request: the workers of one model.
    """

    @property
    def is_known(self) -> bool:
        """Whether anything is known."""
        return False

    def next_use_s(self, group: Hashable) -> float:
        """Return in how many seconds a group gets work; infinite: never."""
        return 0.0

    def rank(self, group: Hashable) -> tuple[float, ...]:
        """Return what sorts requests of one priority; they are served in ascending order."""
        return ()


def with_next_use(holder: Holder, foresight: Foresight) -> Holder:
    """Return a holder with what is known of its group's next use; it matters while it is idle."""
    group = holder.request.group
    if holder.phase is not Phase.IDLE or group is None or not foresight.is_known:
        return holder
    return replace(holder, next_use_s=foresight.next_use_s(group))
