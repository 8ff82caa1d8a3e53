"""What is measured of a model, and kept for later runs. A plain value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from snakemake_executor_gpupool.wire.bounds import MIN_COST


@dataclass(frozen=True)
class Figures:
    """What was measured of one model on one kind of device.

    Attributes
    ----------
    load_s
        From starting a process until the model is ready.
    s_per_cost, fixed_s
        Seconds per unit of the tool's own cost estimate, and of a micro-batch beyond that.
    weights_mib, peak_mib, peak_tokens, full_tokens
        As :class:`~snakemake_executor_gpupool.scheduling.models.memory_use.MemoryUse` has them.
    later_loads_s, job_compute_s, job_files_s
        Of a row of models in one process: what loading those after the first takes, and what a
        job of a merged request takes it, computing and reading and writing.
    budget_tokens
        The micro-batch budget, if memory made it smaller than the tool's.
    """

    load_s: float | None = None
    s_per_cost: float | None = None
    fixed_s: float | None = None
    weights_mib: int | None = None
    peak_mib: int | None = None
    peak_tokens: int | None = None
    full_tokens: int | None = None
    budget_tokens: int | None = None
    later_loads_s: float | None = None
    job_compute_s: float | None = None
    job_files_s: float | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Figures:
        """Read an entry; what is no plausible number counts as not measured."""
        return cls(
            load_s=_amount(data, "load_s"),
            s_per_cost=_amount(data, "s_per_cost"),
            fixed_s=_amount(data, "fixed_s"),
            weights_mib=_count(data, "weights_mib"),
            peak_mib=_count(data, "peak_mib"),
            peak_tokens=_count(data, "peak_tokens"),
            full_tokens=_count(data, "full_tokens"),
            budget_tokens=_count(data, "budget_tokens"),
            later_loads_s=_amount(data, "later_loads_s"),
            job_compute_s=_amount(data, "job_compute_s"),
            job_files_s=_amount(data, "job_files_s"),
        )


def _amount(data: Mapping[str, object], name: str) -> float | None:
    """Return a plausible number, or None."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if MIN_COST <= value < 1e12 else None


def _count(data: Mapping[str, object], name: str) -> int | None:
    """Return a plausible number as a whole one, or None."""
    value = _amount(data, name)
    return None if value is None else math.ceil(value)
