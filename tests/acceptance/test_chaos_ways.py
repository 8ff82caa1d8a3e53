"""Processes of every kind are killed while jobs take every way there is (W4 W7 S7 S10).

The workflows are those of the isolation stress: served, merged, grouped, alone on a card, plain,
piped, beside a service, nested and local jobs. Whatever a killed process was to a run, the run
comes to an end, no card is seen by two jobs at once, nothing that it started is left, and a run
after it completes all outputs. A failing seed is run again with ``-k 'seed_7 and' -m ''``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.running import Finished, Workflow
from tests.acceptance.test_isolation_stress import (
    MARKING,
    MARKS,
    NESTED,
    Maker,
    not_granted,
    seen_twice,
)

OPTIONS = ("--cores", "8", "--keep-going", "--retries", "3")
CARDS = {"GPUPOOL_SIMULATE": "4x80GiB"}


class AnyKiller(threading.Thread):
    """Sends SIGKILL to random descendants of a process: workers, children, shells, scripts.

    Not to the reaper: with it and its coordinator gone, nobody is left to clean up.
    """

    def __init__(self, pid: int, seed: int, kills: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._draw = random.Random(seed)
        self._left = kills
        self._done = threading.Event()
        self.killed: list[str] = []

    def run(self) -> None:
        """Kill until it has killed enough, or the run is over."""
        while self._left and not self._done.wait(self._draw.uniform(0.1, 0.7)):
            with contextlib.suppress(psutil.Error):
                candidates = [p for p in self._root.children(recursive=True) if not is_reaper(p)]
                if candidates:
                    self._strike(self._draw.choice(candidates))

    def stop(self) -> None:
        """Kill nobody any more."""
        self._done.set()
        self.join()

    def _strike(self, victim: psutil.Process) -> None:
        what = " ".join(victim.cmdline())
        victim.send_signal(signal.SIGKILL)
        self.killed.append(what)
        self._left -= 1


def is_reaper(process: psutil.Process) -> bool:
    return any(word.endswith("reaper.py") for word in process.cmdline())


def of_run(directory: Path) -> list[str]:
    """The processes that work in a directory."""
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        if process.pid != os.getpid() and process.info["cwd"] == str(directory):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def look(directory: Path, text: str) -> None:
    """Assert that no card was seen by two jobs at once, nor by one that it was not granted to."""
    seen = directory / "seen.jsonl"
    rows = [json.loads(line) for line in seen.read_text().splitlines()] if seen.exists() else []
    assert seen_twice(rows) == []
    assert not_granted(rows, Finished(directory, 0, text)) == []
    seen.unlink(missing_ok=True)


def survives(directory: Path, seed: int, kills: int) -> None:
    """Run a workflow while somebody kills, look at it, and run it again in peace."""
    maker = Maker(seed)
    files = {"marks.py": MARKS, "nested.py": NESTED}
    files["marking.py"] = MARKING.format(here=str(directory))
    workflow = Workflow(directory, maker.snakefile, files)
    disturbed = workflow.start(*OPTIONS, **CARDS)
    killer = AnyKiller(disturbed.pid, seed, kills)
    killer.start()
    try:
        text, _ = disturbed.communicate(timeout=200)
    finally:
        disturbed.kill()
        killer.stop()
    assert len(killer.killed) >= kills // 2, "it has met too few"
    assert "itself failed" not in text, text
    deadline_s = time.monotonic() + 10
    while of_run(directory) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert of_run(directory) == [], killer.killed
    look(directory, text)
    done = workflow.run(*OPTIONS, "--rerun-incomplete", timeout_s=200, **CARDS)
    assert done.code == 0, (killer.killed, done.text)
    for target in maker.targets:
        assert (directory / target.strip("'")).exists()


def test_one_seed(tmp_path: Path) -> None:  # W4 W7 S7 S10
    survives(tmp_path, 3, kills=10)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(4, 24), ids=lambda seed: f"seed_{seed}")
def test_many_seeds(tmp_path: Path, seed: int) -> None:  # W4 W7 S7 S10
    survives(tmp_path, seed, kills=20)
