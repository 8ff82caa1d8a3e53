"""A process that holds a model: where it stands, and the micro-batches that it is at. Pure."""

from __future__ import annotations

import enum
import functools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.models.cost_shares import Work
from snakemake_executor_gpupool.scheduling.results import WorkItem

if TYPE_CHECKING:
    from snakemake_executor_gpupool.scheduling.models.model import Model


class Stage(enum.Enum):
    """Where a worker stands."""

    ASKING = "asking"
    #: Granted devices, which are being taken against other processes.
    CLAIMING = "claiming"
    STARTING = "starting"
    LOADING = "loading"
    #: It has loaded ahead, and is asked whether that still holds, now that there is work.
    CHECKING = "checking"
    READY = "ready"
    MOVING = "moving"
    AWAY = "away"
    STOPPING = "stopping"


@dataclass(eq=False)
class Batch:
    """One micro-batch in flight at a worker."""

    batch_id: int
    items: list[WorkItem]
    sent_s: float
    #: Of a merged run: how many stages have been answered, what they took, and who pays for it.
    stages_done: int = 0
    seconds: float = 0.0
    work: Work = field(default_factory=Work)

    @functools.cached_property
    def cost(self) -> float:
        """Sum of the items' costs."""
        return sum([item.cost for item in self.items])

    @functools.cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each item."""
        return tuple([item.tokens for item in self.items])


@dataclass(eq=False)
class ModelWorker:
    """One process that holds, or is to hold, a model."""

    worker_id: str
    model: Model
    stage: Stage = Stage.ASKING
    devices: tuple[Device, ...] = ()
    in_flight: deque[Batch] = field(default_factory=deque)
    since_s: float = 0.0
    idle_since_s: float | None = None
    #: While its weights move: whether to host memory, or back.
    is_leaving: bool = False
    #: Nobody else has anything on its devices.
    is_alone: bool = False
    has_loaded: bool = False
    #: When it last got its model onto its devices.
    ready_s: float = 0.0
    #: Since when it has had nothing to compute; None: it has, or is not ready.
    spare_since_s: float | None = None
    #: It loads its model before there is work for it; whoever has some may take its devices.
    is_ahead: bool = False
    #: Its process was started before there was work for it: what it has read is to be looked at
    #: before it gets some, and what goes wrong until then counts for nothing.
    is_provisional: bool = False
    #: What of the devices' memory its model was said to take when it asked for them.
    vram_mib: int | None = None
    #: It was ended because it did not answer.
    hung: bool = False
    #: Of merged runs: the stages whose models it has loaded.
    loaded_stages: set[int] = field(default_factory=lambda: {0})
    #: It takes requests of merged runs through one stage at a time, while others are to be loaded.
    is_by_stage: bool = False

    @property
    def node(self) -> str:
        """The machine that it is on; empty for this one, or if that does not matter."""
        return self.devices[0].host if self.devices else ""

    @property
    def has_all_stages(self) -> bool:
        """Whether it has loaded the models of all stages."""
        return len(self.loaded_stages) > len(self.model.more_params)

    @property
    def is_feedable(self) -> bool:
        """Whether it can take a micro-batch."""
        return self.stage is Stage.READY

    @property
    def is_in_line(self) -> bool:
        """Whether it waits for devices, as one of several."""
        return self.stage is Stage.ASKING and not self.is_alone

    @property
    def is_coming(self) -> bool:
        """Whether it has devices, or is the one that gets them emptied."""
        return not self.is_in_line and self.stage not in (Stage.AWAY, Stage.STOPPING)
