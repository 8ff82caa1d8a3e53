"""What is measured of a model, and kept for later runs. A plain value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """Read an entry; what is no plausible number counts as not measured."""
        fields = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {
            name: value if name in _SECONDS else math.ceil(value)
            for name, value in data.items()
            if name in fields and type(value) in (int, float) and MIN_COST <= value < 1e12
        }
        return cls(**known)


#: Those figures that need not be whole numbers.
_SECONDS = ("load_s", "s_per_cost", "fixed_s")
