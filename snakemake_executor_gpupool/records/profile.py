"""What models were measured to cost, kept between runs so that the next one plans better.

One JSON file in the user's cache directory, ``gpupool/profile.json``, or where
``GPUPOOL_PROFILE`` says (``off``: none). It is read once and merged into when a run ends,
under a lock, whole or not at all; a damaged one is ignored with a warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
#: Entries kept; the longest unused go first.
MOST_ENTRIES = 2000


@dataclass(frozen=True)
class Figures:
    """What was measured of one model on one kind of device.

    Attributes
    ----------
    load_s
        From starting a process until the model is ready.
    s_per_cost, fixed_s
        Seconds per unit of the tool's own cost estimate, and of a micro-batch beyond that.
    weights_mib, peak_mib, peak_tokens, full_tokens
        As :class:`~snakemake_executor_gpupool.scheduling.models.memory_use.MemoryUse` has them.
    budget_tokens
        The micro-batch budget, if memory made it smaller than the tool's.
    """

    load_s: float | None = None
    s_per_cost: float | None = None
    fixed_s: float | None = None
    weights_mib: int | None = None
    peak_mib: int | None = None
    peak_tokens: int | None = None
    full_tokens: int | None = None
    budget_tokens: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """Read an entry; what is no plausible number counts as not measured."""
        fields = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {
            name: value
            for name, value in data.items()
            if name in fields and isinstance(value, (int, float)) and 0 < value < 1e12
        }
        return cls(**known)


class Profile:
    """The figures of earlier runs, and those of this one.

    Parameters
    ----------
    path
        The file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.warning: str | None = None
        self._entries = self._read()
        self._new: dict[str, Figures] = {}

    def __getitem__(self, key: str) -> Figures:
        return Figures.from_json(self._entries.get(key, {}))

    def note(self, key: str, figures: Figures) -> None:
        """Remember what this run measured."""
        self._new[key] = figures

    def save(self) -> None:
        """Merge this run's figures into the file. That it cannot be written harms nobody."""
        if self._path is None or not self._new:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_suffix(".lock")):
                self._entries = self._read()
                self._merge()
                self._write()

    def _merge(self) -> None:
        for key, figures in self._new.items():
            measured = {k: v for k, v in dataclasses.asdict(figures).items() if v is not None}
            # Newest last: the order of the file is the order of use.
            self._entries[key] = {**self._entries.pop(key, {}), **measured}
        for key in list(self._entries)[:-MOST_ENTRIES]:
            del self._entries[key]

    def _write(self) -> None:
        assert self._path is not None
        descriptor, staged = tempfile.mkstemp(dir=self._path.parent, prefix=".profile-")
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            json.dump({"version": VERSION, "entries": self._entries}, file)
        Path(staged).replace(self._path)

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                return {}
            return {str(key): dict(entry) for key, entry in data["entries"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.warning = (
                f"the measured profile {self._path} cannot be read and is ignored: {error}"
            )
            return {}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def profile_path(environment: Mapping[str, str]) -> Path | None:
    """Return where the profile lies; None if it is switched off."""
    given = environment.get("GPUPOOL_PROFILE", "")
    if given == "off":
        return None
    if given:
        return Path(given)
    cache = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "gpupool" / "profile.json"
