"""Random numbers of forked processes: none of two may draw what the other draws.

What imports draw at random, each process that imports for itself has of its own. Generators that
belong to Python, numpy and torch are given a new seed in a forked process (:func:`draw_anew`); if
imports have drawn anything else, nothing is forked (:class:`Draws`). Nor is it if they have chosen
a seed: it would be lost.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

#: Seeds below are somebody's choice: torch draws 64 bits.
MIN_DRAWN = 2**32


class Draws:
    """Notes whether numbers are drawn that are to be this process's own, its id among them."""

    def __init__(self) -> None:
        self._are_any = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note it meanwhile."""
        before = random.getstate()
        with contextlib.ExitStack() as stack:
            # ``secrets``, and with it numpy, has what ``random`` calls by its second name.
            for place, name in ((os, "getpid"), (os, "urandom"), (random, "_urandom")):
                _replace(stack, place, name, self._noting(getattr(place, name)))
            _replace(stack, random.Random, "seed", self._seed())
            yield
        self._are_any |= random.getstate() != before

    def _noting(self, function: Any) -> Any:
        def noting(*arguments: Any) -> Any:
            self._are_any |= not _is_begun("numpy.random")  # it draws a seed: see draw_anew
            return function(*arguments)

        return noting

    def _seed(self) -> Any:
        original = random.Random.seed

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
            self._are_any |= a is None
            original(generator, a, version)

        return seed

    def are_none(self) -> bool:
        """Tell whether a forked process can have numbers of its own."""
        try:
            return not self._are_any and _is_numpy_fresh() and _is_torch_fresh()
        except Exception:  # another version: nobody knows
            return False


def _replace(stack: contextlib.ExitStack, place: Any, name: str, function: Any) -> None:
    stack.callback(setattr, place, name, getattr(place, name))
    setattr(place, name, function)


def _is_begun(name: str) -> bool:
    """Tell whether a module is being imported now."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _is_numpy_fresh() -> bool:
    """Tell whether nobody has seeded what numpy draws from, or drawn from it."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return True
    generator = numpy_random.mtrand._rand._bit_generator
    seeds = getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)
    if seeds is None:
        return False
    fresh = numpy_random.MT19937(numpy_random.SeedSequence(seeds.entropy)).state["state"]
    state = generator.state["state"]
    return bool(fresh["pos"] == state["pos"] and (fresh["key"] == state["key"]).all())


def _is_torch_fresh() -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    generator = torch.default_generator
    seed = generator.initial_seed()
    fresh = torch.Generator().manual_seed(seed)
    return bool(seed >= MIN_DRAWN and torch.equal(fresh.get_state(), generator.get_state()))


def draw_anew() -> None:
    """Give a forked process random numbers of its own; Python's ``random`` does that itself."""
    numpy_random, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy_random is not None:
        numpy_random.seed()
    if torch is not None:
        torch.default_generator.seed()
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
