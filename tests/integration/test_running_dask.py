"""The workers of a Dask cluster that runs already, on this machine."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from snakemake_executor_gpupool.hosts.cluster.security import Credentials
from tests import containers
from tests.acceptance.running import TOOLS, Workflow
from tests.acceptance.test_environments import CONDA, OWN, expected, make_environment
from tests.containers import make_image, make_root, with_apptainer
from tests.waiting import eventually

SNAKEFILE = """
rule all:
    input:
        expand("out/{i}.up", i=range(4)), "own.txt", "gpu.txt", "cpu.txt",
        config.get("contained", [])

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

rule served_inside:
    input: "words.txt"
    output: "served_inside.txt"
    log: "served_inside.log"
    container: "image.sif"
    resources: gpupool_tool="places.py:Places", gpu=1
    script: "places.py"

rule gpu_inside:
    output: "gpu_inside.txt"
    container: "image.sif"
    resources: gpu=1
    shell: "echo $LABEL [$CUDA_VISIBLE_DEVICES] $NODE > {output}"

rule cpu_inside:
    output: "cpu_inside.txt"
    container: "image.sif"
    shell: "echo $LABEL [$CUDA_VISIBLE_DEVICES] $NODE > {output}"
"""
PLACES = '''
import os
from pathlib import Path
from snakemake_executor_gpupool import Tool


class Places(Tool):
    """Says of each word where it was computed."""

    def load(self, device):
        pass

    def read(self, job):
        yield from Path(job.input[0]).read_text().split()

    def run(self, items):
        names = ("LABEL", "CUDA_VISIBLE_DEVICES", "NODE")
        place = " ".join(os.environ.get(name, "none") for name in names)
        return [f"{item} on {place}" for item in items]

    def write(self, job, results):
        print("written by", os.environ["LABEL"])
        Path(job.output[0]).write_text("".join(f"{result}\\n" for result in results))
'''
CONTAINED = [] if containers.why_not() else ["served", "gpu", "cpu"]


#: A job's five lines are a micro-batch each, so that one node computes more of them; a line and
#: its result are small enough to be sent as they are on one machine.
LARGE_RESULTS = """
rule all:
    input: expand("out/{i}.up", i=range(10)), expand("{card}.txt", card=["a100", "rtx4090"])

rule card:
    output: "{card}.txt"
    resources: gpu_model=lambda wildcards: wildcards.card
    shell: "echo $SLURMD_NODENAME > {output}"

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: suffix="x" * 50_000, sleep_s=0.1
    script: "textual.py"
"""
LINE_BYTES = 8_000

#: Rows of short jobs, each model's output the next one's input.
ROWS = """
rule all:
    input: expand("third/{i}.txt", i=range(6))

rule first:
    input: "in/{i}.txt"
    output: "first/{i}.txt"
    params: model="m1"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule second:
    input: "first/{i}.txt"
    output: "second/{i}.txt"
    log: "logs/{i}.txt"
    params: model="m2"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"

rule third:
    input: "second/{i}.txt"
    output: "third/{i}.txt"
    params: model="m3"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"
"""

Dask = tuple[str, Credentials]
SOFTWARE = with_apptainer(str(CONDA.parent))


@contextlib.contextmanager
def running_dask(workflow: Workflow, *nodes: dict[str, str]) -> Iterator[Dask]:
    """A scheduler and workers, as an administrator would start them.

    Parameters
    ----------
    nodes
        The environment of each worker.
    """
    directory = workflow.directory
    credentials = Credentials(directory / "tls")
    files = {"ca-file": credentials.certificate, "cert": credentials.certificate}
    tls = [f"--tls-{name}={path}" for name, path in {**files, "key": credentials.key}.items()]
    common = ["--host", "127.0.0.1", "--no-dashboard", *tls]
    file = directory / "scheduler.json"
    scheduler = ["scheduler", "--port", "0", "--protocol", "tls", "--scheduler-file", str(file)]
    worker = ["worker", "--scheduler-file", str(file), "--resources", "gpupool-cores=2"]
    processes = []
    with (directory / "dask.log").open("wb") as log:
        for command, own in [(scheduler, {}), *((worker, own) for own in nodes)]:
            line = [sys.executable, "-m", f"distributed.cli.dask_{command[0]}", *command[1:]]
            environment = {**workflow.environment(), **own}
            processes.append(
                subprocess.Popen([*line, *common], env=environment, stdout=log, stderr=log)
            )
            assert eventually(file.exists, 30), (directory / "dask.log").read_text()
    try:
        yield file.read_text().split('"address": "')[1].split('"')[0], credentials
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


def options(dask: Dask) -> list[str]:
    """What tells gpupool of a cluster."""
    address, credentials = dask
    certificate, key = credentials.certificate, credentials.key
    return [
        *("--gpupool-cluster", address, "--gpupool-tls-ca", certificate),
        *("--gpupool-tls-cert", certificate, "--gpupool-tls-key", key),
        *("--gpupool-interface", "lo", "--latency-wait", "3"),
    ]


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    """A cluster of one node."""
    node = {"GPUPOOL_SIMULATE": "2x16GiB", "CUDA_VISIBLE_DEVICES": "0,1", "NODE": "theirs"}
    node |= {**SOFTWARE, "STANDIN_LOG": str(tmp_path / "containers.log")}
    with running_dask(Workflow(tmp_path, SNAKEFILE), node) as running:
        yield running


def test_each_node_writes_what_it_computed_and_sends_no_results(tmp_path: Path) -> None:  # W2 D2 K2
    lines = {i: [f"{i}-{n}-".ljust(LINE_BYTES, "y") for n in range(5)] for i in range(10)}
    files = {f"in/{i}.txt": "".join(f"{line}\n" for line in some) for i, some in lines.items()}
    workflow = Workflow(tmp_path, LARGE_RESULTS, files)
    cards = {"n1": "1x16GiB:RTX 4090", "n2": "1x16GiB:A100-PCIE-40GB"}
    nodes = [
        {"GPUPOOL_SIMULATE": card, "CUDA_VISIBLE_DEVICES": "0", "SLURMD_NODENAME": name}
        for name, card in cards.items()
    ]
    with running_dask(workflow, *nodes) as running:
        assert eventually(lambda: both_are_there(tmp_path), 30)
        run = workflow.run(*options(running))
    assert run.code == 0, run.text + (tmp_path / "dask.log").read_text()[-3000:]
    for i, some in lines.items():
        expected = [f"{line.upper()}{'x' * 50_000}.plain" for line in some]
        assert run.read(f"out/{i}.up").splitlines() == expected
    assert (run.read("rtx4090.txt"), run.read("a100.txt")) == ("n1\n", "n2\n")
    computing = {device for event in run.events("device_granted") for device in event["devices"]}
    assert computing == {"n1/cuda:0", "n2/cuda:0"}
    assert run.written_elsewhere() == []
    assert set(run.nodes_of_processes().values()) == {"n1", "n2"}, "none where Snakemake is"
    summary = run.summary
    assert summary["bytes_in_messages"] == 0
    assert summary["bytes_in_files"] >= 50 * (2 * LINE_BYTES + 50_000)


def test_chains_run_on_a_node_and_are_published_from_there(tmp_path: Path) -> None:  # M1 M5 D2
    files = {f"in/{i}.txt": f"word{i}\n" for i in range(6)}
    workflow = Workflow(tmp_path, ROWS, files)
    card = {"GPUPOOL_SIMULATE": "1x16GiB", "CUDA_VISIBLE_DEVICES": "0"}
    nodes = [{**card, "SLURMD_NODENAME": name} for name in ("n1", "n2")]
    with running_dask(workflow, *nodes) as dask:
        assert eventually(lambda: both_are_there(tmp_path), 30)
        done = workflow.run(*options(dask))
    assert done.code == 0, done.text
    for number in range(6):
        assert done.read(f"third/{number}.txt") == f"WORD{number}.M1.M2.m3\n"
        assert "computed by" in done.read(f"logs/{number}.txt")
    merged = done.summary["chains_merged"]
    assert merged > 0
    assert done.summary["dispatches_saved"] == 2 * merged
    on = done.nodes_of_processes()
    staged = {e["job"]: on[e["worker"]] for e in done.events("stage_done") if e["stage"]}
    titles = {e["job_id"]: e["job"] for e in done.events("job_submitted")}
    published = {titles[e["job_id"]]: on[e["worker"]] for e in done.events("publish_sent")}
    assert published == staged
    assert set(published.values()) <= {"n1", "n2"}


def inside_of(root: Path, pid: int) -> bool:
    """Whether a process is in a container of an image, or starts one."""
    with contextlib.suppress(psutil.Error):
        return str(root) in " ".join(psutil.Process(pid).cmdline())
    return False


def both_are_there(directory: Path) -> bool:
    """Whether two workers have registered with the scheduler."""
    return (directory / "dask.log").read_text().count("Registered to:") == 2


def test_all_kinds_of_rules(tmp_path: Path, dask: Dask) -> None:  # K1 S5 S6 S7 D2
    files = {f"in/{i}.txt": f"line {i}\n" for i in range(4)}
    files["words.txt"] = "alpha\nbeta\n"
    files["environs.py"] = (TOOLS / "environs.py").read_text()
    workflow = Workflow(tmp_path, SNAKEFILE, files)
    prefix = tmp_path / f"py{OWN}"
    make_environment(sys.executable, prefix)
    if CONTAINED:
        (tmp_path / "places.py").write_text(PLACES)
        make_image(tmp_path / "image.sif", make_root(tmp_path / "root"), LABEL="image")
    inside = [f"{name}_inside.txt" for name in CONTAINED]
    run = workflow.run(
        *options(dask),
        *("--gpupool-cpu-rules", "cluster"),
        *("--sdm", "conda", *(["apptainer"] if CONTAINED else [])),
        *("--config", f"prefix={prefix}", f"contained={json.dumps(inside)}"),
        NODE="ours",
        **SOFTWARE,
    )
    assert run.code == 0, run.text + (tmp_path / "dask.log").read_text()[-3000:]
    assert [run.read(f"out/{i}.up") for i in range(4)] == [f"LINE {i}.plain\n" for i in range(4)]
    assert run.read("own.txt") == expected(OWN), "the worker is in the rule's own environment"
    assert run.read("gpu.txt") == "0,1 theirs\n"
    assert run.read("cpu.txt") == "theirs\n"
    if CONTAINED:
        cards = ("0", "1")
        served = [f"alpha on image {card} theirs\nbeta on image {card} theirs\n" for card in cards]
        assert run.read("served_inside.txt") in served
        assert run.read("served_inside.log").endswith("written by image\n")
        assert run.read("gpu_inside.txt") in [f"image [{card}] theirs\n" for card in cards]
        assert run.read("cpu_inside.txt") == "image [] theirs\n"
        calls = (tmp_path / "containers.log").read_text().splitlines()
        started = [json.loads(call) for call in calls if "worker/main.py" in call]
        assert {"--nv" in words for words in started} == {True, False}, "a model, and files"
        assert not [pid for pid in psutil.pids() if inside_of(tmp_path / "root", pid)]
    again = workflow.run(
        *("--forceall", "--gpupool-cluster", dask[0].replace("tls://", "tcp://")),
        *("--config", f"prefix={prefix}"),
    )
    assert again.code != 0 and "anybody on the network could run code as you" in again.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_commands_on_nodes_end_with_the_run(tmp_path: Path, dask: Dask, number: int) -> None:  # S10
    snakefile = """
        rule all:
            input: "cpu.txt", "gpu.txt"

        rule cpu:
            output: "cpu.txt"
            shell: "touch started.cpu; sleep 100; touch {output}"

        rule gpu:
            output: "gpu.txt"
            resources: gpu=1
            shell: "touch started.gpu; sleep 100; touch {output}"
    """
    workflow = Workflow(tmp_path, snakefile)
    run = workflow.start(*options(dask), "--gpupool-cpu-rules", "cluster")
    assert eventually(lambda: len(list(tmp_path.glob("started.*"))) == 2, 60)
    started_s = time.monotonic()
    run.send_signal(number)
    text, _ = run.communicate(timeout=60)
    assert time.monotonic() - started_s < 60, text  # and not with the commands
    assert run.returncode == 1, text
    assert "did not end by itself" not in text and "Traceback" not in text, text
