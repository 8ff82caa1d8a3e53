"""How a worker process of this machine is started: from what, with which variables and log."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.kinds import computes_on_cpu
from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.hosts.containers import command_in, require_image, variables_in
from snakemake_executor_gpupool.hosts.early import EarlyProcesses
from snakemake_executor_gpupool.hosts.process import ServedProcess, WorkerProcess
from snakemake_executor_gpupool.hosts.reaper import PROCESS_VARIABLE
from snakemake_executor_gpupool.hosts.surroundings import Surroundings
from snakemake_executor_gpupool.hosts.worker_variables import worker_variables
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.messages_out import serve_tool
from snakemake_executor_gpupool.wire.requests import ToolRef


class Launched(NamedTuple):
    """A process that has been started.

    Attributes
    ----------
    mark
        Its :data:`~.reaper.PROCESS_VARIABLE`.
    first
        The first frame that it is to be sent.
    """

    process: ServedProcess
    mark: str
    first: Frame


class Launcher:
    """Starts the workers of this machine; used by the run loop's thread alone.

    Parameters
    ----------
    paths
        Where logs and large blobs go.
    threads
        How many threads a worker that computes on the CPU may use.
    launch
        Starts a process.
    """

    def __init__(self, paths: RunPaths, threads: int, launch: Callable[..., WorkerProcess]) -> None:
        self._paths, self._threads, self._launch = paths, threads, launch
        #: Returns the variables by which gpupool inside a worker may use the worker's devices.
        self.lend: Callable[[str, Sequence[Device]], dict[str, str]] = lambda worker, devices: {}
        #: Returns what a tool's processes start from; None: from what this one has.
        self.surroundings: Callable[[ToolRef], Surroundings | None] = lambda tool: None
        #: What was started before the run knew what for; None: nothing, nor is it noted.
        self.early: EarlyProcesses | None = None

    def launch(
        self,
        worker_id: str,
        tool: ToolRef,
        devices: tuple[Device, ...],
        *,
        is_ahead: bool = False,
    ) -> Launched:
        """Start a process, or take over one that was started early.

        Raises
        ------
        WorkerStartError
            It could not be started.
        """
        mark = secrets.token_hex(16)
        there = self.surroundings(tool)
        own = own_environment() if there is None else there.variables
        ours = worker_variables(worker_id, tool, devices, self._threads)
        ours |= {**self.lend(worker_id, devices), PROCESS_VARIABLE: mark}
        place: dict[str, Any] = {} if there is None else {"cwd": there.cwd, "umask": there.umask}
        environment, command = {**own, **ours}, tool.activation
        if tool.container is not None:
            environment, command = variables_in(own, ours), command_in(tool, devices)
            place["in_container"] = True
        require_image(tool)
        log = self._paths.worker_log(worker_id)
        told = taken = None
        if self.early is not None and there is None and not (tool.container or tool.more):
            has_model = bool(devices)
            taken = self.early.take(worker_id, tool, environment, log, has_model=has_model)
            told = self.early.told(environment, log)
            # Only on the CPU: a library of a GPU may not be able to take a fork.
            forks = has_model and all(map(computes_on_cpu, devices))
            self.early.started(worker_id, tool, ours, has_model=has_model, forks=forks)
        process, mark = taken or (
            self._launch(worker_id, tool.python, environment, log, command, **place),
            mark,
        )
        spools, is_shared = self._paths.spools, self._paths.is_shared
        first = serve_tool(tool, spools, is_shared=is_shared, early=told, is_ahead=is_ahead)
        return Launched(process, mark, first)
