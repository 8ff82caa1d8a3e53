"""Runs a workflow on the two nodes, and looks at what goes on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.acceptance.running import GPUPOOL, Finished, Workflow

SNAKEFILE = """
rule all:
    input: expand("out/{i}.up", i=range(JOBS)), PLAIN, TAIL

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    log: "log/{i}.txt"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=SLEEP
    script: "textual.py"

rule tail:
    input: expand("out/{i}.up", i=range(JOBS))
    output: "tail.txt"
    shell: "touch tail.started; until [ -e tail.may_end ]; do sleep 0.1; done; touch {output}"

rule plain:
    output: "plain/{i}.txt"
    resources: gpu=1
    shell: "echo $(printenv SLURMD_NODENAME) $CUDA_VISIBLE_DEVICES > {output}"

use rule plain as there with:
    output: "there.txt"
    resources: device="n2/cuda:1"

rule here:
    output: "here.txt"
    shell: "printenv SLURMD_NODENAME > {output} || echo here > {output}"
"""


@dataclass
class Run:
    """A run that goes on."""

    directory: Path
    process: subprocess.Popen[bytes]
    output: Path

    def finished(self, timeout_s: float = 120) -> Finished:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = 999
        return Finished(self.directory, code, self.output.read_text())


class OnSlurm(Workflow):
    """A workflow of served jobs with four lines each, run on the cluster."""

    def __init__(
        self,
        directory: Path,
        jobs: int = 12,
        sleep_s: float = 0.2,
        plain: int = 0,
        has_tail: bool = False,
    ) -> None:
        text = SNAKEFILE.replace("JOBS", str(jobs)).replace("SLEEP", str(sleep_s))
        text = text.replace("TAIL", '"tail.txt"' if has_tail else "[]")
        others = f'expand("plain/{{i}}.txt", i=range({plain})), "there.txt", "here.txt"'
        text = text.replace("PLAIN", others if plain else "[]")
        # One line fills a micro-batch, so that every device gets many.
        lines = {i: [f"{i}-{n}-".ljust(60, "x") for n in range(4)] for i in range(jobs)}
        files = {f"in/{i}.txt": "\n".join(some) + "\n" for i, some in lines.items()}
        super().__init__(directory, text, files)
        self.jobs = jobs
        self._expected = {
            f"{i}.up": "".join(f"{line.upper()}.plain\n" for line in some)
            for i, some in lines.items()
        }
        self._alloc: list[str] = []

    def allocated(self, *options: str) -> OnSlurm:
        """Run inside an allocation from now on."""
        self._alloc = ["salloc", "--quiet", *options]
        return self

    def command(self, *arguments: str) -> list[str]:
        """The command line of a run."""
        own = ("--gpupool-interface", "lo", "--latency-wait", "3")
        return [*self._alloc, *super().command(*arguments), *own]

    def environment(self, **extra: str) -> dict[str, str]:
        """Two simulated cards a node, masked by what Slurm assigns."""
        environment = super().environment(GPUPOOL_SIMULATE="2x16GiB", **extra)
        del environment["CUDA_VISIBLE_DEVICES"]
        return environment

    @contextlib.contextmanager
    def running(self, *arguments: str, **env: str) -> Iterator[Run]:
        """Have a run go on meanwhile; it does not outlive the block."""
        output = self.directory / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                self.command(*GPUPOOL, *arguments),
                cwd=self.directory,
                env=self.environment(**env),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            yield Run(self.directory, process, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            # An allocation outlives a salloc that was killed.
            for job in self.slurm_jobs():
                subprocess.run(["scancel", job], check=False)

    def events_text(self) -> str:
        """The newest run's events as they are."""
        path = self.directory / ".snakemake/gpupool/latest/events.jsonl"
        return path.read_text() if path.exists() else ""

    def has_event(self, kind: str, count: int = 1) -> bool:
        """Whether the run has got so far."""
        return self.events_text().count(f'"event": "{kind}"') >= count

    def check(self, run: Finished) -> None:
        """Everything is done, and as it would be on one machine without any fault."""
        assert run.code == 0, run.text[-6000:]
        done = {path.name: path.read_text() for path in (self.directory / "out").iterdir()}
        assert done == self._expected
        assert run.summary["jobs_served"] == self.jobs

    def slurm_jobs(self) -> list[str]:
        """The numbers of this run's jobs in Slurm."""
        told = subprocess.run(
            ["squeue", "--noheader", "--format", "%i %Z"],
            capture_output=True,
            text=True,
            check=True,
        )
        jobs = (line.split(maxsplit=1) for line in told.stdout.splitlines())
        return [number for number, directory in jobs if directory == str(self.directory)]

    def in_slurm(self) -> str:
        """What a failed test shows: this run's output, and all jobs as Slurm sees them."""
        told = subprocess.run(
            ["squeue", "--format", "%i %T %M %r %N %Z"], capture_output=True, text=True, check=False
        )
        output = self.directory / "output.txt"
        return f"{output.read_text() if output.exists() else ''}\n{told.stdout}{told.stderr}"

    # -- processes -------------------------------------------------------------------
    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes of this run's directory whose command line has all of these words."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if process.cwd() == str(self.directory) and all(word in line for word in words):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.create_time())

    def coordinators(self) -> list[psutil.Process]:
        """Snakemake itself."""
        found = self.processes("-m snakemake --executor")
        return [process for process in found if process.name() != "salloc"]

    def nannies(self) -> list[psutil.Process]:
        """The processes that look after the Dask workers."""
        found = self.processes("cluster.worker_main", "--death-timeout")
        return [process for process in found if process.name() != "srun"]

    def agents(self) -> list[psutil.Process]:
        """The Dask workers; each is the child of its nanny."""
        return [
            process
            for nanny in self.nannies()
            for process in children(nanny)
            if "spawn_main" in " ".join(command(process))
        ]

    def workers(self) -> list[psutil.Process]:
        """The processes that hold a model."""
        found = self.processes("worker/main.py")
        return [p for p in found if ".files" not in variable(p, "GPUPOOL_WORKER")]


def children(process: psutil.Process) -> list[psutil.Process]:
    """A process's children; none if it is gone."""
    with contextlib.suppress(psutil.Error):
        return list(process.children())
    return []


def command(process: psutil.Process) -> list[str]:
    """A process's command line; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def variable(process: psutil.Process, name: str) -> str:
    """A variable of a process's environment; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return str(process.environ().get(name, ""))
    return ""


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still is more than a number in its parent's hands."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def node_of(process: psutil.Process) -> str:
    """The node that a process runs on."""
    return variable(process, "SLURMD_NODENAME")


def devices_of_events(run: Finished) -> set[str]:
    """The devices that workers were granted."""
    return {device for event in run.events("device_granted") for device in event["devices"]}
