"""Where nodes come from: the current allocation, pilot jobs, or a running Dask cluster."""

from __future__ import annotations

import abc
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.hosts.cluster.slurm import (
    allocated_nodes,
    gpus_of_nodes,
    srun,
    step_environment,
)

if TYPE_CHECKING:
    from snakemake_executor_gpupool.hosts.cluster.security import Credentials

#: How many times an agent that ended is started again.
MAX_RESTARTS = 3
#: Pause before that.
RESTART_S = 2.0
#: How long agents may take to end by themselves once their scheduler has gone.
GRACE_S = 5.0

WORKER = "snakemake_executor_gpupool.hosts.cluster.worker_main"


class Launcher(abc.ABC):
    """Gets nodes and keeps them.

    Attributes
    ----------
    nodes
        How many there will be at the start.
    """

    nodes: int

    @property
    @abc.abstractmethod
    def has_hope(self) -> bool:
        """Whether nodes may still come, or come back."""

    @abc.abstractmethod
    def look(self, now_s: float) -> None:
        """Poll what was started."""

    @abc.abstractmethod
    def where_to_look(self) -> str:
        """Return where a user finds out why no node came."""

    def start(self, leaving: Callable[[set[str]], None]) -> None:  # noqa: B027
        """Begin to follow the demand; ``leaving`` is called with nodes that are given back."""

    def devices_to_come(self) -> tuple[Device, ...]:
        """Return a sample of the devices that nodes will have, where that is known beforehand."""
        return ()

    def joined(self, node: str, dask_name: str) -> None:  # noqa: B027 - not all care
        """Note that a node has joined."""

    def gone(self, node: str) -> None:  # noqa: B027
        """Note that a node is gone."""

    def wants(self, demand: Demand, commands: int) -> None:  # noqa: B027
        """Note what the pool could use, and how many commands run or wait."""

    def close(self) -> None:  # noqa: B027
        """Start nothing more."""

    def finish(self) -> None:  # noqa: B027
        """Wait for what was started to end; its scheduler has gone."""


class RunningDask(Launcher):
    """A Dask cluster that somebody else started and will end."""

    has_hope = True

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def look(self, now_s: float) -> None:
        """Do nothing: the workers are not ours."""

    def where_to_look(self) -> str:
        """Return where a user finds out why no node came."""
        return "check that the Dask cluster has workers, and that gpupool is installed there"


@dataclass(eq=False)
class _Step:
    """One node's ``srun``."""

    node: str
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    start_s: float = 0.0


class Allocation(Launcher):
    """The Slurm allocation that Snakemake was started in: one step and one agent per node.

    Parameters
    ----------
    scheduler
        Address of the Dask scheduler.
    credentials
        The run's.
    logs
        Directory for what agents print.
    env
        The environment.
    watch, forget
        Called with a process group that must be killed if this process is, and at its end.

    Raises
    ------
    ConfigError
        Snakemake does not run inside an allocation.
    """

    def __init__(
        self,
        scheduler: str,
        credentials: Credentials,
        logs: Path,
        env: Mapping[str, str],
        watch: Callable[[int], None],
        forget: Callable[[int], None],
    ) -> None:
        self._scheduler = scheduler
        self._credentials = credentials
        self._logs = logs
        self._env = dict(env)
        self._watch = watch
        self._forget = forget
        logs.mkdir(mode=0o700, exist_ok=True)
        self._steps = [_Step(node) for node in allocated_nodes(env)]
        self._gpus = gpus_of_nodes(env)
        self.nodes = len(self._steps)
        for step in self._steps:
            self._start(step)

    def _start(self, step: _Step) -> None:
        with (self._logs / f"{step.node}.log").open("ab") as log:
            step.process = subprocess.Popen(
                [*self._srun(step.node), *worker_command(self._scheduler, self._credentials)],
                env=step_environment(self._env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watch(step.process.pid)

    def _srun(self, node: str) -> list[str]:
        return srun(node, self._gpus.get(node, 0))

    @property
    def has_hope(self) -> bool:
        """Whether any step runs or will be started again."""
        return any(step.process or step.restarts < MAX_RESTARTS for step in self._steps)

    def look(self, now_s: float) -> None:
        """Restart agents that have ended."""
        for step in self._steps:
            if step.process is not None and step.process.poll() is not None:
                self._forget(step.process.pid)
                step.process, step.start_s = None, now_s + RESTART_S
            may_start = step.restarts < MAX_RESTARTS and now_s >= step.start_s
            if step.process is None and may_start:
                step.restarts += 1
                self._start(step)

    def where_to_look(self) -> str:
        """Return where a user finds out why no node came."""
        said = [path.read_text(errors="replace").split("\n") for path in self._logs.glob("*.log")]
        last = [line for lines in said for line in lines if line.startswith("gpupool:")][-1:]
        return "; ".join([*last, f"what the agents printed is in {self._logs}"])

    def close(self) -> None:
        """Start nothing more."""
        for step in self._steps:
            step.restarts = MAX_RESTARTS

    def finish(self) -> None:
        """Wait for the steps to end with their agents; end those that do not."""
        running = [step.process for step in self._steps if step.process is not None]
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            for process in running:
                if number and process.poll() is None:
                    process.send_signal(number)
            for process in running:
                try:
                    process.wait(timeout=GRACE_S / len(running))
                except subprocess.TimeoutExpired:
                    continue
        for process in running:
            self._forget(process.pid)


def worker_command(scheduler: str, credentials: Credentials) -> list[str]:
    """Return the command that runs an agent."""
    files = {
        "ca-file": credentials.certificate,
        "cert": credentials.certificate,
        "key": credentials.key,
    }
    tls = [text for name, path in files.items() for text in (f"--tls-{name}", path)]
    return [sys.executable, "-m", WORKER, scheduler, "--death-timeout", "60", *tls]
