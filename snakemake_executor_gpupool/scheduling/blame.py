"""Whose fault is a death? Pure bookkeeping.

A process that dies leaves *suspects*: the items, the job or the model that it had in flight. One
suspect alone may have killed it; so may somebody outside, and nothing in one death says which.
What follows does. A suspect that succeeds later is exonerated; a death all of whose suspects are,
or that had none, is an *external kill*.

A guilty suspect is one that was alone with a death too often. How often is too often grows by one
with every recent external kill, within a bound. An item that kills its workers never makes one, so
in a quiet run it is found at once, however many of its kind there are; and where something outside
kills at random, external kills come in faster than deaths of one and the same suspect. Between
tries a suspect waits, longer each time: a burst of kills passes, or shows itself by hitting others
meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

#: For how long an external kill makes deaths weaker evidence.
EXTERNAL_KILL_COUNTS_S = 300.0
#: The most that external kills add to the deaths that it takes to find somebody guilty.
MAX_PATIENCE = 6
#: The wait after a suspect's first death alone; it doubles with every further one.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 8.0
#: For how long starting or loading must have failed by deaths before nobody tries any more.
MIN_TRIAL_S = 15.0


@dataclass(eq=False)
class _Death:
    at_s: float
    #: How many suspects have not succeeded since.
    doubts: int


@dataclass(eq=False)
class _Record:
    deaths: list[_Death] = field(default_factory=list)
    alone: int = 0
    first_alone_s: float = float("inf")
    last_alone_s: float = float("-inf")


class BlameTracker:
    """Who was there when processes died, and who has succeeded since.

    A suspect is any hashable object that stands for itself.
    """

    def __init__(self) -> None:
        self._records: dict[object, _Record] = {}
        self._external_kills_s: deque[float] = deque(maxlen=MAX_PATIENCE)

    def died(
        self,
        suspects: Collection[object],
        now_s: float,
        *,
        since_s: float | None = None,
        succeeded_before: bool = False,
    ) -> None:
        """A process has died with these in flight.

        Parameters
        ----------
        since_s
            When the process began with a lone suspect. Of several that were at the same
            suspect together, only the first to die counts against it. None: they never are.
        succeeded_before
            The suspect is known to succeed elsewhere: the death is an external kill at once.
        """
        death = _Death(now_s, len(suspects))
        for suspect in suspects:
            record = self._records.setdefault(suspect, _Record())
            record.deaths.append(death)
            if len(suspects) == 1 and (since_s is None or since_s >= record.last_alone_s):
                record.alone += 1
                record.first_alone_s = min(record.first_alone_s, now_s)
                record.last_alone_s = now_s
        if not suspects or succeeded_before:
            self._external_kills_s.append(now_s)
            death.doubts = 0

    @property
    def suspects(self) -> Collection[object]:
        """Those who have yet to succeed."""
        return self._records.keys()

    @property
    def has_suspects(self) -> bool:
        """Whether there is anybody who has yet to succeed."""
        return bool(self._records)

    def exonerate(self, suspect: object) -> None:
        """A suspect has succeeded: it was innocent of every death so far."""
        if not self._records:
            return
        record = self._records.pop(suspect, None)
        for death in record.deaths if record is not None else ():
            death.doubts -= 1
            if death.doubts == 0:
                self._external_kills_s.append(death.at_s)

    def forget(self, suspect: object) -> None:
        """A suspect was found guilty, or nobody needs it any longer: no external kill follows."""
        self._records.pop(suspect, None)

    def is_suspect(self, suspect: object) -> bool:
        """Tell whether a suspect has yet to succeed."""
        return suspect in self._records

    def deaths_alone(self, suspect: object) -> int:
        """Return how many processes died while they had nothing else in flight."""
        record = self._records.get(suspect)
        return record.alone if record is not None else 0

    def is_guilty(
        self, suspect: object, most_deaths: int, now_s: float, *, least_s: float = 0.0
    ) -> bool:
        """Tell whether a suspect has died alone too often.

        Parameters
        ----------
        most_deaths
            How often that is where nothing outside kills.
        least_s
            The deaths must have gone on for so long: a burst of kills is sooner over.
        """
        record = self._records.get(suspect)
        if record is None or now_s - record.first_alone_s < least_s:
            return False
        return record.alone >= most_deaths + self._patience(now_s)

    def _patience(self, now_s: float) -> int:
        return sum(now_s - at_s <= EXTERNAL_KILL_COUNTS_S for at_s in self._external_kills_s)

    def next_try_s(self, suspect: object) -> float:
        """Return when a suspect may be tried again; in the past if it may at once."""
        record = self._records.get(suspect)
        if record is None or not record.alone:
            return float("-inf")
        wait_s = FIRST_WAIT_S * 2.0 ** (record.alone - 1)
        return record.last_alone_s + min(wait_s, LONGEST_WAIT_S)
