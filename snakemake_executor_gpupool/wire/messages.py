"""What workers say, as values: one class for each kind of frame that comes from a worker.

:func:`message_of` is the door. A worker runs other people's code, which can write anything into
its channel; what passes here has the fields of its kind and no others, each within its bounds, and
as many blobs as these fields announce. Whether it answers what its sender was asked is not known
here: that is :class:`~snakemake_executor_gpupool.scheduling.frame_gate.FrameGate`'s.

Nothing is unpickled: blobs stay bytes, or places of bytes in files. Messages are immutable and may
be handed between threads. Coordinator and workers are of one version: there is no other format to
be compatible with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.wire.bounds import shown
from snakemake_executor_gpupool.wire.described import Failure, ModelInfo, ToolInfo, WorkerError
from snakemake_executor_gpupool.wire.fields import (
    Fields,
    are_costs,
    are_hashes,
    are_positions,
    are_texts,
    are_tokens,
    are_versions,
    is_flag,
    is_id,
    is_seconds,
    is_text,
    one_of,
    whole_up_to,
)
from snakemake_executor_gpupool.wire.foreseen import Foreseen, Unforeseen
from snakemake_executor_gpupool.wire.frames import Blob, Frame
from snakemake_executor_gpupool.wire.kept import TROUBLES
from snakemake_executor_gpupool.wire.model_messages import (
    BatchDone,
    Loaded,
    LoadFailed,
    Moved,
    MoveFailed,
    StageDone,
)

#: What a process may be at when a tool prints.
DOING = "import", "read", "write", "load", "run"


# -- of any process ----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ToolImported:
    """A process has imported its tool.

    Attributes
    ----------
    seconds
        What the import took.
    versions
        Of Python and of what the tool computes with, as far as it is loaded.
    """

    info: ToolInfo
    seconds: float
    versions: Mapping[str, str]

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``tool`` frame."""
        return cls(
            info=ToolInfo.from_fields(fields.inner("info")),
            seconds=fields.take("seconds", is_seconds),
            versions=fields.take("versions", are_versions),
        )


class ImportFailed(Failure):
    """A process could not import its tool."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StoreTroubleMet:
    """A process has met something in the store of kept results that is not as it should be.

    Attributes
    ----------
    kind
        One of ``wire.kept.TROUBLES``.
    """

    kind: str
    why: str

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``store_trouble`` frame."""
        return cls(fields.take("kind", one_of(TROUBLES)), fields.take("why", is_text))


@dataclass(frozen=True, slots=True)
class OutputPrinted:
    """What a tool has printed while a process did something, as a place in its log.

    Attributes
    ----------
    doing
        One of ``DOING``.
    about
        The number of the job or batch; 0: there is none.
    start, end
        Bytes of the log.
    """

    doing: str
    about: int
    start: int
    end: int

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``printed`` frame."""
        message = cls(
            fields.take("doing", one_of(DOING)),
            fields.take("about", is_id),
            fields.take("start", whole_up_to(2**63)),
            fields.take("end", whole_up_to(2**63)),
        )
        if message.start >= message.end:
            raise ProtocolError("a 'printed' frame has its end before its start")
        return message


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether what a process has imported and loaded ahead is what it would be now."""

    holds: bool

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``checked`` frame."""
        return cls(fields.take("holds", is_flag))


# -- of processes that read and write -----------------------------------------------------
@dataclass(frozen=True, slots=True)
class FollowingModel:
    """The model of a job that is to follow the one whose items were read, and its tool."""

    model: ModelInfo
    info: ToolInfo

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read it out of a frame; raises ProtocolError."""
        following = cls(ModelInfo.from_fields(fields), ToolInfo.from_fields(fields.inner("info")))
        fields.end()
        return following


@dataclass(frozen=True, slots=True)
class ItemsRead:
    """Some items of a job, in columns that are equally long; item n is the n-th of each.

    Attributes
    ----------
    keys
        Equal for equal items of a model and a group.
    costs
        In the tool's own unit.
    names
        What messages call the items.
    payloads
        The packed items; of a kept one, its packed result.
    kept
        Positions of items whose results earlier runs had left.
    is_last
        No more of the job's items follow.
    following
        The models of jobs that are to follow, as far as known; only if the job is short.
    inputs
        With the last items: hashes of the job's inputs as they were read; empty if not asked for.
    """

    job_id: int
    model: ModelInfo
    keys: tuple[str, ...]
    costs: tuple[float, ...]
    tokens: tuple[int, ...]
    names: tuple[str, ...]
    payloads: tuple[Blob, ...]
    kept: frozenset[int] = frozenset()
    is_last: bool = True
    following: tuple[FollowingModel, ...] = ()
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read an ``items`` frame."""
        keys = tuple(fields.take("keys", are_texts))
        message = cls(
            job_id=fields.take("job", is_id),
            model=ModelInfo.from_fields(fields),
            keys=keys,
            costs=fields.column("costs", are_costs, len(keys)),
            tokens=fields.column("tokens", are_tokens, len(keys)),
            names=tuple(fields.take("names", are_texts)),
            payloads=tuple(blobs),
            kept=frozenset(fields.take("kept", are_positions)),
            is_last=fields.take("last", is_flag),
            following=tuple(map(FollowingModel.from_fields, fields.all_inner("follow"))),
            inputs=tuple(fields.maybe("inputs", are_hashes, ())),
        )
        count = len(message.keys)
        lengths = [count, len(message.costs), len(message.tokens), len(message.names)]
        if lengths != [count] * 4:
            raise ProtocolError(f"the columns of an 'items' frame have {lengths} items")
        if message.kept and max(message.kept) >= count:
            raise ProtocolError(f"'kept' of an 'items' frame names more than {count} items")
        return message

    @property
    def blob_count(self) -> int:
        """How many blobs its frame has."""
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class RemarkMade:
    """A process has something to say of its tool or of a rule, for the user."""

    job_id: int
    text: str

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``remark`` frame."""
        return cls(fields.take("job", is_id), fields.take("text", is_text))


@dataclass(frozen=True, slots=True)
class _FilesDone:
    """A process has done with a job's files what it was asked to, in so many seconds.

    Attributes
    ----------
    outputs, inputs
        Hashes of the job's files, in its order; empty if not asked for, or not looked at here.
    """

    job_id: int
    seconds: float
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a frame that says so."""
        return cls(
            fields.take("job", is_id),
            fields.take("seconds", is_seconds),
            tuple(fields.maybe("outputs", are_hashes, ())),
            tuple(fields.maybe("inputs", are_hashes, ())),
        )


class Written(_FilesDone):
    """A job's outputs are in place."""

    __slots__ = ()


class Published(_FilesDone):
    """A job's outputs, which a chain had staged, are in place."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unpublished:
    """What a chain had staged for a job is not that job's."""

    job_id: int

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read an ``unpublished`` frame."""
        return cls(fields.take("job", is_id))


@dataclass(frozen=True, slots=True)
class _FilesFailed:
    """A process could not do with a job's files what it was asked to."""

    job_id: int
    error: WorkerError

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a frame that says so."""
        return cls(fields.take("job", is_id), WorkerError.from_fields(fields.inner("error")))


class ReadFailed(_FilesFailed):
    """A job's inputs cannot be read."""

    __slots__ = ()


class WriteFailed(_FilesFailed):
    """A job's outputs cannot be written."""

    __slots__ = ()


Message = (
    ToolImported
    | ImportFailed
    | StoreTroubleMet
    | OutputPrinted
    | Checked
    | Foreseen
    | Unforeseen
    | ItemsRead
    | RemarkMade
    | ReadFailed
    | Written
    | WriteFailed
    | Published
    | Unpublished
    | Loaded
    | LoadFailed
    | Moved
    | MoveFailed
    | BatchDone
    | StageDone
)
#: Every kind of frame that a worker may send, by the ``type`` in its JSON.
MESSAGES: dict[str, type[Message]] = {
    "tool": ToolImported,
    "tool_failed": ImportFailed,
    "store_trouble": StoreTroubleMet,
    "printed": OutputPrinted,
    "checked": Checked,
    "foreseen": Foreseen,
    "unforeseen": Unforeseen,
    "items": ItemsRead,
    "remark": RemarkMade,
    "read_failed": ReadFailed,
    "written": Written,
    "write_failed": WriteFailed,
    "published": Published,
    "unpublished": Unpublished,
    "loaded": Loaded,
    "load_failed": LoadFailed,
    "moved": Moved,
    "move_failed": MoveFailed,
    "done": BatchDone,
    "stage": StageDone,
}


def message_of(frame: Frame) -> Message:
    """Return what a frame says.

    Raises
    ------
    ProtocolError
        There is no such frame, a field is missing, unknown or out of its bounds, or there are not
        as many blobs as it announces.
    """
    name = frame.type
    kind = MESSAGES.get(name)
    if kind is None:
        raise ProtocolError(f"there is no {shown(name, 60)} frame")
    fields = Fields(frame.meta, f"a {name!r} frame")
    fields.take("type", is_text)
    message = kind.from_frame(fields, frame.blobs)
    fields.end()
    expected: int = getattr(message, "blob_count", 0)
    if len(frame.blobs) != expected:
        raise ProtocolError(f"a {name!r} frame has {len(frame.blobs)} blobs instead of {expected}")
    return message
