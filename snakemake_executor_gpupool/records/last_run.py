"""Which processes a workflow's last run started, so that the next one can start them early.

One small JSON file for each workflow, in ``early`` beside the measured profile, and none where
there is no profile. It is written at the end of a run, whole or not at all. It only saves time: a
file that is not as this module writes it, of another version or another user's, counts as none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from snakemake_executor_gpupool.records.profile import profile_path, text_of, write_json
from snakemake_executor_gpupool.wire.known_process import KnownProcess, LastRun

VERSION = 1
#: Workflows that are remembered; those whose files are the oldest are forgotten first.
MAX_FILES = 200
MAX_PROCESSES = 64


def last_run_path(environment: Mapping[str, str], workflow: str) -> Path | None:
    """Return the file of a workflow, named by its Snakefile; None: nothing is remembered."""
    profile = profile_path(environment)
    if profile is None or not workflow:
        return None
    name = hashlib.sha256(workflow.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return profile.parent / "early" / f"{name}.json"


class LastRunFile:
    """The file of a workflow.

    Parameters
    ----------
    version
        Of gpupool.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path, self._version = path, version

    def read(self) -> LastRun | None:
        """Return what the file says; None: nothing, or nothing that can be believed."""
        try:
            data = json.loads(text_of(self.path, is_own=True))  # it names programs to start
            if (data["version"], data["gpupool"]) != (VERSION, self._version):
                return None
            processes = [KnownProcess.from_json(entry) for entry in data["processes"]]
            counts = int(data["in_vain"]), int(data["unfit"])
        except Exception:  # whatever it is: the run starts as if it were the first
            return None
        return LastRun(tuple(processes[:MAX_PROCESSES]), *counts)

    def write(self, last: LastRun) -> None:
        """Write the file, atomically and for this user alone. Never raises."""
        entries = [dataclasses.asdict(each) for each in last.processes[:MAX_PROCESSES]]
        counts = {"in_vain": last.in_vain, "unfit": last.unfit}
        content = {"version": VERSION, "gpupool": self._version, **counts, "processes": entries}
        with contextlib.suppress(Exception):
            room = self.path.parent
            room.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(self.path, content)
            _forget_oldest(list(room.glob("*.json")))


def _forget_oldest(files: Sequence[Path]) -> None:
    if len(files) > MAX_FILES:
        newest_last = sorted(files, key=lambda file: file.stat().st_mtime_ns)
        for file in newest_last[:-MAX_FILES]:
            file.unlink(missing_ok=True)
