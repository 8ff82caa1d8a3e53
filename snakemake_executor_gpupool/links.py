"""A chain of models, and a short request on its way through it. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.dedup import Unit
from snakemake_executor_gpupool.devices.strings import DeviceSpec
from snakemake_executor_gpupool.jobs import JobState
from snakemake_executor_gpupool.request import Request
from snakemake_executor_gpupool.serving import Model


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
    info: Mapping[str, Any]
    spec: DeviceSpec

    @property
    def key_head(self) -> tuple[str, str, str]:
        """What the keys of its items start with."""
        return self.request.tool.environment, self.model, self.group


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
