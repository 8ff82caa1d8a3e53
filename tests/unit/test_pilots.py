"""The job scripts that pilots are submitted with, one for each batch system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dask_jobqueue", reason="the extra [cluster] is not installed")

import dask_jobqueue

from snakemake_executor_gpupool.hosts.cluster.options import BATCH_SYSTEMS, ClusterOptions
from snakemake_executor_gpupool.hosts.cluster.pilots import job_arguments


def script(way: str, logs: Path, *pilot_options: str, card: str = "", **options: Any) -> list[str]:
    """The lines of a job script."""
    size: dict[str, Any] = {"gpus_per_node": 4, "cores_per_node": 16, "memory_per_node": "64GiB"}
    named = {"partition": "gpu", "account": "mine", "walltime": "04:00:00"}
    asked = ClusterOptions(way, 0, 2, pilot_options=pilot_options, **{**size, **named, **options})
    kind = getattr(dask_jobqueue, BATCH_SYSTEMS[way]).job_cls
    job = kind(scheduler="tls://10.0.0.1:8786", name="x", **job_arguments(asked, logs, card))
    return [line.strip() for line in job.job_script().splitlines()]


@pytest.mark.parametrize(
    ("way", "lines"),
    [
        (
            "slurm",
            ["#SBATCH --gres=gpu:4", "#SBATCH -p gpu", "#SBATCH -A mine", "#SBATCH --mem=64G"],
        ),
        ("pbs", ["#PBS -l select=1:ncpus=16:mem=65536mb:ngpus=4", "#PBS -l walltime=04:00:00"]),
        ("lsf", ["#BSUB -gpu num=4", "#BSUB -q gpu", '#BSUB -P "mine"', "#BSUB -n 16"]),
        ("sge", ["#$ -q gpu", "#$ -P mine", "#$ -l h_rt=04:00:00"]),
        ("htcondor", ["request_gpus = 4", "RequestCpus = MY.DaskWorkerCores"]),
    ],
)
def test_pilots_ask_for_what_the_options_say(way: str, lines: list[str], tmp_path: Path) -> None:
    written = script(way, tmp_path)
    assert set(lines) <= set(written), written
    started = [line for line in written if "gpupool.hosts.cluster.worker_main" in line]
    assert len(started) == 1 and sys.executable in started[0]


@pytest.mark.parametrize(
    ("way", "option", "line", "instead_of"),
    [
        ("slurm", "--constraint=a100", "#SBATCH --constraint=a100", ""),
        ("pbs", "-l select=1:ngpus=8", "#PBS -l select=1:ngpus=8", "ncpus"),
        ("lsf", "-gpu num=2:mode=shared", "#BSUB -gpu num=2:mode=shared", "num=4"),
        ("sge", "-l gpu=4", "#$ -l gpu=4", ""),
        ("htcondor", "request_gpus = 2", "request_gpus = 2", "request_gpus = 4"),
    ],
)
def test_the_users_own_options_win(
    way: str, option: str, line: str, instead_of: str, tmp_path: Path
) -> None:
    written = script(way, tmp_path, option)
    assert line in written, written
    assert not instead_of or not any(instead_of in text for text in written), written


@pytest.mark.parametrize("way", list(BATCH_SYSTEMS))
def test_pilots_without_a_gpu_ask_for_none(way: str, tmp_path: Path) -> None:
    written = script(way, tmp_path, gpus_per_node=0)
    assert not any(word in line for line in written for word in ("gres", "ngpus", "-gpu", "_gpus"))
