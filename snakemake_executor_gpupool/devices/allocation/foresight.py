"""What the allocator asks of whoever knows which jobs are still to come. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
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

    def next_use_s(self, group: Hashable, left: int = 0) -> float:
        """Return in how many seconds a group gets work; infinite: never.

        ``left``: as it is for one more worker of it than so many that stay.
        """
        return 0.0

    def rank(self, group: Hashable) -> tuple[float, ...]:
        """Return what sorts requests of one priority; they are served in ascending order."""
        return ()


def with_next_uses(holders: Iterable[Holder], foresight: Foresight) -> list[Holder]:
    """Return holders with what is known of their groups' next use; it matters while they idle."""
    holders = list(holders)
    if not foresight.is_known:
        return holders
    left = Counter(each.request.group for each in holders if each.phase is not Phase.LEAVING)

    def known(holder: Holder) -> Holder:
        group = holder.request.group
        if holder.phase is not Phase.IDLE or group is None:
            return holder
        left[group] -= 1
        return replace(holder, next_use_s=foresight.next_use_s(group, left[group]))

    return [known(holder) for holder in holders]
