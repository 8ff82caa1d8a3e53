"""Recorded runs, decided anew: the same events give the same effects, or something is wrong.

A recording comes from anywhere. It is JSON, and all that is made of it are plain values.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import RecordingError
from snakemake_executor_gpupool.runtime.plain import describe, from_plain
from snakemake_executor_gpupool.runtime.recording import FORMAT
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.events import Event

#: In the directory of a run.
NAME = "recording.jsonl"
_EVENTS: dict[str, type] = {each.__name__: each for each in typing.get_args(Event)}


@dataclass(frozen=True)
class Step:
    """One event, and what was decided on it: as recorded, and now.

    Attributes
    ----------
    line
        Where in the file it is, from 1.
    recorded, replayed
        The effects, or a failure, as JSON has them.
    """

    line: int
    now_s: float
    event: str
    fields: dict[str, Any]
    recorded: list[Any]
    replayed: list[Any]

    @property
    def is_same(self) -> bool:
        """Whether the same was decided."""
        return self.recorded == self.replayed


class Recording:
    """A recorded run.

    Attributes
    ----------
    version
        Of the gpupool that recorded it.
    is_cut_off
        Whether its last line is not whole, as a killed run leaves it; known once it was replayed.

    Raises
    ------
    RecordingError
        The file cannot be read, or is no recording that this gpupool reads.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / NAME if path.is_dir() else path
        if path.is_dir() and not self._path.exists():
            raise RecordingError(
                f"{path} has no {NAME}: a run is recorded if it is started with GPUPOOL_RECORD=1"
            )
        self.is_cut_off = False
        lines = self._lines()
        try:
            _, head = next(lines)
        except StopIteration:
            raise RecordingError(f"{self._path} is empty: no run was recorded in it") from None
        if not isinstance(head, dict) or "gpupool_recording" not in head:
            raise RecordingError(f"{self._path} is no recording of a run (GPUPOOL_RECORD=1)")
        self.version = str(head.get("version"))
        if head["gpupool_recording"] != FORMAT:
            raise RecordingError(
                f"{self._path} has format {head['gpupool_recording']!r:.20}, of gpupool "
                f"{self.version:.20}; this one, {__version__}, reads format {FORMAT}"
            )
        self._setup: Setup = self._read(1, lambda: from_plain(Setup, head["setup"]))

    def replay(self) -> Iterator[Step]:
        """Decide on the recorded events, one after the other.

        Raises
        ------
        RecordingError
            A line is damaged.
        """
        core, lines = Core(self._setup), self._lines()
        next(lines)
        for number, line in lines:
            event, now_s, recorded = self._read(number, lambda line=line: _parse(line))
            yield Step(
                number, now_s, line["event"], line["fields"], recorded, _decide(core, event, now_s)
            )

    def _lines(self) -> Iterator[tuple[int, Any]]:
        try:
            with self._path.open("rb") as file:
                for number, data in enumerate(file, 1):
                    if not data.endswith(b"\n") and number > 1:
                        self.is_cut_off = True
                        return
                    yield number, self._read(number, lambda data=data: json.loads(data))
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be read: {error.strerror}") from error

    def _read(self, number: int, read: Any) -> Any:
        """Return what a line says.

        Raises
        ------
        RecordingError
            It says nothing.
        """
        try:
            return read()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"[:200]
            raise RecordingError(f"{self._path}, line {number}, is damaged ({why})") from error


def _parse(line: Any) -> tuple[Event, float, list[Any]]:
    event = from_plain(_EVENTS[line["event"]], line["fields"])
    now_s = from_plain(float, line["now_s"])
    recorded = [{"error": line["error"]}] if "error" in line else line["effects"]
    return event, now_s, recorded


def _decide(core: Core, event: Event, now_s: float) -> list[Any]:
    try:
        effects = core.take(event, now_s)
    except Exception as error:
        return [{"error": repr(error)}]
    described = [describe(effect) for effect in effects]
    return json.loads(json.dumps(described))  # type: ignore[no-any-return]
