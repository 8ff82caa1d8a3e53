"""The workers of a Dask cluster that runs already, on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.cluster.security import Credentials
from tests.acceptance.running import TOOLS, Workflow
from tests.acceptance.test_environments import OWN, WITH_CONDA, expected, make_environment
from tests.acceptance.test_faults import eventually

SNAKEFILE = """
rule all:
    input: expand("out/{i}.up", i=range(4)), "own.txt", "gpu.txt", "cpu.txt"

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule own:
    input: "words.txt"
    output: "own.txt"
    conda: config["prefix"]
    resources: gpupool_tool="script"
    script: "environs.py"

rule gpu:
    output: "gpu.txt"
    resources: gpu=2
    shell: "echo $CUDA_VISIBLE_DEVICES $NODE > {output}"

rule cpu:
    output: "cpu.txt"
    shell: "echo $NODE > {output}"
"""


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[tuple[str, Credentials]]:
    """A scheduler and a worker, as an administrator would start them."""
    credentials = Credentials(tmp_path / "tls")
    files = {"ca-file": credentials.certificate, "cert": credentials.certificate}
    tls = [f"--tls-{name}={path}" for name, path in {**files, "key": credentials.key}.items()]
    common = ["--host", "127.0.0.1", "--no-dashboard", *tls]
    address_file = tmp_path / "scheduler.json"
    workflow = Workflow(tmp_path, SNAKEFILE)
    environment = workflow.environment(GPUPOOL_SIMULATE="2x16GiB", NODE="theirs", **WITH_CONDA)
    environment["CUDA_VISIBLE_DEVICES"] = "0,1"
    commands = [
        ["scheduler", "--port", "0", "--protocol", "tls", "--scheduler-file", str(address_file)],
        ["worker", "--scheduler-file", str(address_file), "--resources", "gpupool-cores=2"],
    ]
    processes = []
    with (tmp_path / "dask.log").open("wb") as log:
        for command in commands:
            line = [sys.executable, "-m", f"distributed.cli.dask_{command[0]}", *command[1:]]
            processes.append(
                subprocess.Popen([*line, *common], env=environment, stdout=log, stderr=log)
            )
            assert eventually(address_file.exists, 30), (tmp_path / "dask.log").read_text()
    address = address_file.read_text().split('"address": "')[1].split('"')[0]
    yield address, credentials
    for process in reversed(processes):
        process.terminate()
        process.wait(20)


def test_all_kinds_of_rules(tmp_path: Path, dask: tuple[str, Credentials]) -> None:  # S5 S6 S7 D2
    address, credentials = dask
    files = {f"in/{i}.txt": f"line {i}\n" for i in range(4)}
    files["words.txt"] = "alpha\nbeta\n"
    files["environs.py"] = (TOOLS / "environs.py").read_text()
    workflow = Workflow(tmp_path, SNAKEFILE, files)
    prefix = tmp_path / f"py{OWN}"
    make_environment(sys.executable, prefix)
    run = workflow.run(
        *("--gpupool-cluster", address, "--gpupool-tls-ca", credentials.certificate),
        *("--gpupool-tls-cert", credentials.certificate, "--gpupool-tls-key", credentials.key),
        *("--gpupool-cpu-rules", "cluster", "--gpupool-interface", "lo", "--latency-wait", "3"),
        *("--sdm", "conda", "--config", f"prefix={prefix}"),
        NODE="ours",
        **WITH_CONDA,
    )
    assert run.code == 0, run.text + (tmp_path / "dask.log").read_text()[-3000:]
    assert [run.read(f"out/{i}.up") for i in range(4)] == [f"LINE {i}.plain\n" for i in range(4)]
    assert run.read("own.txt") == expected(OWN), "the worker is in the rule's own environment"
    assert run.read("gpu.txt") == "0,1 theirs\n"
    assert run.read("cpu.txt") == "theirs\n"
    again = workflow.run(
        *("--forceall", "--gpupool-cluster", address.replace("tls://", "tcp://")),
        *("--config", f"prefix={prefix}"),
    )
    assert again.code != 0 and "anybody on the network could run code as you" in again.text
