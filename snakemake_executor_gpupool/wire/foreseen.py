"""What a process says of a job that it was only asked about, as a value; see ``worker/foresee``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.wire.bounds import MAX_TOKENS, shown
from snakemake_executor_gpupool.wire.described import ModelInfo, WorkerError
from snakemake_executor_gpupool.wire.fields import (
    Fields,
    are_costs,
    are_texts,
    are_tokens,
    is_count,
    is_flag,
    is_id,
    is_text,
    or_none,
    whole_up_to,
)
from snakemake_executor_gpupool.wire.frames import Blob, Frame


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A job's model and items.

    Attributes
    ----------
    batch_tokens
        The budget of a micro-batch; None: only a loaded model knows it.
    keys, costs, tokens
        Of the items that were described, in order.
    kept
        How many of them have a result of an earlier run.
    count
        All items, as far as they were counted.
    is_whole
        Whether all were counted.
    """

    job_id: int
    model: ModelInfo
    batch_tokens: int | None
    keys: tuple[str, ...] = ()
    costs: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    kept: int = 0
    count: int = 0
    is_whole: bool = True

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``foreseen`` frame; raises ProtocolError."""
        answer = cls(
            job_id=fields.take("job", is_id),
            model=ModelInfo.from_fields(fields),
            batch_tokens=fields.take("batch_tokens", or_none(whole_up_to(MAX_TOKENS, least=1))),
            keys=tuple(fields.take("keys", are_texts)),
            costs=tuple(fields.take("costs", are_costs)),
            tokens=tuple(fields.take("tokens", are_tokens)),
            kept=fields.take("kept", is_count),
            count=fields.take("count", is_count),
            is_whole=fields.take("whole", is_flag),
        )
        lengths = [len(answer.keys), len(answer.costs), len(answer.tokens)]
        if lengths != [lengths[0]] * 3 or not answer.kept <= lengths[0] <= answer.count:
            raise ProtocolError(f"a 'foreseen' frame has {lengths} of {answer.count} items")
        return answer


@dataclass(frozen=True, slots=True)
class Unforeseen:
    """A job of which nothing can be said, and why."""

    job_id: int
    error: WorkerError

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read an ``unforeseen`` frame; raises ProtocolError."""
        return cls(fields.take("job", is_id), WorkerError.from_fields(fields.inner("error")))


def foreseen_of(frame: Frame) -> Foreseen | Unforeseen:
    """Return what a frame says of a job.

    Raises
    ------
    ProtocolError
        It is another frame, or makes no sense.
    """
    fields = Fields(frame.meta, f"a {frame.type!r} frame")
    fields.take("type", is_text)
    answer: Foreseen | Unforeseen
    if frame.type == "unforeseen":
        answer = Unforeseen.from_frame(fields, frame.blobs)
    elif frame.type == "foreseen":
        answer = Foreseen.from_frame(fields, frame.blobs)
    else:
        raise ProtocolError(f"{shown(frame.type, 60)} frame where none was asked for")
    fields.end()
    return answer
