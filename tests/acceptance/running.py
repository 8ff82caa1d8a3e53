"""Runs the real ``snakemake`` on a small workflow in a directory of its own."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.forked import forks, is_plain

TOOLS = Path(__file__).resolve().parent.parent / "tools"
GPUPOOL = ("--executor", "gpupool", "--jobs", "unlimited", "--max-jobs-per-timespan", "10000/1s")
LOCAL = ("--executor", "local", "--cores", "2")


@functools.cache
def _room() -> tempfile.TemporaryDirectory[str]:
    """A directory of this process, removed with it."""
    return tempfile.TemporaryDirectory(prefix="gpupool-tests-")


def own_locks() -> str:
    """A directory for the locks of simulated cards, made as a site would make it."""
    directory = Path(_room().name) / "locks"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    return str(directory)


def site_packages(place: Path, **modules: str) -> Path:
    """A directory of installed packages: modules, by name what each is."""
    site = place / "lib/site-packages"
    site.mkdir(parents=True)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)
    return site


@dataclass
class Finished:
    """What a run left behind."""

    directory: Path
    code: int
    text: str

    @property
    def summary(self) -> dict[str, Any]:
        """The newest run's ``summary.json``."""
        path = self.directory / ".snakemake/gpupool/latest/summary.json"
        return json.loads(path.read_text())

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The newest run's events, all or of one kind."""
        path = self.directory / ".snakemake/gpupool/latest/events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        return [event for event in events if kind in (None, event["event"])]

    def nodes_of_processes(self) -> dict[str, str]:
        """The node that each process of the newest run was on."""
        return {event["worker"]: event["node"] for event in self.events("worker_started")}

    def written_elsewhere(self) -> list[int]:
        """The served jobs whose outputs were not written where most of them was computed.

        For jobs that share no items, each of whose items is a micro-batch.
        """
        node_of = self.nodes_of_processes()
        worker_of = {event["batch"]: event["worker"] for event in self.events("batch_done")}
        tokens: dict[int, dict[str, int]] = {}
        for event in self.events("batch_sent"):
            (job_id,) = event["jobs"]
            node, counts = node_of[worker_of[event["batch"]]], tokens.setdefault(job_id, {})
            counts[node] = counts.get(node, 0) + event["tokens"]
        written = {e["job_id"]: node_of[e["worker"]] for e in self.events("write_sent")}
        assert set(written) == set(tokens)
        return [
            job_id
            for job_id, node in written.items()
            if tokens[job_id].get(node, 0) < max(tokens[job_id].values())
        ]

    def read(self, path: str) -> str:
        """A file's text."""
        return (self.directory / path).read_text()


class Workflow:
    """A Snakefile, its files, and runs of it."""

    def __init__(
        self, directory: Path, snakefile: str, files: dict[str, str] | None = None
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "Snakefile").write_text(textwrap.dedent(snakefile))
        shutil.copy(TOOLS / "textual.py", directory)
        for name, text in (files or {}).items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a run."""
        return [sys.executable, "-m", "snakemake", *arguments]

    def environment(self, **extra: str) -> dict[str, str]:
        """The environment of a run: this one's, without a GPU unless ``extra`` simulates some."""
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "GPUPOOL_OFFLINE": "1"}
        environment["GPUPOOL_PROFILE"] = str(self.directory / ".snakemake" / "profile.json")
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        if "GPUPOOL_SIMULATE" in extra:  # tests that run beside this one have cards of their own
            environment["GPUPOOL_LOCK_DIR"] = own_locks()
        return {**environment, "PATH": path, **extra}

    def run(self, *arguments: str, timeout_s: float = 120, **env: str) -> Finished:
        """Run to the end under gpupool, or under what ``arguments`` say."""
        executor = () if "--executor" in arguments else GPUPOOL
        command, variables = self.command(*executor, *arguments), self.environment(**env)
        if command[:3] == [sys.executable, "-m", "snakemake"] and is_plain(variables):
            code, text = forks().run(command[3:], self.directory, variables, timeout_s)
            return Finished(self.directory, code, text)
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Finished(self.directory, done.returncode, done.stdout + done.stderr)

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a run without waiting for it."""
        executor = () if "--executor" in arguments else GPUPOOL
        return subprocess.Popen(
            self.command(*executor, *arguments),
            cwd=self.directory,
            env=self.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A test run that was itself started in the background ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
