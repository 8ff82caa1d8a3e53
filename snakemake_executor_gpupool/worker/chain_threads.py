"""With how many threads a chain computes on the CPU: as many as its process was given, or one.

Requests of a chain are short, and often computed in a millisecond. Several threads wait for each
other at every operation, and where the cores are busy with reading and writing, as they are beside
a chain, that takes many times as long as the operation. Which is quicker is measured: per item, for
each stage, micro-batch by micro-batch. What takes long is left as it is.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from statistics import median
from typing import Any

from snakemake_executor_gpupool.tool_api.reproducible import THREADS_VARIABLES

#: Only where a micro-batch takes less than this with all threads, one is tried.
BRIEF_S = 0.2
#: Where it takes one thread less than this, there is nothing to gain by more.
QUICK_S = 0.005
#: Latest micro-batches that the choice rests on.
WINDOW = 5
#: After so many micro-batches the other number is tried again; twice as many each time it loses.
PAUSE = 32


class ThreadChoice:
    """Chooses for each micro-batch of a stage, by what the latest ones took. Pure.

    Parameters
    ----------
    most
        How many threads there may be, at least two.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: By number of threads: the seconds of a micro-batch, and of an item of it.
        self._taken_s: dict[int, deque[tuple[float, float]]] = {
            number: deque(maxlen=WINDOW) for number in (1, most)
        }
        self._is_first = True
        self._pause = self._left = PAUSE

    def number(self) -> int:
        """Return with how many threads to compute the next micro-batch."""
        best = self._best()
        return self._other(best) if self._left <= 0 and self._is_worth_a_try(best) else best

    def _best(self) -> int:
        one, most = self._taken_s[1], self._taken_s[self._most]
        if not most:
            return self._most
        if not one:
            return 1 if _batch_s(most) < BRIEF_S else self._most
        if _batch_s(one) < QUICK_S:
            return 1
        return 1 if _item_s(one) <= _item_s(most) else self._most

    def _is_worth_a_try(self, best: int) -> bool:
        taken_s = self._taken_s[best]
        if not taken_s:
            return False
        return _batch_s(taken_s) > QUICK_S if best == 1 else _batch_s(taken_s) < BRIEF_S

    def _other(self, number: int) -> int:
        return self._most if number == 1 else 1

    def took(self, number: int, items: int, seconds: float) -> None:
        """Take in what a micro-batch of so many items took with a number of threads."""
        if self._is_first:  # it also had what is done only once
            self._is_first = False
            return
        before = self._best()
        self._taken_s[number].append((seconds, seconds / items))
        if self._best() != before:
            self._pause = self._left = PAUSE
        elif number != before:
            self._pause *= 2
            self._left = self._pause
        else:
            self._left -= 1


def _batch_s(taken_s: deque[tuple[float, float]]) -> float:
    return median(batch_s for batch_s, _ in taken_s)


def _item_s(taken_s: deque[tuple[float, float]]) -> float:
    return median(item_s for _, item_s in taken_s)


class ChainThreads:
    """Has torch compute with the number of threads that is chosen for each stage.

    A tool that chooses a number by itself is left alone, and so are other libraries.
    """

    def __init__(self) -> None:
        self._choices: dict[int, ThreadChoice] = {}
        #: What torch was told here the last time; None: nothing.
        self._told: int | None = None
        self._is_tools_own = False

    def settle(self, stage: int) -> None:
        """Tell torch with how many threads to compute a stage's next micro-batch."""
        torch = _torch()
        if torch is None or self._is_tools_own:
            return
        number = torch.get_num_threads()
        if number != (given_threads() if self._told is None else self._told):
            self._is_tools_own = True
            return
        most = given_threads()
        if most < 2:
            return
        if stage not in self._choices:
            self._choices[stage] = ThreadChoice(most)
        wanted = self._choices[stage].number()
        if wanted != number:
            torch.set_num_threads(wanted)
        self._told = wanted

    def took(self, stage: int, items: int, seconds: float) -> None:
        """Take in what that took."""
        if stage in self._choices and self._told is not None and not self._is_tools_own:
            self._choices[stage].took(self._told, items, seconds)


def given_threads() -> int:
    """Return with how many threads this process was told to compute; 0: nothing was said."""
    text = os.environ.get(THREADS_VARIABLES[0], "")
    return int(text) if text.isdigit() else 0


def _torch() -> Any:
    """Return torch if the process has imported it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "set_num_threads") else None
