"""What the pure scheduler wants done. The run loop does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.scheduling.merging.stage import MergedRequest
from snakemake_executor_gpupool.scheduling.merging.staged_outputs import StagedOutputs
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.wire.frames import Blob
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef


@dataclass(frozen=True)
class ClaimDevices:
    """Take granted devices against other processes of their machine, all or none.

    ``DevicesClaimed`` or ``DevicesRefused`` is to follow, once, however long that takes.

    Attributes
    ----------
    is_ahead
        There is no work for them yet: no other run is asked to make room.
    """

    holder_id: str
    devices: tuple[Device, ...]
    is_ahead: bool = False


@dataclass(frozen=True)
class StartWorker:
    """Start a process for a tool; without devices it is one for files.

    Attributes
    ----------
    node
        Where, if it is one for files: a machine's name, empty for the one where Snakemake is.
        None: where its devices are, or if it has none, anywhere.
    is_ahead
        There is no job for it yet: it notes what it sees, for :class:`CheckWorker`.
    """

    worker_id: str
    tool: ToolRef
    devices: tuple[Device, ...] = ()
    node: str | None = None
    is_ahead: bool = False


@dataclass(frozen=True)
class StopWorker:
    """End a process; ``WorkerEnded`` follows once it is gone and its memory is free."""

    worker_id: str
    why: str
    force: bool = False


@dataclass(frozen=True)
class RejectWorker:
    """End a process whose frame makes no sense, and take no further one of it; at once."""

    worker_id: str
    why: str


@dataclass(frozen=True)
class LoadModel:
    """Send ``load``."""

    worker_id: str
    devices: tuple[Device, ...]
    params: bytes
    #: For a merged run: the params of its further models.
    more_params: tuple[bytes, ...] = ()
    #: What file processes called the model, as they saw its code and its weights.
    model: str = ""


@dataclass(frozen=True)
class MoveModel:
    """Send ``move``: to the host's memory if there are no devices, else back to them."""

    worker_id: str
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class ReadJob:
    """Send ``read``."""

    worker_id: str
    request: Request


@dataclass(frozen=True)
class DescribeModel:
    """Send ``foresee``: which model will a job need, which is still to come.

    Attributes
    ----------
    number
        Of the question, no job's.
    """

    worker_id: str
    number: int
    request: Request


@dataclass(frozen=True)
class CheckWorker:
    """Send ``check``: whether what a process has done before there was a job still holds.

    Attributes
    ----------
    params, model
        Of the model that it has loaded, as with :class:`LoadModel`; without params, none.
    """

    worker_id: str
    params: tuple[bytes, ...] = ()
    model: str = ""


@dataclass(frozen=True)
class WriteJob:
    """Send ``write``: ``order`` says for each item which of the blobs is its result.

    ``workers`` are those that computed them; ``settled`` are the items before these, which are sent
    piece by piece as ``results``; ``distinct`` is how many different items there are in all.
    """

    worker_id: str
    request: Request
    order: list[int]
    names: list[str]
    blobs: list[Blob]
    workers: tuple[str, ...]
    distinct: int
    settled: tuple[SettledItems, ...] = ()


@dataclass(frozen=True)
class RunBatch:
    """Send ``run``."""

    worker_id: str
    batch_id: int
    params: bytes
    items: list[WorkItem]


@dataclass(frozen=True)
class RunMerged:
    """Send ``chain``: short requests through all models of a row; ``step``: through one of them.

    Attributes
    ----------
    item_limit_s
        Requests whose items take longer to compute are to go job by job; None: none are.
    loads_next
        The next stage's model is to be loaded after that, unless there is more to do.
    """

    worker_id: str
    batch_id: int
    requests: list[MergedRequest]
    item_limit_s: float | None = None
    loads_next: bool = False


@dataclass(frozen=True)
class PublishJob:
    """Send ``publish``: outputs that a merged run has staged."""

    worker_id: str
    request: Request
    staged: StagedOutputs


@dataclass(frozen=True)
class Unstage:
    """Remove what a merged run has staged; paths are below ``root``, or else the pool's own."""

    paths: tuple[str, ...]
    root: str = ""

    @classmethod
    def of(cls, staged: StagedOutputs) -> Unstage:
        """Return what removes all that was staged for a job."""
        return cls(staged.paths, staged.guess.staging)


@dataclass(frozen=True)
class Report:
    """Report to the submitter how the job ended."""

    report: JobReport


@dataclass(frozen=True)
class WantItems:
    """There is room for more items of a call, whose caller has some."""

    job_id: int


@dataclass(frozen=True)
class Remark:
    """Warn the user of something that fails no job."""

    text: str


@dataclass(frozen=True)
class GrantLease:
    """The job may run, on these devices."""

    job_id: int
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class StoreTrouble:
    """Something is wrong with results kept across runs; the user hears of each kind once."""

    worker_id: str
    kind: str
    why: str


@dataclass(frozen=True)
class DiscardBlobs:
    """Nobody needs these any longer: their files can go, once what was decided before is done."""

    blobs: tuple[Blob, ...]


@dataclass(frozen=True)
class Note:
    """One line of the run's event log."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Fact:
    """What the provenance of outputs is made of; nothing is decided by it.

    Attributes
    ----------
    kind
        ``job`` (its outputs are in place), ``batch`` (it was computed), or ``model`` (what it was
        made of).
    """

    kind: str
    fields: Mapping[str, object]


Effect = (
    ClaimDevices
    | StartWorker
    | StopWorker
    | RejectWorker
    | LoadModel
    | MoveModel
    | ReadJob
    | DescribeModel
    | CheckWorker
    | WriteJob
    | PublishJob
    | Unstage
    | RunBatch
    | RunMerged
    | Report
    | WantItems
    | Remark
    | GrantLease
    | StoreTrouble
    | DiscardBlobs
    | Note
    | Fact
)


class Outbox:
    """Collects effects in the order in which they were decided."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def put(self, effect: Effect) -> None:
        """Add one."""
        self._effects.append(effect)

    def note(self, event: str, **fields: object) -> None:
        """Add a line for the event log."""
        self.put(Note(event, fields))

    def take(self) -> list[Effect]:
        """Return all, and forget them."""
        taken, self._effects = self._effects, []
        return taken
