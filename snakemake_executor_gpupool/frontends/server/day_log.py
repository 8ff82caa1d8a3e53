"""The lines of a server's log that say what it has done, from the events of its pool."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

Fields = Mapping[str, Any]


class DayLog:
    """Writes a line for what somebody who reads the log wants to know; one thread calls.

    Parameters
    ----------
    logger
        Gets the lines.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._say = logger.info
        #: What models' processes are called here: the model, and the devices.
        self._names: dict[str, str] = {}
        self._handlers: dict[str, Callable[[Fields], None]] = {
            "device_granted": self._granted,
            "model_loaded": self._loaded,
            "evicted": self._evicted,
            "worker_stopping": self._stopping,
            "worker_ended": self._ended,
            "model_failed": self._failed,
            "job_failed": self._job_failed,
        }

    def take(self, event: str, fields: Fields) -> None:
        """Take in an event."""
        handler = self._handlers.get(event)
        if handler is not None:
            handler(fields)

    def _granted(self, fields: Fields) -> None:
        self._names[fields["worker"]] = f"{fields['model']} on {', '.join(fields['devices'])}"

    def _loaded(self, fields: Fields) -> None:
        name = self._names.get(fields["worker"], fields["model"])
        self._say("%s: loaded in %.1f s, by process %s", name, fields["seconds"], fields["worker"])

    def _evicted(self, fields: Fields) -> None:
        name = self._names.get(fields["worker"], fields["worker"])
        self._say("%s: makes room for another model, or another run", name)

    def _stopping(self, fields: Fields) -> None:
        name = self._names.get(fields["worker"])
        if name is not None and fields["why"]:
            self._say("%s: its process is ended: %s", name, fields["why"])

    def _ended(self, fields: Fields) -> None:
        name = self._names.pop(fields["worker"], f"process {fields['worker']}")
        if not fields["expected"]:
            self._say("%s: its process has died: %s", name, fields["reason"])

    def _failed(self, fields: Fields) -> None:
        self._say("%s: cannot be loaded: %s", fields["model"], _first_line(fields["error"]))

    def _job_failed(self, fields: Fields) -> None:
        self._say("a job has failed: %s", _first_line(fields["error"]))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
