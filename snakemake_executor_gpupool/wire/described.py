"""What messages of workers hold: an error, what a tool says of itself, which model a job needs.

Plain values; they may be handed between threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from snakemake_executor_gpupool.errors import CONTRACT
from snakemake_executor_gpupool.wire.bounds import MAX_GPUS
from snakemake_executor_gpupool.wire.fields import (
    Fields,
    are_texts,
    is_flag,
    is_mib,
    is_origin,
    is_seconds,
    is_text,
    is_tokens,
    one_of,
    or_none,
    whole_up_to,
)
from snakemake_executor_gpupool.wire.frames import Blob

#: Whose mistake an error is: the input file's or item's, the tool's against its contract, or the
#: tool's in any other way.
INPUT, TOOL = "input", "tool"
ERROR_KINDS = (INPUT, CONTRACT, TOOL)


@dataclass(frozen=True, slots=True)
class WorkerError:
    """An error, of a tool's or one that stands for it: the one shape that errors have.

    Attributes
    ----------
    message
        Its words.
    kind
        Whose mistake it is, one of ``ERROR_KINDS``.
    type
        The name of its class.
    traceback
        Of a tool's own errors; empty for others, whose words are enough.
    """

    message: str
    kind: str = TOOL
    type: str = "Error"
    traceback: str = ""

    @classmethod
    def from_fields(cls, fields: Fields) -> WorkerError:
        """Read an error out of a frame; raises ProtocolError."""
        error = cls(
            message=fields.take("message", is_text),
            kind=fields.take("kind", one_of(ERROR_KINDS)),
            type=fields.take("type", is_text),
            traceback=fields.take("traceback", is_text),
        )
        fields.end()
        return error

    @property
    def is_of_contract(self) -> bool:
        """Whether the tool broke its contract: then no item is to blame."""
        return self.kind == CONTRACT

    @property
    def is_plain(self) -> bool:
        """Whether its words say all that there is to say, without its class and traceback."""
        return self.kind != TOOL

    def brief(self) -> WorkerError:
        """Return it without its traceback, for reports after the first one."""
        return replace(self, traceback="")


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """What a tool's class says of itself.

    Attributes
    ----------
    deterministic
        Equal items have equal results.
    persistent
        Its process may compute more than one micro-batch.
    devices
        Kinds of devices that it runs on, the preferred first.
    gpus_per_instance
        How many devices one loaded model takes.
    pads
        A micro-batch takes as much as if all its items were as long as the longest.
    vram_mib
        Device memory that a loaded model needs; None: unknown.
    batch_limit_s
        A micro-batch that takes longer may count as hung.
    can_move
        Its weights can go to host memory and back.
    """

    deterministic: bool
    persistent: bool
    devices: tuple[str, ...]
    gpus_per_instance: int
    pads: bool
    vram_mib: int | None
    batch_limit_s: float
    can_move: bool

    @classmethod
    def from_fields(cls, fields: Fields) -> ToolInfo:
        """Read it out of a frame; raises ProtocolError."""
        info = cls(
            deterministic=fields.take("deterministic", is_flag),
            persistent=fields.take("persistent", is_flag),
            devices=tuple(fields.take("devices", are_texts)),
            gpus_per_instance=fields.take("gpus_per_instance", whole_up_to(MAX_GPUS, least=1)),
            pads=fields.take("pads", is_flag),
            vram_mib=fields.take("vram_mib", or_none(is_mib)),
            batch_limit_s=fields.take("batch_limit_s", lambda v: is_seconds(v) and v > 0),
            can_move=fields.take("can_move", is_flag),
        )
        fields.end()
        return info


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model a job's params choose.

    Attributes
    ----------
    model
        Equal for equal models: a digest of the tool's code, the params that choose the model, and
        the files that these name.
    label
        What messages call it.
    group
        Equal for items that may share a micro-batch of that model.
    short_tokens
        Up to how many tokens a job is short; 0: none is.
    origin
        Of what it was made: the tool's version and code, weights, environment, as far as they are
        known; said once by each process, else empty. Nothing is decided by it.
    """

    model: str
    label: str
    group: str
    short_tokens: int
    origin: Mapping[str, str | list[str]] = field(default_factory=dict, compare=False)

    @classmethod
    def from_fields(cls, fields: Fields) -> ModelInfo:
        """Read it out of a frame, whose further fields are left; raises ProtocolError."""
        return cls(
            model=fields.take("model", is_text),
            label=fields.take("model_label", is_text),
            group=fields.take("group", is_text),
            short_tokens=fields.take("short_tokens", is_tokens),
            origin=fields.maybe("origin", is_origin, {}),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Something has failed, and this is why."""

    error: WorkerError

    @classmethod
    def from_frame(cls, fields: Fields, blobs: list[Blob]) -> Self:
        """Read a frame that holds an error and nothing else."""
        return cls(WorkerError.from_fields(fields.inner("error")))
