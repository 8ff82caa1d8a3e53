"""The reproducible mode, as tools see it: how one may follow it, and the shapes of its batches.

A sum of floats depends on how the numbers are grouped, and a library groups them by the shape of
what it is given. In a reproducible run an item's shape is therefore chosen from the item alone:
its length is rounded up to a rung of a fixed ladder, and each rung has one number of rows.

Worker side: standard library only, Python >= 3.9.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import ConfigError, ContractError

#: What a tool's ``reproducible`` may be, beside None.
SHAPE, ALONE, ALWAYS, NEVER = "shape", "alone", "always", "never"
WAYS = (SHAPE, ALONE, ALWAYS, NEVER)
#: Where every process of a run finds its mode and its seed.
MODE_VARIABLE, SEED_VARIABLE = "GPUPOOL_REPRODUCIBLE", "GPUPOOL_SEED"
#: Up to here rungs are multiples of eight; above, there are four to an octave.
FINE_RUNGS = 64
#: Counts up when rungs or rows come out differently: results of two rules are not mixed.
RULE = 1
#: Seeds are below this: every generator takes them.
SEED_BITS = 63


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


class Mode(NamedTuple):
    """How a run computes: what all of its processes must agree on.

    Attributes
    ----------
    is_reproducible
        An item's result is the same to the bit in any company.
    seed
        What the seeds of items are made from, beside the items.
    """

    is_reproducible: bool = False
    seed: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Mode:
        """Return the mode that an environment asks for.

        Raises
        ------
        ConfigError
            A variable is malformed.
        """
        flag = environment.get(MODE_VARIABLE, "").strip()
        if flag not in ("", "0", "1"):
            raise ConfigError(f"{MODE_VARIABLE} is {flag!r}: 1 asks for a reproducible run, 0 not")
        return cls(flag == "1", parse_seed(environment.get(SEED_VARIABLE, ""), SEED_VARIABLE))

    @classmethod
    def here(cls) -> Mode:
        """Return the mode of this process; raises ConfigError."""
        return cls.of(os.environ)

    def variables(self) -> dict[str, str]:
        """Return the variables that hand it to another process."""
        return {MODE_VARIABLE: "1" if self.is_reproducible else "0", SEED_VARIABLE: str(self.seed)}


def parse_seed(text: str, what: str) -> int:
    """Return a run's seed; empty: 0.

    Raises
    ------
    ConfigError
        It is no whole number from 0 on, below 2**63.
    """
    try:
        seed = int(text.strip() or 0)
    except ValueError:
        seed = -1
    if not 0 <= seed < 1 << SEED_BITS:
        raise ConfigError(f"{what} is {text!r}; it must be a whole number from 0 to 2**63 - 1")
    return seed


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
