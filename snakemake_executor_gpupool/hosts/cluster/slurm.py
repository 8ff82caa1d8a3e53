"""The Slurm allocation that a run is in: its nodes, what each has, and steps on them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from snakemake_executor_gpupool.errors import ConfigError

#: A job's part on some nodes, as ``scontrol show job --details`` tells it.
_PART = re.compile(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)")
#: Cards in such a part: ``gpu:2(IDX:0-1)``, ``gpu:a100:1(IDX:3)``.
_CARDS = re.compile(r"\bgpu(?::[^:(,]+)?:(\d+)\(")
#: What ``salloc`` leaves in the environment is a default for every step: made for all of the
#: allocation's tasks, it would narrow ours, or be refused.
_STEP_DEFAULTS = re.compile(
    r"S(LURM|RUN)_(GPUS|GPUS_PER_(NODE|TASK|SOCKET)|GPU_BIND|CPUS_PER_(TASK|GPU)|NTASKS|NPROCS|"
    r"NTASKS_PER_(NODE|GPU|SOCKET|CORE)|TRES_PER_TASK|TRES_BIND|MEM_PER_(CPU|GPU|NODE)|"
    r"DISTRIBUTION|CPU_BIND|EXACT|OVERCOMMIT)"
)


def allocated_nodes(env: Mapping[str, str]) -> list[str]:
    """Return the nodes of the Slurm allocation that this process is in.

    Raises
    ------
    ConfigError
        It is in none, or Slurm does not tell.
    """
    names = env.get("SLURM_JOB_NODELIST")
    if not names:
        raise ConfigError(
            "--gpupool-cluster allocation: this is no Slurm allocation (SLURM_JOB_NODELIST is not "
            "set). Start Snakemake inside one, as in "
            "`salloc --nodes=2 --gres=gpu:2 snakemake ...`, or use --gpupool-cluster slurm, which "
            "submits pilots of its own"
        )
    return _host_names(names)


def gpus_of_nodes(env: Mapping[str, str]) -> dict[str, int]:
    """Return how many GPUs the allocation has on each of its nodes, as far as Slurm tells."""
    try:
        details = _scontrol("job", "--details", env.get("SLURM_JOB_ID", ""))
    except ConfigError:
        return {}
    parts = [(nodes, gpus_in(gres)) for nodes, gres in _PART.findall(details)]
    return {node: gpus for nodes, gpus in parts if gpus for node in _host_names(nodes)}


def gpus_in(gres: str) -> int:
    """Return how many GPUs a list of generic resources has.

    Examples
    --------
    >>> gpus_in("gpu:2(IDX:0-1)"), gpus_in("gpu:a100:1(IDX:0),gpu:v100:3(IDX:1-3),shard:4(0/4)")
    (2, 4)
    """
    return sum(map(int, _CARDS.findall(gres)))


def _host_names(names: str) -> list[str]:
    return _scontrol("hostnames", names).split()


def _scontrol(*what: str) -> str:
    try:
        answer = subprocess.run(
            ["scontrol", "show", *what],  # noqa: S607 - the site's own
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"scontrol does not tell of {' '.join(what)}: {error}") from error
    return answer.stdout


def srun(node: str, gpus: int) -> list[str]:
    """Return the command that starts something on one node of the allocation.

    One step a node, so that one that ends takes no other along. ``-n`` is always given, and so
    are the node's GPUs, since a step's own share of them depends on how the allocation asked;
    ``--overlap``, since other steps may hold the same ones meanwhile.
    """
    options = ["--overlap", "--nodes=1", "-n", "1", "--nodelist", node, "--cpu-bind=none"]
    cards = [f"--gres=gpu:{gpus}"] if gpus else []
    return ["srun", *options, *cards, "--kill-on-bad-exit=0", "--unbuffered", "--input=none"]


def step_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment to start a step with, which asks for all that the node has."""
    return {name: value for name, value in env.items() if not _STEP_DEFAULTS.fullmatch(name)}
