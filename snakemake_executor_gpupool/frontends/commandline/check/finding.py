"""The outcome of a probe: the property holds, does not hold, or could not be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial


class Status(Enum):
    """Outcome of a probe; the value is what its line prints."""

    OK = "ok"
    WRONG = "wrong"
    NOT_TESTED = "not tested"


class NotTested(Exception):
    """A probe has nothing to compare; the message says why, and what would change that."""


@dataclass(frozen=True)
class Probe:
    """One property of a tool, and its test.

    Attributes
    ----------
    name
        One word, for people and programs.
    question
        What holds for a tool that keeps its contract.
    ask
        Yields a sentence for each problem, for the author of the tool. May return a remark, which
        is printed instead of the question. Raises :class:`NotTested`.
    needs
        Probes that must pass first: otherwise this one would only repeat their problem.
    """

    name: str
    question: str
    ask: Callable[[Trial], Iterator[str]]
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """The result of one probe."""

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
