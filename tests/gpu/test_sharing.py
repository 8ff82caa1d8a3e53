"""Runs beside each other on a real card, and runs that are killed. Skipped where there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from snakemake_executor_gpupool.devices.probe import memory_used_mib, probe
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.acceptance.running import GPUPOOL, Workflow
from tests.gpu.test_real_gpu import PROTEINS, WHY_NOT
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is a GPU")

#: What a card may hold afterwards beyond what it held before, by measurement.
NOISE_MIB = 256
#: Within this time a killed run's workers are gone.
GONE_S = 30.0

SNAKEFILE = """
rule all:
    input: expand("{{n}}.npz", n=range(8))

rule embed:
    input: "in.fasta"
    output: "{{n}}.npz"
    resources: gpupool_tool="esm2-embed", device="cuda:0"
    params: model="{checkpoint}", layers=lambda wildcards: [int(wildcards.n) % 7]
    shell: "gpupool run esm2-embed"

rule alone:
    output: "alone.txt"
    resources: gpu=1
    shell: "nvidia-smi -L > {{output}}; sleep 2"
"""


def printed_by(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def workflow(directory: Path, checkpoint: str) -> Workflow:
    fasta = "".join(f">{record.id}\n{record.sequence}\n" for record in PROTEINS)
    return Workflow(directory, SNAKEFILE.format(checkpoint=checkpoint), {"in.fasta": fasta})


def start(run: Workflow, *arguments: str) -> subprocess.Popen[str]:
    environment = run.environment()
    del environment["CUDA_VISIBLE_DEVICES"]
    return subprocess.Popen(
        run.command(*GPUPOOL, *arguments),
        cwd=run.directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_seeded_checkpoint(str(tmp_path_factory.mktemp("weights")), 6, 320, 20)


def test_devices_are_listed_as_the_driver_has_them() -> None:  # D2
    query = "--query-gpu=uuid,name,memory.total"
    rows = printed_by("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines()
    listed = json.loads(printed_by("gpupool", "devices", "--json"))["devices"]
    cards = [device for device in listed if device["device"].startswith("cuda")]
    ours = [[card["uuid"], card["name"], str(card["memory_total_mib"])] for card in cards]
    assert ours == [row.split(", ") for row in rows]


def test_two_runs_at_once_never_share_the_card(tmp_path: Path, checkpoint: str) -> None:  # D13
    runs = [workflow(tmp_path / name, checkpoint) for name in "ab"]
    processes = [start(runs[0]), start(runs[1], "alone.txt")]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    held = []
    for run in runs:
        path = run.directory / ".snakemake/gpupool/latest/events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()]
        begins = [e["time_s"] for e in events if e["event"] in ("load_sent", "lease_granted")]
        ends = [e["time_s"] for e in events if e["event"] in ("batch_done", "lease_released")]
        held.append((min(begins), max(ends)))
    first, second = sorted(held)
    assert first[1] <= second[0], "both held the card at once"


def test_a_killed_run_frees_the_card(tmp_path: Path, checkpoint: str) -> None:  # D13
    card = probe({}).devices[0]
    before_mib = memory_used_mib(card)
    assert before_mib is not None
    run = workflow(tmp_path, checkpoint)
    process = start(run)
    events = run.directory / ".snakemake/gpupool/latest/events.jsonl"

    def has_loaded() -> bool:
        return events.exists() and "model_loaded" in events.read_text()

    assert eventually(has_loaded, 120.0), process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    def is_free() -> bool:
        used_mib = memory_used_mib(card)
        return used_mib is not None and used_mib <= before_mib + NOISE_MIB

    assert eventually(is_free, GONE_S), f"{memory_used_mib(card)} MiB, {before_mib} before"
    again = start(run, "--rerun-incomplete")
    printed = again.communicate(timeout=240)[0]
    assert again.returncode == 0, printed
