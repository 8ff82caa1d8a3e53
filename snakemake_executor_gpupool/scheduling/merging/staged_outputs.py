"""Outputs that a merged run has made for jobs that are yet to come. Plain values and a table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from snakemake_executor_gpupool.scheduling.models.cost_shares import JobCost
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import Request, ToolRef, anywhere

Identity = tuple[str, ...]

#: Bounds of what is staged for jobs yet to come; beyond them the oldest goes.
MAX_STAGED_BYTES = 1024**3
MAX_STAGED = 10_000
#: What a request has in common with the guess, if that has come true.
_DECISIVE = ("bare", "cwd", "devices", "instance")


@dataclass(frozen=True)
class Unwritten:
    """Results of a job that is yet to come, whose outputs are written once it is there.

    Nothing of the row reads them: to write them under their own names takes less than to stage
    them, and it is not the process with all models that does it.

    Attributes
    ----------
    results
        The distinct items; each is held in the ledger.
    order, names
        For each of the job's items, which of them it is, and what it is called.
    worker_id
        Who has computed them.
    """

    results: tuple[WorkItem, ...]
    order: tuple[int, ...]
    names: tuple[str, ...]
    worker_id: str

    @property
    def blobs(self) -> list[Blob]:
        """What was computed, packed."""
        return [item.result for item in self.results if item.result is not None]


@dataclass(frozen=True)
class StagedOutputs:
    """What a merged run has made for a job that is yet to come: its outputs, or their content.

    Attributes
    ----------
    guess
        The request that it was made for.
    outputs, logs
        Where they were staged, below the root.
    tool
        Of the first stage: a process of it is up, and may publish any job's outputs.
    digests
        Of what it was made from: input files in the job's order, files that params name, the group.
    keys, items
        The items' keys in the ledger, each once, and how many items there are.
    size_bytes
        Of the staged outputs, or the results.
    seconds
        The job's share of the time that it took.
    node
        The machine that staged it; empty: this one, or any.
    cost, batch_id
        The job's share of the stage, and the dispatch that this was of.
    unwritten
        What its outputs are written from; None: they are staged.
    model
        Of its stage, as a process of its tool described it before: it follows from params, the
        files that these name, and the tool's code.
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
    unwritten: Unwritten | None = None
    model: str = ""

    @property
    def held(self) -> tuple[WorkItem, ...]:
        """The items that are held for it in the ledger."""
        return () if self.unwritten is None else self.unwritten.results

    @property
    def paths(self) -> tuple[str, ...]:
        """All that was staged."""
        return (*self.outputs, *self.logs)

    def is_for(self, request: Request) -> bool:
        """Tell whether a job is the one that was guessed."""
        tool, its = request.tool, self.guess.tool
        # Where the job is to be is as good as anywhere, though not the other way round: what is
        # there may have come since.
        is_same = tool == its or (its.base_dir == request.cwd and anywhere(tool) == anywhere(its))
        decisive = ((getattr(request, name), getattr(self.guess, name)) for name in _DECISIVE)
        return request.attempt == 1 and is_same and all(one == other for one, other in decisive)


class StagedTable:
    """What is staged, by the identity of the job that is yet to come; the oldest is first.

    Attributes
    ----------
    size_bytes
        Of all outputs in it.
    """

    def __init__(self) -> None:
        self._staged: OrderedDict[Identity, StagedOutputs] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._staged)

    def add(self, staged: StagedOutputs) -> list[StagedOutputs]:
        """Keep what was staged, within the bound; return what had to go for it."""
        stale = self.take(staged.guess.identity)
        dropped = [] if stale is None else [stale]
        self._staged[staged.guess.identity] = staged
        self.size_bytes += staged.size_bytes
        while self.size_bytes > MAX_STAGED_BYTES or len(self) > MAX_STAGED:
            oldest = self.take(next(iter(self._staged)))
            dropped += [oldest] if oldest is not None else []
        return dropped

    def forget(self, run: str) -> list[StagedOutputs]:
        """Forget what is staged for the jobs of one of several runs; return it."""
        gone = [each for each in self._staged if each[0] == run]
        return [staged for staged in map(self.take, gone) if staged is not None]

    def take(self, identity: Identity) -> StagedOutputs | None:
        """Take out what is staged for a job; None: nothing is."""
        staged = self._staged.pop(identity, None)
        self.size_bytes -= staged.size_bytes if staged is not None else 0
        return staged
