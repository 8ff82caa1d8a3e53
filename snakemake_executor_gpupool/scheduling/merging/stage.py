"""A chain of models, and a short request on its way through it. Plain values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.jobs import JobState
from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost
from snakemake_executor_gpupool.scheduling.models.model import Model
from snakemake_executor_gpupool.scheduling.results import Unit
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import Request, ToolRef

#: What a request has in common with the guess, if that has come true.
_DECISIVE = ("bare", "tool", "cwd", "devices", "instance")


@dataclass(frozen=True)
class Link:
    """One stage: a job, of which the first is ready and the others are guessed, and its model.

    Attributes
    ----------
    model, label, group, short_tokens, info
        As a process of its tool describes them.
    spec
        The devices that it asks for.
    """

    request: Request
    model: str
    label: str
    group: str
    short_tokens: int
    info: ToolInfo
    spec: DeviceSpec

    @property
    def key_head(self) -> tuple[str, str, str]:
        """What the keys of its items start with, as ``result_key`` has them."""
        return self.request.tool.environment, self.model, self.group


@dataclass(frozen=True)
class Claim:
    """What a chain has staged for a job that is yet to come.

    Attributes
    ----------
    guess
        The request that it was made for.
    outputs, logs
        Where they were staged, below the root.
    tool
        Of the chain's first stage: a process of it is up, and may publish any job's outputs.
    digests
        Of the input files that it was made from, in the job's order.
    keys, items
        The items' keys in the ledger, each once, and how many items there are.
    size_bytes
        Of the staged outputs.
    seconds
        The job's share of the time that it took.
    node
        The machine that staged it; empty: this one, or any.
    cost, batch_id
        The job's share of the stage, and the dispatch that this was of.
    """

    guess: Request
    tool: ToolRef
    digests: tuple[str, ...]
    outputs: tuple[str, ...]
    logs: tuple[str, ...]
    keys: Sequence[Hashable]
    items: int
    size_bytes: int
    seconds: float
    node: str = ""
    cost: JobCost = field(default_factory=JobCost)
    batch_id: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was staged."""
        return (*self.outputs, *self.logs)

    def is_for(self, request: Request) -> bool:
        """Tell whether a job is the one that was guessed."""
        return request.attempt == 1 and all(
            getattr(request, name) == getattr(self.guess, name) for name in _DECISIVE
        )


@dataclass(eq=False, kw_only=True)
class ChainUnit(Unit):
    """A short request, to go through all models of its chain in one dispatch.

    Attributes
    ----------
    job
        The first stage's.
    home
        Where the first stage's items go if the chain comes to nothing.
    parts
        The first stage's distinct items, each still to be computed.
    stages_done
        How many stages have been answered.
    is_over
        Nothing more comes of it.
    """

    links: tuple[Link, ...]
    job: JobState
    home: Model
    parts: list[Unit]
    stages_done: int = 0
    is_over: bool = False

    @property
    def part_keys(self) -> list[str]:
        """The items' own keys of the parts."""
        return [unit.key[-1] for unit in self.parts]  # type: ignore[index]

    def gather(self) -> list[int]:
        """Return for each item of the job which of the parts it is."""
        places = {id(unit): number for number, unit in enumerate(self.parts)}
        return [places[id(unit)] for unit in self.job.units]
