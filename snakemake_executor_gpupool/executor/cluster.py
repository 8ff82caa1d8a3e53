"""The options of a cluster, from Snakemake's settings to the machines that they bring up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.config import Machines
from snakemake_executor_gpupool.devices.environment import DeviceSettings
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.host import Host
from snakemake_executor_gpupool.paths import RunPaths


def bring_up(
    workflow: Any, device_settings: DeviceSettings, logger: Any
) -> tuple[tuple[RunPaths, Host], Machines]:
    """Bring the cluster up that the settings ask for.

    Raises
    ------
    ConfigError
        It cannot be brought up; the message says what to do.
    """
    try:
        import dask  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--gpupool-cluster needs Dask, and {error.name} is not installed: install "
            "snakemake-executor-plugin-gpupool[cluster]"
        ) from error
    from snakemake_executor_gpupool.cluster.start import Surroundings, start_cluster

    options = cluster_options(workflow.executor_settings)
    around = Surroundings(
        run_root=Path(workflow.persistence.path) / "gpupool",
        managed=device_settings.managed,
        latency_wait_s=workflow.execution_settings.latency_wait,
        say=lambda line: logger.warning(f"gpupool: {line}"),
    )
    cluster = start_cluster(options, around)
    nodes = options.most_nodes or len({device.host for device in cluster.devices})
    machines = Machines(cluster.devices, (), cluster.expected, nodes)
    return (cluster.paths, cluster.host), machines


def cluster_options(settings: Any) -> Any:
    """Return the cluster's options out of all of the executor's.

    Raises
    ------
    ConfigError
        One is malformed.
    """
    from snakemake_executor_gpupool.cluster.options import ClusterOptions, parse_nodes

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
    )
