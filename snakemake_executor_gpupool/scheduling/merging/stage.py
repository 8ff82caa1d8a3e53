"""A row of models side by side, and a short request on its way through them. Plain values."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import Request


class Place(NamedTuple):
    """Which stage of a row of models a job is, by the key of the row's model."""

    row: Hashable
    offset: int


@dataclass(frozen=True)
class MergedStage:
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
        return self.request.space, self.model, self.group


@dataclass(eq=False, kw_only=True)
class MergedRequest(WorkItem):
    """A short request, to go through all models of its row in one dispatch, or through one of them.

    Attributes
    ----------
    merge_id
        Its number; the job of the first stage has it, too, while it waits for it.
    stages
        Those that it goes through, as a rule to the end of its row.
    row
        The key of the model that is the models of all stages.
    offset
        Which of the row's stages is its first.
    home
        The key of the model that computes the first stage's items if the merge comes to nothing.
    parts
        The first stage's distinct items; other merged runs may have some of them, too.
    part_of_item, item_names
        For each item of the first stage's job: which of the parts it is, and its name.
    stages_done
        How many stages have been answered.
    is_over
        Nothing more comes of it.
    is_unclaimed
        The jobs of its later stages will not come.
    """

    merge_id: int
    stages: tuple[MergedStage, ...]
    row: Hashable
    home: Hashable
    parts: list[WorkItem]
    part_of_item: list[int]
    item_names: list[str]
    offset: int = 0
    stages_done: int = 0
    is_over: bool = False
    is_unclaimed: bool = False

    @property
    def request(self) -> Request:
        """The first stage's job, which is ready."""
        return self.stages[0].request

    @property
    def is_single(self) -> bool:
        """Whether it goes through one stage: its outputs are written as those of any job."""
        return len(self.stages) == 1

    @property
    def part_keys(self) -> list[str]:
        """The items' own keys of the parts."""
        return [item.key[-1] for item in self.parts]  # type: ignore[index]

    def let_go_of_parts(self) -> None:
        """The first stage is answered, or nothing comes of it: its items are no longer its own."""
        for item in self.parts:
            item.merged_runs -= 1


def merged_request(
    merge_id: int,
    stages: tuple[MergedStage, ...],
    home: Hashable,
    place: Place,
    parts: list[WorkItem],
    items: Sequence[WorkItem],
    names: list[str],
) -> MergedRequest:
    """Return a request; ``items`` are those of its first job, ``parts`` the distinct ones."""
    request = stages[0].request
    numbers = {id(item): number for number, item in enumerate(parts)}
    return MergedRequest(
        key=None,
        group="|".join(
            [f"{place.offset}", *(stage.group for stage in stages), *_place_of(request)]
        ),
        cost=sum(item.cost for item in parts),
        tokens=len(parts) * max(item.tokens for item in parts),
        payload=b"",
        name=request.title,
        level=(-request.priority, place.offset),
        arrival=merge_id,
        waiters=(request.job_id,),
        merge_id=merge_id,
        stages=stages,
        row=place.row,
        home=home,
        parts=parts,
        part_of_item=[numbers[id(item)] for item in items],
        item_names=names,
        offset=place.offset,
    )


def _place_of(request: Request) -> list[str]:
    """Return what keeps requests apart that would keep their results in different places."""
    return [] if request.store is None else [str(request.store)]


def merged_of(items: Iterable[WorkItem]) -> Iterator[MergedRequest]:
    """Yield what waits for, or is in flight at, a row of models: merged requests, all of it."""
    for item in items:
        assert isinstance(item, MergedRequest)
        yield item
