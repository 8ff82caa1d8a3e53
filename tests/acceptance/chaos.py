"""Somebody who kills a run's workers, and what the run itself says of where it met them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PHASES = {"loading", "reading", "running", "writing", "moving"}
#: What a worker is at after an event.
STATES = {
    "worker_started": "starting",
    "load_sent": "loading",
    "move_sent": "moving",
    "model_loaded": "idle",
    "model_moved": "idle",
}
#: How often it looks, and with which odds it then strikes a worker in a phase where it has
#: killed nobody yet: the shortest phases last ten looks, and there are many of them.
LOOK_S = 0.002
ODDS = 0.05
#: Kills beyond one for each such phase that are kept: a worker may be through when it is met.
SPARE = 2


class Replay:
    """Follows ``events.jsonl``: who is alive, and what each is at."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.killed: Counter[str] = Counter()
        self._state: dict[str, str] = {}
        self._batches: Counter[str] = Counter()
        self._files: defaultdict[str, dict[int, str]] = defaultdict(dict)

    def follow(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events in, in order."""
        for event in events:
            worker = event.get("worker", "")
            if event["event"] in STATES:
                self._state[worker] = STATES[event["event"]]
            match event["event"]:
                case "worker_started":
                    self.pids[worker] = event["pid"]
                case "batch_sent":
                    self._batches[worker] += 1
                case "batch_done":
                    self._batches[worker] -= 1
                case "read_sent" | "write_sent" | "publish_sent":
                    self._files[worker][event["job_id"]] = event["event"]
                case "file_done":
                    del self._files[worker][event["job_id"]]
                case "worker_ended":
                    self.killed[self.phase(worker)] += "SIGKILL" in event["reason"]
                    self.pids.pop(worker, None)

    def phase(self, worker: str) -> str:
        """What a worker is at."""
        if self._files[worker]:
            # One after the other, in the order in which they were sent.
            is_reading = next(iter(self._files[worker].values())) == "read_sent"
            return "reading" if is_reading else "writing"
        if self._state[worker] == "idle" and self._batches[worker]:
            return "running"
        return self._state[worker]


class Killer(threading.Thread):
    """Sends SIGKILL to a random worker every few hundred milliseconds, ``kills`` times.

    Beside them, it meets workers in phases where nobody was killed yet as they come up; the
    last kills are kept for such phases, which may come late in a run.
    """

    def __init__(self, directory: Path, seed: int, kills: int) -> None:
        super().__init__(daemon=True)
        self._log = directory / ".snakemake/gpupool/latest/events.jsonl"
        self._draw = random.Random(seed)
        self._left = kills
        self._replay = Replay()
        self._position = 0
        self._struck: set[int] = set()
        self._done = threading.Event()

    def run(self) -> None:
        """Kill until it has killed enough, or the run is over."""
        due_s = time.monotonic()
        while self._left and not self._done.wait(LOOK_S):
            self._look()
            missing = PHASES - set(+self._replay.killed)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + self._draw.uniform(0.15, 0.6)
                if self._left > len(missing) + SPARE * bool(missing):
                    self._strike(self._candidates())
            elif missing and self._draw.random() < ODDS:
                self._strike([n for n in self._candidates() if self._replay.phase(n) in missing])

    def stop(self) -> None:
        """Kill nobody any more."""
        self._done.set()
        self.join()

    def _candidates(self) -> list[str]:
        return sorted(n for n, pid in self._replay.pids.items() if pid not in self._struck)

    def _strike(self, candidates: list[str]) -> None:
        if not candidates:
            return
        pid = self._replay.pids[self._draw.choice(candidates)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._struck.add(pid)
            self._left -= 1

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError), self._log.open() as log:
            log.seek(self._position)
            text = log.read()
            whole = text[: text.rfind("\n") + 1]
            self._position += len(whole.encode())
            self._replay.follow(map(json.loads, whole.splitlines()))
