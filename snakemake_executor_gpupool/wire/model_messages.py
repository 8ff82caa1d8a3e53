"""What processes that hold a model say; see :mod:`~snakemake_executor_gpupool.wire.messages`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.wire.bounds import MAX_BYTES, MAX_TOKENS, shown
from snakemake_executor_gpupool.wire.described import Failure, WorkerError
from snakemake_executor_gpupool.wire.fields import (
    Fields,
    are_hashes,
    are_positions,
    are_texts,
    are_versions,
    is_count,
    is_flag,
    is_id,
    is_inner_path,
    is_mib,
    is_seconds,
    list_of,
    or_none,
    whole_up_to,
)
from snakemake_executor_gpupool.wire.frames import Blob


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model is on its devices.

    Attributes
    ----------
    batch_tokens
        How many tokens a micro-batch may have there.
    quick_tokens
        How many it may have if it takes next to no time; 0: no more than that.
    seconds
        What loading took, the start of the process left out.
    imported_s
        How much of that was importing, where further models are loaded; None: it was not said.
    peak_mib
        The most device memory that the process has held so far; None: unknown.
    versions
        Of Python and of what the tool computes with, now that it is loaded.
    """

    batch_tokens: int
    seconds: float
    peak_mib: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    quick_tokens: int = 0
    imported_s: float | None = None

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``loaded`` frame."""
        return cls(
            batch_tokens=fields.take("batch_tokens", whole_up_to(MAX_TOKENS, least=1)),
            seconds=fields.take("seconds", is_seconds),
            peak_mib=fields.take("peak_mib", or_none(is_mib)),
            versions=fields.take("versions", are_versions),
            quick_tokens=fields.take("quick_tokens", whole_up_to(MAX_TOKENS)),
            imported_s=fields.maybe("imported_s", is_seconds, None),
        )


class LoadFailed(Failure):
    """A model cannot be loaded."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """Weights have moved: to host memory (``is_away``), or back onto their devices."""

    is_away: bool

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``moved`` frame."""
        return cls(fields.take("away", is_flag))


class MoveFailed(Failure):
    """Weights could not be moved."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A micro-batch has been computed, item by item.

    Attributes
    ----------
    items
        How many it has.
    results
        The packed results of those items that have one, in their order.
    errors
        Those of the others, by position.
    out_of_memory
        Positions of items that memory was not enough for at first, or at all.
    peak_mib
        The most device memory that the process has held so far; None: unknown.
    """

    batch_id: int
    items: int
    results: tuple[Blob, ...]
    seconds: float
    errors: Mapping[int, WorkerError] = field(default_factory=dict)
    out_of_memory: frozenset[int] = frozenset()
    peak_mib: int | None = None

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``done`` frame."""
        batch_id = fields.take("batch", is_id)
        items = fields.take("items", is_count)
        failed = fields.take("failed", are_positions)
        errors = [WorkerError.from_fields(each) for each in fields.all_inner("errors")]
        exhausted = fields.take("out_of_memory", are_positions)
        if len(failed) != len(errors) or any(p[-1] >= items for p in (failed, exhausted) if p):
            raise ProtocolError(
                f"'errors' of a 'done' frame with {items} items are {len(errors)}, of "
                f"{shown(failed, 100)}, and memory was not enough for {shown(exhausted, 100)}"
            )
        return cls(
            batch_id=batch_id,
            items=items,
            results=tuple(blobs),
            seconds=fields.take("seconds", is_seconds),
            errors=dict(zip(failed, errors, strict=True)),
            out_of_memory=frozenset(exhausted),
            peak_mib=fields.take("peak_mib", or_none(is_mib)),
        )

    @property
    def blob_count(self) -> int:
        """How many blobs its frame has."""
        return self.items - len(self.errors)


@dataclass(frozen=True, slots=True)
class StagedRequest:
    """A request that has finished one stage of its chain.

    Attributes
    ----------
    number
        Which of the dispatch's requests it is.
    keys
        Of the stage's distinct items.
    items
        How many the stage's job has, equal ones counted one by one.
    digests
        Of the stage's input files, in the job's order.
    outputs, logs
        Where they were staged, below the root; of the first stage none are.
    size_bytes
        Of the staged outputs.
    written
        Of a job that is ready: hashes of its outputs; empty if not asked for, or not written.
    order, names
        Of a stage whose outputs a file process is to write: for each of the job's items which of
        the keys is its own, and what it is called. None: they are written.
    """

    number: int
    keys: tuple[str, ...]
    items: int
    digests: tuple[str, ...]
    outputs: tuple[str, ...]
    logs: tuple[str, ...]
    size_bytes: int
    written: tuple[str, ...] = ()
    order: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read it out of a frame; raises ProtocolError."""
        staged = cls(
            number=fields.take("chain", is_id),
            keys=tuple(fields.take("keys", are_texts)),
            items=fields.take("items", is_count),
            digests=tuple(fields.take("digests", are_texts)),
            outputs=tuple(fields.take("outputs", list_of(is_inner_path))),
            logs=tuple(fields.take("logs", list_of(is_inner_path))),
            size_bytes=fields.take("bytes", whole_up_to(MAX_BYTES)),
            written=tuple(fields.maybe("written", are_hashes, ())),
            order=_tuple_or_none(fields.maybe("order", or_none(list_of(is_count)), None)),
            names=tuple(fields.maybe("names", are_texts, ())),
        )
        fields.end()
        staged._check_order()
        return staged

    def _check_order(self) -> None:
        order = self.order
        if order is None:
            return
        if len(order) != self.items or len(self.names) != self.items:
            raise ProtocolError(f"{len(order)} places and {len(self.names)} names of {self.items}")
        if {*order} != {*range(len(self.keys))}:
            raise ProtocolError(f"'order' names {len({*order})} of {len(self.keys)} keys")


def _tuple_or_none(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


@dataclass(frozen=True, slots=True)
class StageDone:
    """One stage of a dispatch of chains has been computed, and its outputs written.

    Or a stage has been computed by itself: then of all its items some have a result.

    Attributes
    ----------
    stage
        Its number in the chain, from 0.
    is_last
        No further stage of the dispatch follows.
    requests
        Those that have finished it, in the order of their numbers; the others have ended.
    results
        The packed results of each request's keys, one request after the other.
    peak_mib
        The most device memory that the process has held so far; None: unknown.
    load_s, versions
        What loading its model took, which is no part of ``seconds``, and the versions since then;
        None: it was there.
    computed_s, files_s
        What computing takes as a rule, and what the files took; None: it was not said.
    is_lost
        Its model could not be loaded.
    computed
        Of a stage by itself: the positions of the items that ``results`` are of; None: it is not.
    """

    batch_id: int
    stage: int
    is_last: bool
    requests: tuple[StagedRequest, ...]
    results: tuple[Blob, ...]
    seconds: float
    peak_mib: int | None = None
    load_s: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    computed_s: float | None = None
    files_s: float | None = None
    computed: tuple[int, ...] | None = None
    is_lost: bool = False

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a ``stage`` frame."""
        return cls(
            batch_id=fields.take("batch", is_id),
            stage=fields.take("stage", is_id),
            is_last=fields.take("last", is_flag),
            requests=tuple(map(StagedRequest.from_fields, fields.all_inner("chains"))),
            results=tuple(blobs),
            seconds=fields.take("seconds", is_seconds),
            peak_mib=fields.take("peak_mib", or_none(is_mib)),
            load_s=fields.maybe("load_s", is_seconds, None),
            versions=fields.maybe("versions", are_versions, {}),
            computed_s=fields.maybe("computed_s", is_seconds, None),
            files_s=fields.maybe("files_s", is_seconds, None),
            computed=_tuple_or_none(fields.maybe("computed", or_none(list_of(is_count)), None)),
            is_lost=fields.maybe("lost", is_flag, False),
        )

    @property
    def blob_count(self) -> int:
        """How many blobs its frame has."""
        if self.computed is not None:
            return len(self.computed)
        return sum(len(request.keys) for request in self.requests)
