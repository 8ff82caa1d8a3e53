"""The name that somebody may have meant by a misspelt one.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Two names at least this alike are one name misspelt, where nothing else speaks for it.
CUTOFF = 0.75
#: Where a name is certainly wrong, a looser likeness is worth saying, too.
LOOSE_CUTOFF = 0.6


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """Return the known name that is most similar to another; None: none is similar.

    Case, hyphens and underscores do not count: ``maxLength`` is near ``max_length``.
    """
    plain: dict[str, str] = {}
    for each in sorted(known):
        plain.setdefault(_plain(each), each)
    close = difflib.get_close_matches(_plain(name), list(plain), n=1, cutoff=cutoff)
    return plain[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], cutoff: float = LOOSE_CUTOFF) -> str:
    """Return a question for the nearest name, with a space before it; empty if none is near."""
    near = nearest(name, known, cutoff)
    return f" Did you mean {near!r}?" if near is not None else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
