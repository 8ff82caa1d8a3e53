"""From Snakemake's settings to a running cluster."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.devices.card_wish import CardWish
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.checks import is_served_safely
from snakemake_executor_gpupool.frontends.snakemake.needs import (
    CARD_RESOURCES,
    DEVICE_RESOURCES,
    Needs,
    needs_of,
)
from snakemake_executor_gpupool.hosts.base import Host
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.runtime.config import Machines
from snakemake_executor_gpupool.tool_api.mode import DEFAULT_MODE
from snakemake_executor_gpupool.tool_api.reproducible import mode_here


class RunningCluster:
    """A running cluster, as the executor uses it.

    Parameters
    ----------
    cluster
        A :class:`~snakemake_executor_gpupool.hosts.cluster.start.Cluster`.
    cpu_rules
        Whether rules without devices run on the nodes, too.
    """

    def __init__(self, cluster: Any, cpu_rules: bool) -> None:
        self.paths: RunPaths = cluster.paths
        self.host: Host = cluster.host
        self._commands = cluster.host.commands
        self._cpu_rules = cpu_rules

    def place(self, lane_job: Any, node: str) -> None:
        """Choose where a job that is not served runs: at its devices, on any node, or here."""
        environment, threads = lane_job.environment, lane_job.threads
        mode = mode_here()  # as all jobs see it on this machine
        shown = {} if mode == DEFAULT_MODE else mode.variables()
        if node:
            there = {**shown, **environment}
            limit_s = lane_job.limit_s
            lane_job.elsewhere = lambda command: self._commands.run(
                command, there, node, limit_s=limit_s
            )
        elif self._cpu_rules and not environment and not lane_job.job.is_local:
            from snakemake_executor_gpupool.frontends.snakemake.node_shell import is_plain

            def run(command: Any) -> int | None:
                hidden = {**shown, **visible_env(())}
                code: int | None = self._commands.run(command, hidden, threads=threads)
                return code

            lane_job.elsewhere = run
            lane_job.shell_elsewhere = run if is_plain(lane_job.job) else None
        if lane_job.elsewhere is not None:
            lane_job.threads = lane_job.memory_mb = 0  # of this machine's

    def cancel(self) -> None:
        """Stop waiting for commands on nodes, and start no more; any thread may call."""
        self._commands.cancel()


def bring_up(
    workflow: Any, device_settings: DeviceSettings, logger: Any
) -> tuple[RunningCluster, Machines]:
    """Start the cluster that the settings ask for.

    Raises
    ------
    ConfigError
        It cannot be started; the message says what to do.
    """
    try:
        import dask  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--gpupool-cluster needs Dask, and {error.name} is not installed: install "
            "snakemake-executor-plugin-gpupool[cluster]"
        ) from error
    from snakemake_executor_gpupool.frontends.snakemake.node_shell import wants_snakemake
    from snakemake_executor_gpupool.hosts.cluster.start import RunContext, start_cluster

    wants_snakemake(os.environ)  # a misspelt word is said before anything is started
    options = cluster_options(workflow.executor_settings)
    context = RunContext(
        run_root=Path(workflow.persistence.path) / "gpupool",
        managed=device_settings.managed,
        latency_wait_s=workflow.execution_settings.latency_wait,
        say=lambda line: logger.warning(f"gpupool: {line}"),
        cards=wished_cards(workflow),
    )
    cluster = start_cluster(options, context)
    nodes = options.most_nodes or len({device.host for device in cluster.devices})
    machines = Machines(cluster.devices, (), cluster.expected, nodes)
    return RunningCluster(cluster, options.cpu_rules_on_cluster), machines


def wished_cards(workflow: Any) -> dict[CardWish, str]:
    """Return which cards the jobs that will run want, each with the name of one rule."""
    wishes: dict[CardWish, str] = {}
    seen: set[str] = set()
    for job in workflow.dag.needrun_jobs():
        name = job.rule.name
        # Only functions may give each job of a rule another card.
        asked = (job.rule.resources.get(each) for each in (*DEVICE_RESOURCES, *CARD_RESOURCES))
        varies = any(each is not None and each.is_evaluable() for each in asked)
        if job.is_local or (name in seen and not varies):
            continue
        seen.add(name)
        needs = Needs()
        with contextlib.suppress(Exception):  # checked elsewhere, and once it is known
            needs = needs_of(job)
        if needs.gpus or needs.card or (needs.spec is None and is_served_safely(job)):
            wishes.setdefault(needs.card, name)
    return wishes


def cluster_options(settings: Any) -> Any:
    """Return the cluster's options from the executor's settings.

    Raises
    ------
    ConfigError
        One is malformed.
    """
    from snakemake_executor_gpupool.hosts.cluster.options import ClusterOptions, parse_nodes

    fewest, most = parse_nodes(settings.nodes) if settings.nodes else (0, 0)
    tls = (settings.tls_ca, settings.tls_cert, settings.tls_key)
    options = (settings.pilot_options or "").split(";")
    return ClusterOptions(
        way=settings.cluster,
        fewest_nodes=fewest,
        most_nodes=most,
        partition=settings.partition,
        account=settings.account,
        walltime=settings.walltime,
        gpus_per_node=settings.gpus_per_node,
        cores_per_node=settings.cores_per_node,
        memory_per_node=settings.memory_per_node,
        pilot_options=tuple(option.strip() for option in options if option.strip()),
        interface=settings.interface,
        tls=None if None in tls else tls,
        link_timeout_s=settings.link_timeout,
        cpu_rules_on_cluster=settings.cpu_rules == "cluster",
    )
