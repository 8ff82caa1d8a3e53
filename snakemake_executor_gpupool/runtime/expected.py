"""What a forecast expects of jobs and models, and what it says of them. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.requests import ToolRef


@dataclass(frozen=True)
class ExpectedItems:
    """The items of a job, in columns.

    Attributes
    ----------
    keys
        Equal for items that are computed once.
    kept
        So many of the first ones have results of earlier runs.
    """

    keys: tuple[str, ...]
    costs: tuple[float, ...]
    tokens: tuple[int, ...]
    kept: int = 0


@dataclass(frozen=True)
class ExpectedJob:
    """What a served job will ask for.

    Attributes
    ----------
    batch_tokens
        The budget of its model's micro-batches.
    read_s, write_s
        What a process for files takes for it.
    """

    model: ModelInfo
    info: ToolInfo
    items: ExpectedItems
    batch_tokens: int = 1
    read_s: float = 0.001
    write_s: float = 0.001


@dataclass(frozen=True)
class Pace:
    """How long things take.

    Attributes
    ----------
    start_s
        By a tool's name, from starting a process until it has imported the tool.
    usual_start_s
        The same for any other tool.
    figures
        By profile key, what earlier runs measured of models.
    batch_s
        By model, as messages call it, what its micro-batches took: for those whose costs say
        nothing.
    factor
        By which all of it is multiplied.
    """

    start_s: Mapping[str, float] = field(default_factory=dict)
    usual_start_s: float = 0.3
    figures: Mapping[str, Figures] = field(default_factory=dict)
    batch_s: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0

    def starting_s(self, tool: ToolRef) -> float:
        """Return how long a process of a tool takes to start; of a merged run's, of all of them."""
        names = str(tool).split(" + ")
        return self.factor * max(self.start_s.get(name, self.usual_start_s) for name in names)

    def of(self, model: Model) -> Figures:
        """Return what was measured of a model; empty: nothing."""
        return self.figures.get(model.profile_key, Figures())


@dataclass
class ModelTally:
    """What one model would do.

    Attributes
    ----------
    figures
        What was measured of it; without a load or a speed its times are guesses.
    devices
        On which it was loaded.
    busy_s
        Of micro-batches, over all its workers.
    batch_s
        What its micro-batches took, whatever they held; None: not known.
    """

    name: str
    tool: str
    figures: Figures
    is_chain: bool = False
    batch_s: float | None = None
    loads: int = 0
    batches: int = 0
    items: int = 0
    busy_s: float = 0.0
    load_s: float = 0.0
    devices: dict[str, int] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether an earlier run has seen it load and compute."""
        has_speed = self.figures.s_per_cost is not None or self.batch_s is not None
        return self.figures.load_s is not None and has_speed


def model_fields(model: ModelInfo) -> dict[str, object]:
    """Return a model as a frame has it."""
    return {
        "model": model.model,
        "model_label": model.label,
        "group": model.group,
        "short_tokens": model.short_tokens,
    }


def info_fields(info: ToolInfo) -> dict[str, object]:
    """Return what a tool says of itself as a frame has it."""
    return {
        "deterministic": info.deterministic,
        "persistent": info.persistent,
        "devices": list(info.devices),
        "gpus_per_instance": info.gpus_per_instance,
        "pads": info.pads,
        "vram_mib": info.vram_mib,
        "batch_limit_s": info.batch_limit_s,
        "can_move": info.can_move,
    }
