"""The user's cluster options: one frozen value, checked before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.cluster.node import parse_time_s

ALLOCATION = "allocation"
SLURM = "slurm"
#: Batch systems that pilots can be submitted to, with dask-jobqueue's class for each.
BATCH_SYSTEMS = {
    SLURM: "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
}


@dataclass(frozen=True)
class ClusterOptions:
    """How the run gets its nodes, and how it talks to them.

    Attributes
    ----------
    way
        ``"allocation"``, the name of a batch system, or the address of a Dask scheduler.
    fewest_nodes, most_nodes
        Bounds of the number of pilots; both 0: as many nodes as the allocation has.
    gpus_per_node
        GPUs of one pilot.
    pilot_options
        Further lines for the batch system, one option each.
    interface
        The network interface to listen on; empty: the one that leads to the nodes.
    tls
        Files of the certificate authority, certificate and key for a Dask scheduler that runs
        already.
    link_timeout_s
        A node counts as lost when nothing was heard from it for so long.
    cpu_rules_on_cluster
        Whether rules without devices run on the nodes, too.
    """

    way: str
    fewest_nodes: int = 0
    most_nodes: int = 0
    partition: str | None = None
    account: str | None = None
    walltime: str | None = None
    gpus_per_node: int = 1
    cores_per_node: int = 4
    memory_per_node: str = "16GiB"
    pilot_options: tuple[str, ...] = ()
    interface: str | None = None
    tls: tuple[str, str, str] | None = None
    link_timeout_s: float = 60.0
    cpu_rules_on_cluster: bool = False

    @property
    def is_pilots(self) -> bool:
        """Whether nodes are asked for as they are needed."""
        return self.way in BATCH_SYSTEMS

    @property
    def is_running_dask(self) -> bool:
        """Whether the nodes are those of a Dask cluster that runs already."""
        return "://" in self.way

    @property
    def walltime_s(self) -> float | None:
        """How long a pilot lives."""
        return None if self.walltime is None else parse_time_s(self.walltime)

    def check(self) -> None:
        """Raise :class:`ConfigError` for options that contradict each other or are malformed."""
        if self.is_running_dask:
            self._check_dask()
        elif self.way != ALLOCATION and not self.is_pilots:
            ways = ", ".join([ALLOCATION, *BATCH_SYSTEMS])
            raise ConfigError(
                f"--gpupool-cluster {self.way}: expected one of {ways}, or the address of a "
                "running Dask scheduler (tls://host:port)"
            )
        if self.is_pilots and self.most_nodes < 1:
            raise ConfigError(
                f"--gpupool-cluster {self.way} needs --gpupool-nodes MIN:MAX: how many pilots "
                "there may be"
            )
        if self.walltime is not None:
            try:
                parse_time_s(self.walltime)
            except ValueError as error:
                raise ConfigError(
                    f"--gpupool-walltime: {error}; write hours:minutes:seconds"
                ) from (None)

    def _check_dask(self) -> None:
        if not self.way.startswith("tls://"):
            raise ConfigError(
                f"--gpupool-cluster {self.way}: without TLS anybody on the network could run code "
                "as you; start the Dask scheduler with --tls-ca-file, --tls-cert and --tls-key "
                "and give its tls:// address"
            )
        if self.tls is None:
            raise ConfigError(
                f"--gpupool-cluster {self.way} needs --gpupool-tls-ca, --gpupool-tls-cert and "
                "--gpupool-tls-key: the files that the Dask scheduler was started with"
            )


def parse_nodes(text: str) -> tuple[int, int]:
    """Read ``MIN:MAX``, or one number for both.

    Raises
    ------
    ConfigError
        The text is neither.

    Examples
    --------
    >>> parse_nodes("0:4"), parse_nodes("2")
    ((0, 4), (2, 2))
    """
    match = re.fullmatch(r"\s*(\d{1,5})\s*(?::\s*(\d{1,5})\s*)?", text)
    if match:
        fewest, most = int(match[1]), int(match[2] or match[1])
        if 0 <= fewest <= most and most >= 1:
            return fewest, most
    raise ConfigError(f"--gpupool-nodes {text}: write MIN:MAX, as in 0:4, or one number")
