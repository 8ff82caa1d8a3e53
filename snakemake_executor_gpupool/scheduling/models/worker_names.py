"""Names of models' workers: a tool's name and a number. Pure."""

from __future__ import annotations

#: Of so many tools it is known which numbers their workers have had.
MAX_NUMBERED = 1000


class WorkerNames:
    """Gives each worker a name that no other one has had."""

    def __init__(self) -> None:
        #: Of each tool, and of all that are not in the table any longer: the last number.
        self._numbers: dict[str, int] = {}
        self._last = 0

    def new(self, tool: str) -> str:
        """Return a name for a worker of a tool."""
        number = self._numbers.pop(tool, self._last) + 1
        self._numbers[tool] = number  # the newest last
        if len(self._numbers) > MAX_NUMBERED:
            oldest = next(iter(self._numbers))
            self._last = max(self._last, self._numbers.pop(oldest))
        return f"{tool}.{number}"
