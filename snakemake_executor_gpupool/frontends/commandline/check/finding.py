"""What a probe has found: it holds, it does not, or it could not be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial


class Status(Enum):
    """How a probe ended; the value is what its line says."""

    OK = "ok"
    WRONG = "wrong"
    NOT_TESTED = "not tested"


class NotTested(Exception):
    """A probe has nothing to compare; the message says why, and what would change that."""


@dataclass(frozen=True)
class Probe:
    """One question about a tool.

    Attributes
    ----------
    name
        One word, for people and programs.
    question
        What is true of a tool that keeps its contract.
    ask
        Yields what is wrong, in words for the author of the tool. May return what it has seen,
        which is then said instead of the question. Raises :class:`NotTested`.
    needs
        Names of probes without which this one would only repeat what they have found.
    """

    name: str
    question: str
    ask: Callable[[Trial], Iterator[str]]
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """The answer to one probe."""

    probe: str
    question: str
    status: Status
    problems: Sequence[str] = field(default=())
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain values; ``ok`` is null for what was not tested."""
        return {
            "probe": self.probe,
            "check": self.question,
            "status": self.status.value,
            "ok": {Status.OK: True, Status.WRONG: False}.get(self.status),
            "problems": list(self.problems),
            "reason": self.reason,
        }

    def as_lines(self) -> list[str]:
        """Return the finding as lines of text."""
        says = f": {self.reason}" if self.reason else f"  {self.question}"
        head = f"  {self.probe:<17} {self.status.value:<6}{says}"
        return [head, *(f"      {problem}" for problem in self.problems)]
