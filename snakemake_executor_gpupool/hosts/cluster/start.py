"""Starts a cluster for a run: credentials, Dask, nodes, and the host over them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed.security import Security

from snakemake_executor_gpupool.devices.card_wish import CardWish
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.base import WorkerGone
from snakemake_executor_gpupool.hosts.cluster.engine import CLOSE_S, Engine, own_scheduler
from snakemake_executor_gpupool.hosts.cluster.host import ClusterHost, environment_for_nodes
from snakemake_executor_gpupool.hosts.cluster.launch import Allocation, Launcher, RunningDask
from snakemake_executor_gpupool.hosts.cluster.messages import Begin
from snakemake_executor_gpupool.hosts.cluster.options import ALLOCATION, SLURM, ClusterOptions
from snakemake_executor_gpupool.hosts.cluster.pilot_cards import PilotCards, cards_of_slurm
from snakemake_executor_gpupool.hosts.cluster.security import Credentials, tls
from snakemake_executor_gpupool.hosts.cluster.slurm import allocated_nodes
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths

#: How long the nodes of an allocation may take to join.
JOIN_S = 120.0


@dataclass(frozen=True)
class RunContext:
    """What a cluster needs to know of the run.

    Attributes
    ----------
    run_root
        The directory that gets one subdirectory per run.
    managed
        A managed-devices string.
    latency_wait_s
        How long files may take to become visible on other machines.
    say
        Called with a line for the user.
    cards
        Which cards rules want, each with the name of one of them; of rules that take any as well.
    """

    run_root: Path
    managed: str
    latency_wait_s: float
    say: Callable[[str], None]
    cards: Mapping[CardWish, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Attributes
    ----------
    paths
        The run's files.
    host
        The machines, as the pool uses them.
    devices
        Those that have joined.
    expected
        A sample of those that may join later.
    """

    paths: RunPaths
    host: ClusterHost
    devices: tuple[Device, ...]
    expected: tuple[Device, ...]


def start_cluster(options: ClusterOptions, context: RunContext) -> Cluster:
    """Start a cluster.

    Raises
    ------
    ConfigError
        It cannot be started; the message says what to do.
    """
    options.check()
    if options.way == ALLOCATION:
        allocated_nodes(os.environ)  # said before anything is started
    cards = PilotCards()
    if options.way == SLURM:
        cards = cards_of_slurm(context.cards, options.partition, options.pilot_options)
    paths = RunPaths(context.run_root.resolve(), shared=True)
    paths.create()
    paths.point_latest()  # what agents and pilots print is of use if no node joins
    with contextlib.ExitStack() as undo:
        undo.callback(paths.remove_spools)
        local = LocalHost(paths, threads=1)
        undo.callback(local.close, _nobody_cares)
        resources = contextlib.ExitStack()
        undo.push(resources)
        engine, launcher = _start(options, paths, local, resources, context.say, cards)
        begin = _begin(options, context, paths)
        host = ClusterHost(local, engine, launcher, paths, begin, options, context.say, resources)
        undo.callback(host.stop_listening)
        devices: tuple[Device, ...] = ()
        if options.is_pilots:
            launcher.start(host.leaving)
        else:
            devices = host.wait_for_nodes(launcher.nodes, JOIN_S)
        undo.pop_all()
    return Cluster(paths, host, devices, devices or launcher.devices_to_come())


def _start(
    options: ClusterOptions,
    paths: RunPaths,
    local: LocalHost,
    undo: contextlib.ExitStack,
    say: Callable[[str], None],
    cards: PilotCards,
) -> tuple[Engine, Launcher]:
    """Start Dask, and what gets nodes."""
    Engine.configure()
    launcher: Launcher
    if options.is_running_dask:
        assert options.tls is not None
        engine = _engine(options.way, tls(*options.tls), paths.run_id)
        undo.callback(engine.close)
        # Its workers may still be on their way.
        return engine, RunningDask(max(engine.count_workers(), 1))
    credentials = Credentials(paths.directory / "tls")
    undo.callback(credentials.remove)
    security = credentials.security()
    finish = undo.enter_context(contextlib.ExitStack())
    if options.is_pilots:
        # Not before it is needed: dask-jobqueue is an extra of its own at some sites.
        from snakemake_executor_gpupool.hosts.cluster.pilots import Pilots

        launcher = Pilots(options, security, paths.directory / "agents", say, cards)
        undo.callback(launcher.cluster.close, timeout=CLOSE_S)
        engine = _engine(launcher.cluster, security, paths.run_id)
        undo.callback(engine.close)
        return engine, launcher
    own = own_scheduler(options.interface, security)
    undo.callback(own.close, timeout=CLOSE_S)
    engine = _engine(own, security, paths.run_id)
    undo.callback(engine.close)
    launcher = Allocation(
        own.scheduler_address,
        credentials,
        paths.directory / "agents",
        os.environ,
        local.watch,
        local.forget,
    )
    finish.callback(launcher.finish)
    undo.callback(launcher.close)
    return engine, launcher


def _engine(where: Any, security: Security, run_id: str) -> Engine:
    try:
        return Engine(where, security, run_id)
    except (OSError, TypeError) as error:
        raise ConfigError(f"the Dask scheduler cannot be reached: {error}") from error


def _begin(options: ClusterOptions, context: RunContext, paths: RunPaths) -> Begin:
    return Begin(
        run_root=str(paths.root),
        run_id=paths.run_id,
        cwd=str(Path.cwd()),
        probe="",
        token="",
        managed=context.managed,
        silence_s=options.link_timeout_s,
        latency_wait_s=context.latency_wait_s,
        walltime_s=options.walltime_s,
        environment=environment_for_nodes(),
    )


def _nobody_cares(end: WorkerGone) -> None:
    """Nothing was started yet."""
