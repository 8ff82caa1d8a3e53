"""The reproducible mode, as tools see it: how one may follow it, and the shapes of its batches.

A sum of floats depends on how the numbers are grouped, and a library groups them by the shape of
what it is given. In a reproducible run an item's shape is therefore chosen from the item alone:
its length is rounded up to a rung of a fixed ladder, and each rung has one number of rows.

Worker side: standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.mode import SEED_BITS, Mode

#: What a tool's ``reproducible`` may be, beside None.
SHAPE, ALONE, ALWAYS, NEVER = "shape", "alone", "always", "never"
WAYS = (SHAPE, ALONE, ALWAYS, NEVER)
#: How many threads a worker computes with, however many cores there are: sums that are shared out
#: among threads are grouped by their number.
THREADS = 1
THREADS_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: What libraries that compute are told by the environment: numbers of threads; one way through
#: MKL, whatever the alignment of an array; where cuBLAS adds up (one of two settings that torch's
#: deterministic algorithms accept); no TF32, whatever a library asks for.
NUMERIC_VARIABLES = {
    **dict.fromkeys(THREADS_VARIABLES, str(THREADS)),
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NVIDIA_TF32_OVERRIDE": "0",
}
#: Up to here rungs are multiples of eight; above, there are four to an octave.
FINE_RUNGS = 64


class BatchShape(NamedTuple):
    """The shape that every batch of a rung has.

    Attributes
    ----------
    rows
        How many items ``run`` gets.
    tokens
        The length that each of them is to be padded to.
    """

    rows: int
    tokens: int


def mode_here() -> Mode:
    """Return the mode of this process, from its environment; raises ConfigError."""
    return Mode.of(os.environ)


def seed_from(run_seed: int, key: str | bytes) -> int:
    """Return an item's seed, from the run's and the item's key; uniform below 2**63."""
    data = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else bytes(key)
    digest = hashlib.sha256(b"gpupool seed %d:" % run_seed + data).digest()
    return int.from_bytes(digest[:8], "big") >> 64 - SEED_BITS


def next_rung(tokens: int) -> int:
    """Return the rung of the ladder for a length: the lowest that is not below it.

    The ladder is 1, then multiples of 8 up to 64, then four rungs to an octave:

    >>> [next_rung(tokens) for tokens in (1, 2, 30, 65, 100, 129, 1000, 1025)]
    [1, 8, 32, 80, 112, 160, 1024, 1280]
    """
    if tokens <= 1:
        return 1
    step = 8 if tokens <= FINE_RUNGS else 1 << (tokens - 1).bit_length() - 3
    return -(-tokens // step) * step


def batch_shape(rung: int, shape_tokens: int) -> BatchShape:
    """Return the shape of all batches of a rung: as many rows as fit, at least one.

    Parameters
    ----------
    rung
        The length of each row.
    shape_tokens
        How many tokens a batch has at most; a longer row is a batch of its own.
    """
    return BatchShape(max(shape_tokens // max(rung, 1), 1), rung)


def refuse_unable(tool_class: Any) -> None:
    """Refuse a tool that cannot serve a reproducible run, or has not said how.

    Raises
    ------
    ContractError
        The message says what to add to the class, and the way out.
    """
    way, name = tool_class.reproducible, tool_class.__name__
    if way in (SHAPE, ALONE, ALWAYS):
        return
    head = f"{name} cannot serve a reproducible run: "
    out = "or run without --gpupool-reproducible"
    if way == NEVER:
        raise ContractError(
            f'{head}its class says reproducible = "{NEVER}". Use another tool, {out}'
        )
    raise ContractError(
        f"{head}its class does not say how its results stay the same to the bit whatever shares "
        f'a batch with an item. Add reproducible = "{ALONE}" (items are computed one at a time), '
        f'"{SHAPE}" (run() pads each batch to self.batch_shape) or "{ALWAYS}" (no result ever '
        f"depends on the other items of a batch), {out}"
    )
