"""What a user says of the cluster, and what a node says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.cluster.node import (
    device_environment,
    node_name,
    parse_time_s,
    why_not_shared,
)
from snakemake_executor_gpupool.hosts.cluster.options import ClusterOptions, parse_nodes
from snakemake_executor_gpupool.hosts.cluster.slurm import (
    allocated_nodes,
    gpus_in,
    srun,
    step_environment,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("05:30", 330),
        ("1:00:00", 3600),
        ("2-00", 172800),
        ("1-02:00:01", 93601),
        ("0:00", 0),
    ],
)
def test_times_of_batch_systems(text: str, seconds: int) -> None:
    assert parse_time_s(text) == seconds


@pytest.mark.parametrize("text", ["", "UNLIMITED", "1:2:3:4", "soon", "1-"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError):
        parse_time_s(text)


@pytest.mark.parametrize("text", ["", "2:1", "0", "0:0", "a:b", "-1:2", "1:2:3"])
def test_no_number_of_nodes(text: str) -> None:  # S9
    with pytest.raises(ConfigError, match="MIN:MAX"):
        parse_nodes(text)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (ClusterOptions("sturm"), "expected one of allocation, slurm"),
        (ClusterOptions("slurm"), "needs --gpupool-nodes"),
        (ClusterOptions("slurm", 0, 2, walltime="soon"), "--gpupool-walltime"),
        (ClusterOptions("tcp://host:8786"), "anybody on the network could run code as you"),
        (ClusterOptions("tls://host:8786"), "--gpupool-tls-ca"),
    ],
)
def test_misuse_is_said_in_words(options: ClusterOptions, problem: str) -> None:  # S9
    with pytest.raises(ConfigError, match=problem):
        options.check()


def test_outside_of_an_allocation() -> None:  # S9
    with pytest.raises(ConfigError, match="salloc"):
        allocated_nodes({})


def test_steps_inherit_no_share_of_the_allocation() -> None:
    command = srun("n1", gpus=2)
    assert command[command.index("-n") + 1] == "1"
    assert {"--overlap", "--kill-on-bad-exit=0", "--gres=gpu:2"} <= set(command)
    assert not any("gres" in option for option in srun("n1", gpus=0))
    kept = {"SLURM_JOB_ID": "1", "SLURM_CONF": "x", "PATH": "y", "SLURM_JOB_NODELIST": "n1"}
    narrow = {"SLURM_GPUS_PER_TASK": "1", "SLURM_NTASKS": "4", "SRUN_CPUS_PER_TASK": "2"}
    assert step_environment({**kept, **narrow}) == kept


def test_cards_of_a_node() -> None:
    assert gpus_in("gpu:2(IDX:0-1)") == 2
    assert gpus_in("gpu:a100:1(IDX:0),gpu:v100:3(IDX:1-3),shard:4(0/4)") == 4
    assert gpus_in("") == 0


def test_a_node_is_called_as_the_batch_system_calls_it() -> None:
    assert node_name({"SLURMD_NODENAME": "n1"}) == "n1"
    assert "." not in node_name({})


def test_a_job_without_cards_has_none() -> None:  # D2 D3
    assert device_environment({"SLURM_JOB_ID": "1"})["CUDA_VISIBLE_DEVICES"] == ""
    given = {"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "3"}
    assert device_environment(given)["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in device_environment({})


def test_slurm_masks_simulated_cards_too() -> None:  # D2 D14
    env = {"SLURM_JOB_ID": "1", "GPUPOOL_SIMULATE": "4x16GiB", "CUDA_VISIBLE_DEVICES": "1,3"}
    found = probe(device_environment(env)).devices
    assert [(device.name, device.visible_id) for device in found] == [
        ("cuda:0", "1"),
        ("cuda:1", "3"),
    ]
    assert probe(device_environment({**env, "CUDA_VISIBLE_DEVICES": ""})).devices == ()


def test_the_same_simulated_number_in_two_machines_is_two_cards() -> None:  # D13
    env = {"GPUPOOL_SIMULATE": "1"}
    (card,) = probe(env).devices
    assert card.on("n1").uuid != card.on("n2").uuid
    assert card.on("n1").name == "n1/cuda:0" and card.on("n1").local_name == "cuda:0"


def test_a_shared_directory_is_seen_from_both_sides(tmp_path: Path) -> None:
    probe_file = tmp_path / "node-n1.probe"
    problem = why_not_shared(str(probe_file), "token", str(tmp_path), wait_s=0.0)
    assert problem is not None and "No such file" in problem
    probe_file.write_text("another run's")
    assert why_not_shared(str(probe_file), "token", str(tmp_path), wait_s=0.0) is not None
    probe_file.write_text("token")
    assert why_not_shared(str(probe_file), "token", str(tmp_path), wait_s=0.0) is None
    assert (tmp_path / "node-n1.token").read_text() == "token"
