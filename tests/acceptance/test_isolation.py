"""What a job sees is what it was leased, or nothing, whatever way it takes (S7, D3)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from tests.acceptance.running import Workflow

NAMES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
NOTHING = ["", "-1", ""]
SEES = f"""
import os, sys
names = {NAMES!r}
line = "|".join(os.environ.get(name, "unset") for name in names)
path = sys.argv[1] if len(sys.argv) > 1 else snakemake.output[0]
open(path, "a").write(line + "\\n")
"""
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "only",
            "metadata": {},
            "outputs": [],
            "source": [SEES.replace("sys.argv[1] if len(sys.argv) > 1 else ", "")],
        }
    ],
    "metadata": {"language_info": {"name": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
FILES = {
    "sees.py": SEES,
    "sees.ipynb": json.dumps(NOTEBOOK),
    "wrapper/wrapper.py": SEES,
    "wrapper/environment.yaml": "channels: []\ndependencies: []\n",
}

CPU_WAYS = """
import os
envvars: "CUDA_VISIBLE_DEVICES"
localrules: local_shell, local_gpu, local_tool, local_producer
WAYS = ["shell", "script", "run", "notebook", "wrapper", "shadow", "gpu0", "cpu", "local_shell",
    "local_run", "local_gpu", "local_tool", "handed", "piped", "client",
    "joined"]

rule all:
    input: expand("{way}.txt", way=WAYS), "leased.txt", "leased_run.txt"

rule shell:
    output: "shell.txt"
    shell: "python sees.py {output}"
rule script:
    output: "script.txt"
    script: "sees.py"
rule run:
    output: "run.txt"
    run: shell("python sees.py {output}")
rule notebook:
    output: "notebook.txt"
    notebook: "sees.ipynb"
rule wrapper:
    output: "wrapper.txt"
    wrapper: "file:wrapper"
rule shadow:
    input: "sees.py"
    output: "shadow.txt"
    shadow: "minimal"
    shell: "python sees.py {output}"
rule gpu0:
    output: "gpu0.txt"
    resources: gpu=0
    shell: "python sees.py {output}"
rule cpu:
    output: "cpu.txt"
    resources: device="cpu", gpu=2
    shell: "python sees.py {output}"
rule local_shell:
    output: "local_shell.txt"
    shell: "python sees.py {output}"
rule local_run:
    output: "local_run.txt"
    localrule: True
    run: shell("python sees.py {output}")
rule local_gpu:
    output: "local_gpu.txt"
    resources: gpu=1
    shell: "python sees.py {output}"
rule local_tool:
    output: "local_tool.txt"
    params: gpupool_tool="textual.py:Textual"
    shell: "python sees.py {output}"
rule handed:
    output: "handed.txt"
    handover: True
    threads: 1
    resources: device="cuda:1"
    shell: "python sees.py {output}"
rule producer:
    output: pipe("stream")
    shell: "python sees.py {output}"
rule piped:
    input: "stream"
    output: "piped.txt"
    shell: "cat {input} > {output}; python sees.py {output}"
rule local_producer:
    output: pipe("local_stream")
    shell: "echo > {output}"
rule joined:
    input: "local_stream"
    output: "joined.txt"
    resources: gpu=1
    shell: "cat {input} > /dev/null; python sees.py {output}"
rule server:
    output: service("ready")
    shell: "touch {output}; sleep 600"
rule client:
    input: "ready"
    output: "client.txt"
    shell: "python sees.py {output}"
rule leased:
    output: "leased.txt"
    resources: gpu=1
    shell: "python sees.py {output}"
rule leased_run:
    output: "leased_run.txt"
    resources: device="cuda:2,3"
    run: shell("python sees.py {output}")
"""


def seen(directory: Path, name: str) -> list[list[str]]:
    """What was seen by those who wrote a file: a line each."""
    return [line.split("|") for line in (directory / name).read_text().splitlines()]


def test_jobs_without_a_lease_see_nothing(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, CPU_WAYS, FILES)
    # The user's own variables must not come through either.
    shown = dict.fromkeys(NAMES, "0,1,2,3")
    done = workflow.run("--cores", "4", GPUPOOL_SIMULATE="4x80GiB", **shown)
    assert done.code == 0, done.text
    leased = {path.stem: seen(tmp_path, path.name) for path in tmp_path.glob("leased*.txt")}
    # Whoever holds NVIDIA's cards sees none of AMD's.
    assert leased["leased_run"] == [["2,3", "-1", ""]]
    ((card, *amd),) = leased["leased"]
    assert card in {"0", "1", "2", "3"} and amd == ["-1", ""]
    others = {path.stem for path in tmp_path.glob("*.txt")} - set(leased)
    assert len(others) == 16
    for name in others:
        lines = seen(tmp_path, f"{name}.txt")
        assert lines and all(line == NOTHING for line in lines), (name, lines)
    for rule in ("local_gpu", "local_tool", "handed", "joined"):
        assert f"rule {rule} asks for" in done.text


#: Says what it sees and when, in a line of its own.
MARKS = """
import json, os, sys, time
name, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
start_s = time.time()
time.sleep(seconds)
saw = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
with open(path, "a") as file:
    file.write(saw + "\\n")
with open(os.path.dirname(os.path.realpath(__file__)) + "/seen.jsonl", "a") as file:
    file.write(json.dumps([name, saw, start_s, time.time()]) + "\\n")
"""

#: A tool whose cold body says what it sees, with a torch that says CUDA is there.
SEER = """
import os
from pathlib import Path
from snakemake_executor_gpupool import Tool

class Seer(Tool):
    devices = ("cuda", "cpu")
    deterministic = False

    def load(self, device):
        self.seen = f"{device}|{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}"

    def read(self, job):
        return ["x"]

    def run(self, items):
        return [self.seen for _ in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("".join(results) + "\\n")

if "snakemake" in globals():
    Seer.main(snakemake)
"""

GROUPS = """
rule all:
    input: "mixed.txt", "last.txt", "client.txt", "client2.txt", "piped.txt", "cold.txt"

# A plain member beside a served one, and one behind that has no device.
rule plain:
    output: temp("plain.txt")
    group: "mixed"
    shell: "python marks.py plain {output} 0"
rule served:
    input: "plain.txt"
    output: "seer.txt"
    group: "mixed"
    params: gpupool_tool="script"
    script: "seer.py"
rule behind:
    input: "seer.txt"
    output: "mixed.txt"
    group: "mixed"
    shell: "cat {input} > {output}; python marks.py behind {output} 0"

# One by name, then two side by side, then one with two; memory is never added up.
rule named:
    output: touch("named.done")
    group: "devices"
    resources: device="cuda:1", vram_mb="70GiB"
    shell: "python marks.py named named.txt 0"
rule one:
    input: "named.done"
    output: touch("one.done")
    group: "devices"
    resources: gpu=1, vram_mb="70GiB"
    shell: "python marks.py one one.txt 1"
rule other:
    input: "named.done"
    output: "other.txt"
    group: "devices"
    resources: gpu=1, vram_mb="70GiB"
    shell: "python marks.py other {output} 1"
rule two:
    input: "one.done", "other.txt"
    output: "two.txt"
    group: "devices"
    resources: gpu=lambda wildcards, input: len(open(input[1]).readlines()) + 1, vram_mb="70GiB"
    run: shell("python marks.py two {output} 0")
rule last:
    input: "two.txt"
    output: "last.txt"
    group: "devices"
    shadow: "shallow"
    shell: "python marks.py last {output} 0"

# A service with a card of its own; one consumer has two cards, the other has none.
rule server:
    output: service("ready")
    resources: gpu=1
    shell: "python marks.py server server.txt 0; touch {output}; sleep 600"
rule client:
    input: "ready"
    output: "client.txt"
    resources: device="cuda:0,3"
    shell: "python marks.py client {output} 1"
rule client2:
    input: "ready"
    output: "client2.txt"
    shell: "python marks.py client2 {output} 1"

# A pipe from a GPU job to another.
rule producer:
    output: pipe("stream")
    resources: gpu=1
    shell: "python marks.py producer producer.txt 0; echo x > {output}"
rule consumer:
    input: "stream"
    output: "piped.txt"
    resources: gpu=1
    shell: "cat {input} > {output}; python marks.py consumer {output} 0"

# A served rule beside a service runs cold, on a card of its own.
rule feeder:
    output: service("feed")
    shell: "python marks.py feeder feeder.txt 0; touch {output}; sleep 600"
rule cold:
    input: "feed"
    output: "cold.txt"
    params: gpupool_tool="script"
    script: "seer.py"
"""
FAKE_TORCH = """
class cuda:
    @staticmethod
    def is_available():
        return True
"""


def cards(seen: str) -> set[str]:
    """The cards that a value of CUDA_VISIBLE_DEVICES shows."""
    assert seen != "unset"
    return set(seen.split(",")) - {""}


def seen_twice(rows: list[list[Any]]) -> list[tuple[str, str]]:
    """Pairs of jobs that saw one card at the same time."""
    return [
        (one[0], other[0])
        for one, other in itertools.combinations(rows, 2)
        if cards(one[1]) & cards(other[1]) and one[2] < other[3] and other[2] < one[3]
    ]


def test_members_of_groups_have_devices_of_their_own(tmp_path: Path) -> None:
    files = {"marks.py": MARKS, "seer.py": SEER, "lib/torch.py": FAKE_TORCH}
    workflow = Workflow(tmp_path, GROUPS, files)
    path = str(tmp_path / "lib")
    done = workflow.run("--cores", "8", GPUPOOL_SIMULATE="4x80GiB", PYTHONPATH=path)
    assert done.code == 0, done.text
    rows = [json.loads(line) for line in done.read("seen.jsonl").splitlines()]
    saw = {name: cards(seen) for name, seen, _, _ in rows}
    assert {name: len(seen) for name, seen in saw.items()} == {
        "plain": 0,
        "behind": 0,
        "named": 1,
        "one": 1,
        "other": 1,
        "two": 2,
        "last": 0,
        "feeder": 0,
        "server": 1,
        "client": 2,
        "client2": 0,
        "producer": 1,
        "consumer": 1,
    }
    assert saw["named"] == {"1"} and saw["client"] == {"0", "3"}
    assert not saw["server"] & saw["client"]
    assert not saw["producer"] & saw["consumer"]
    assert seen_twice(rows) == []
    # The served member was served, warm; the one beside a service ran cold on its own lease.
    device, shown = done.read("mixed.txt").splitlines()[0].split("|")
    assert (device, len(cards(shown))) == ("cpu", 1)  # simulated cards compute on the CPU
    device, shown = done.read("cold.txt").strip().split("|")
    assert (device, len(cards(shown))) == ("cuda:0", 1)
    assert done.summary["jobs_served"] == 1
    assert not (tmp_path / "plain.txt").exists()
    assert len(done.events("lease_granted")) == len(done.events("lease_released"))


BAD = """
JOBS = ["fine", "half", "kind", "size", "list", "negative", "huge", "named"]
GPU = dict(fine=1, half=0.5, kind="a100:1", size=1, list=[1], negative=-1, huge=99, named=1)
VRAM = dict(fine="8GB", size="8 apples")

rule jobs:
    input: expand("{x}.txt", x=JOBS), "grouped.txt"
rule job:
    output: "{x}.txt"
    resources:
        gpu=lambda wildcards: GPU[wildcards.x],
        vram_mb=lambda wildcards: VRAM.get(wildcards.x, 8000),
        device=lambda wildcards: "0,1" if wildcards.x == "named" else "",
    shell: "touch {output}"
rule member:
    output: touch("member.txt")
    group: "g"
    resources: gpu=1
    shell: "true"
rule grouped:
    input: "member.txt"
    output: "grouped.txt"
    group: "g"
    resources: gpu=lambda wildcards, input: [0.5, 0][not input]
    shell: "touch {output}"

rule constants:
    input: "half_always.txt", "apples_always.txt"
rule half_always:
    output: "half_always.txt"
    resources: gpu=0.5
    shell: "touch {output}"
rule apples_always:
    output: "apples_always.txt"
    params: gpupool_tool="textual.py:Textual"
    resources: vram_mb="8 apples"
    shell: "touch {output}"
"""


def test_bad_resources_fail_their_own_jobs(tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, BAD)
    constants = workflow.run("constants", GPUPOOL_SIMULATE="4x80GiB")
    assert constants.code == 1 and "gpupool cannot run" in constants.text
    assert "rule half_always: gpu=0.5 is not understood" in constants.text
    assert "rule apples_always: vram_mb='8 apples' is not understood" in constants.text
    done = workflow.run("jobs", "--keep-going", "--retries", "0", GPUPOOL_SIMULATE="4x80GiB")
    assert done.code == 1 and "is a bug" not in done.text, done.text
    assert {path.stem for path in tmp_path.glob("*.txt")} == {"fine"}
    for said in ("0.5", "'a100:1'", "[1]", "-1"):
        assert f"gpu={said} is not understood" in done.text
    assert "vram_mb='8 apples' is not understood" in done.text
    assert "device='0,1' is not understood" in done.text
    assert "rule job (x=huge) asks for cudax99" in done.text
    assert "rule grouped: gpu=0.5 is not understood" in done.text


NESTED = """
rule all:
    input: "lease.txt", "pool.txt", "snakemake.txt", "piped.txt", "cpu.txt"

rule by_lease:
    output: "lease.txt"
    resources: gpu=1
    shell: "python lease.py $CUDA_VISIBLE_DEVICES > {output}"
rule by_pool:
    output: "pool.txt"
    resources: gpu=1
    shell: "python pool.py $CUDA_VISIBLE_DEVICES > {output}"
rule by_snakemake:
    output: "snakemake.txt"
    resources: gpu=2
    shell:
        "snakemake -s inner.smk -d inner --executor gpupool --jobs 9 --cores 2 --quiet all"
        " && (echo $CUDA_VISIBLE_DEVICES; cat inner/*.txt) > {output}"
rule producer:
    output: pipe("stream")
    shell: "python lease.py none > {output}"
rule piped:
    input: "stream"
    output: "piped.txt"
    resources: gpu=1
    shell: "cat {input} > {output}; python lease.py $CUDA_VISIBLE_DEVICES >> {output}"
rule cpu:
    output: "cpu.txt"
    shell: "python lease.py none > {output}"
"""
LEASE = """
import sys
from snakemake_executor_gpupool import DeviceManager
manager = DeviceManager.get_instance()
names = [device.visible_id for device in manager.devices if device.kind == "cuda"]
print(sys.argv[1], ",".join(names) or "none")
for _ in range(2 if names else 0):
    with manager.lease("cuda", timeout_s=60) as lease:
        print(sys.argv[1], lease.env["CUDA_VISIBLE_DEVICES"])
"""
POOL = """
import os, sys
from snakemake_executor_gpupool import DeviceManager, ToolPool
with ToolPool() as pool:
    print(sys.argv[1], pool.run("seer.py:Seer", ["x"])[0].split("|")[1])
    shown = [device.visible_id for device in pool.devices if device.kind == "cuda"]
    print(sys.argv[1], ",".join(shown))
with DeviceManager.get_instance().lease("cuda", timeout_s=60), ToolPool() as pool:
    print(sys.argv[1], pool.run("seer.py:Seer", ["y"])[0].split("|")[1])
"""
INNER = """
rule all:
    input: "one.txt", "two.txt", "both.txt", "seer.txt"
rule one:
    output: "{name,one|two}.txt"
    resources: gpu=1
    shell: "echo {wildcards.name} $CUDA_VISIBLE_DEVICES > {output}"
rule both:
    output: "both.txt"
    resources: device="cuda:0,1"
    shell: "echo {rule} $CUDA_VISIBLE_DEVICES > {output}"
rule seer:
    output: "seer.txt"
    params: gpupool_tool="script"
    script: "seer.py"
"""


def test_gpupool_in_a_job_uses_what_the_job_was_leased(tmp_path: Path) -> None:
    files = {"lease.py": LEASE, "pool.py": POOL, "seer.py": SEER, "inner.smk": INNER}
    workflow = Workflow(tmp_path, NESTED, files)
    done = workflow.run("--cores", "4", GPUPOOL_SIMULATE="3x80GiB", GPUPOOL_MANAGED_DEVICES="1,2")
    assert done.code == 1 and "GPUPOOL_MANAGED_DEVICES" in done.text  # misspelt: said at once
    managed = {"GPUPOOL_SIMULATE": "3x80GiB", "GPUPOOL_MANAGED_DEVICES": "cuda:1,2"}
    done = workflow.run("--cores", "4", **managed, timeout_s=200)
    assert done.code == 0, done.text
    for name, lines in (("lease", 3), ("pool", 3)):
        pairs = [line.split() for line in done.read(f"{name}.txt").splitlines()]
        assert len(pairs) == lines
        assert all(inside == outside and outside in {"1", "2"} for outside, inside in pairs), pairs
    assert done.read("cpu.txt").split() == ["none", "none"]
    feed, *rest = [line.split() for line in done.read("piped.txt").splitlines()]
    assert feed == ["none", "none"] and len(rest) == 3
    assert all(inside == outside and outside in {"1", "2"} for outside, inside in rest)
    outer, both, one, seer_, two = done.read("snakemake.txt").splitlines()
    assert outer == "1,2" and both == "both 1,2"
    assert {one, two} <= {f"{name} {card}" for name in ("one", "two") for card in "12"}
    assert seer_.split("|")[1] in {"1", "2"}
