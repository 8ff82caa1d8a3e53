"""What numbers and texts of workers may be: checked where they are made and where they enter.

Within these bounds sums, products and quotients of what workers say stay finite, however many
there are. Times and sizes are far above what any run has.

Standard library only, Python >= 3.9: both sides import this module.
"""

from __future__ import annotations

import math
from typing import Any

#: Seconds of a batch, a load, a job's files: about thirty years.
MAX_SECONDS = 1e9
#: Costs are relative; all that counts is that they can be added, multiplied and divided.
MAX_COST = 1e18
MIN_COST = 1e-18
MAX_TOKENS = 10**12
MAX_MIB = 10**9
MAX_GPUS = 4096
MAX_COUNT = 10**9
MAX_BYTES = 2**63 - 1
#: Characters of an item's key; a longer one is hashed.
MAX_TEXT = 100_000
#: Characters of an item's name. In JSON one takes up to twelve bytes.
MAX_NAME = 1_000_000
#: Characters of an error's message.
MAX_MESSAGE = 20_000
#: Frames of a worker are refused by their header beyond this. What a tool may make long is
#: bounded or divided by the worker before.
MAX_WORKER_META_BYTES = 16 * 1024**2
#: Blobs of one frame that together exceed this go through the spool, however small they are.
INLINE_BYTES = 64 * 1024**2
MAX_WORKER_BODY_BYTES = INLINE_BYTES + 1024**2


def printable(text: object) -> str:
    """Return a text that any log and terminal can take: what UTF-8 has no bytes for is escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def shown(value: object, longest: int = 100) -> str:
    """Return a short representation of somebody else's value; never raises."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__} without a representation"
    return printable(text if len(text) <= longest else f"{text[: longest - 3]}...")


def shortened(text: str, longest: int = MAX_MESSAGE) -> str:
    """Return a text of at most about so many characters, and say how many are missing."""
    left_out = len(text) - longest
    return text if left_out <= 0 else f"{text[:longest]}... ({left_out} more characters)"


def tool_amount(value: Any, what: str, most: float) -> float:
    """Return a number that a tool's author gave, as a float.

    Raises
    ------
    ValueError
        It is no number, is negative or exceeds ``most``.
    """
    number = _number(value)
    if number is None or not 0 <= number <= most:
        raise ValueError(f"{what} is {shown(value)}; it must be a number from 0 to {most:g}")
    return float(number)


def tool_count(
    value: Any, what: str, least: int, most: int = MAX_TOKENS, *, clamp: bool = False
) -> int:
    """Return a whole number that a tool's author gave; fractions are rounded up.

    ``clamp``: one above ``most``, infinity among them, means ``most``.

    Raises
    ------
    ValueError
        It is no number, or out of bounds.
    """
    number = _number(value)
    if number is not None and clamp:
        number = min(number, most)
    if number is None or not least <= number <= most:
        raise ValueError(
            f"{what} is {shown(value)}; it must be a whole number from {least} to {most}"
        )
    return math.ceil(number)


def _number(value: Any) -> int | float | None:
    """Return a value as a number; None if it is none, or not a number at all (NaN)."""
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value)
    except Exception:  # the value is somebody else's object
        return None
    return None if math.isnan(number) else number
