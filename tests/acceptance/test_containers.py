"""Served and plain rules with ``container:`` (K1, S4, S7), under a stand-in for Apptainer.

It takes the same arguments, and really changes the root (``tests/tools/apptainer``): what is in a
container sees a minimal root with a Python of its own, no gpupool, and what is bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.hosts.process import PACKAGE_DIR
from tests import containers
from tests.acceptance.running import TOOLS, Finished, Workflow
from tests.acceptance.test_environments import interpreters
from tests.containers import make_image, make_root, with_apptainer

pytestmark = pytest.mark.skipif(bool(containers.why_not()), reason=containers.why_not())

PLACES = '''
import helper
import os
import sys
from pathlib import Path
from snakemake_executor_gpupool import Tool


class Places(Tool):
    """Says of each word where it was read, computed and written."""

    defaults = {"package": "json"}
    reload_on = ("package",)

    def load(self, device):
        __import__(self.params.package)

    def read(self, job):
        for word in Path(job.input[0]).read_text().split():
            yield f"{word}: read in {helper.place()}"

    def run(self, items):
        import snakemake_executor_gpupool

        package = os.path.dirname(snakemake_executor_gpupool.__file__)
        try:
            open(os.path.join(package, "written"), "w")
        except OSError as error:
            package += f" ({error.strerror})"
        others = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        place = f"computed in {helper.place()} by gpupool of {package}, sees {len(others)} others"
        return [f"{item}, {place}, stdin {sys.stdin.read()!r}" for item in items]

    def write(self, job, results):
        print("written", job.output[0])
        Path(job.output[0]).write_text("\\n".join([*results, f"written in {helper.place()}"]))
'''
HELPER = """
import os
import sys


def place():
    version = ".".join(map(str, sys.version_info[:2]))
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    image = os.environ.get("LABEL", "no image")
    secret = os.environ.get("OF_THE_HOST", "nothing")
    return f"{image} {version} {sys.prefix} on [{cards}] with {secret}"
"""
SNAKEFILE = """
rule all:
    input: expand("out/{n}.txt", n=range(3)), "bound.txt", "plain.txt", "cpu.txt"

rule up:
    input: "in/{n}.txt"
    output: "out/{n}.txt"
    log: "logs/{n}.log"
    container: "image.sif"
    resources: gpupool_tool="places.py:Places", gpu=1
    script: "places.py"

rule bound:
    input: config["bound"]
    output: "bound.txt"
    container: "image.sif"
    resources: gpupool_tool="places.py:Places"
    script: "places.py"

rule hidden:
    input: config["hidden"]
    output: "hidden.txt"
    container: "image.sif"
    resources: gpupool_tool="places.py:Places"
    script: "places.py"

rule lacks:
    input: "in/0.txt"
    output: "lacks.txt"
    container: "image.sif"
    params: package="notthere"
    resources: gpupool_tool="places.py:Places"
    script: "places.py"

rule plain:
    output: "plain.txt"
    container: "image.sif"
    resources: gpu=1
    shell: "echo $LABEL on $CUDA_VISIBLE_DEVICES > {output}"

rule cpu:
    output: "cpu.txt"
    container: "image.sif"
    shell: "echo $LABEL on $CUDA_VISIBLE_DEVICES. > {output}"
"""


@pytest.fixture(scope="module")
def python() -> str:
    """A Python of this machine that is not the one of the tests, if there is one."""
    there = interpreters()
    own = "{}.{}".format(*sys.version_info)
    return next((path for version, path in there.items() if version != own), sys.executable)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """The root of images."""
    return make_root(tmp_path_factory.mktemp("image") / "root", python)


def version_of(python: str) -> str:
    words = [python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def calls(log: Path) -> list[list[str]]:
    """The arguments of each call of the stand-in that started a worker."""
    said = [json.loads(line) for line in log.read_text().splitlines()]
    return [words for words in said if "worker/main.py" in words[-1]]


def records(run: Finished) -> dict[str, dict[str, Any]]:
    """The newest record of each output."""
    path = run.directory / ".snakemake/gpupool/provenance.jsonl"
    found = map(json.loads, filter(None, path.read_text().splitlines()))
    return {
        output["output"]: record
        for record in found
        if record["record"] == "job"
        for output in record["outputs"]
    }


def test_a_rule_is_served_from_its_container(tmp_path: Path, root: Path, python: str) -> None:
    # K1 S4 S7 C2
    work, flow, bound, hidden = (tmp_path / name for name in ("work", "flow", "bound", "hidden"))
    log, kept = tmp_path / "log", tmp_path / "kept"
    files = {f"in/{n}.txt": f"word{n}\n" for n in range(3)}
    workflow = Workflow(work, "", files)
    for directory in (flow, bound, hidden):
        directory.mkdir()
        (directory / "far.txt").write_text("far\n")
    (flow / "Snakefile").write_text(SNAKEFILE)
    (flow / "places.py").write_text(PLACES)
    (flow / "helper.py").write_text(HELPER)
    # Many images made for Docker set these, for all cards.
    cards = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "NVIDIA_VISIBLE_DEVICES": "all"}
    image = make_image(work / "image.sif", root, LABEL="one", **cards)
    env = {**with_apptainer(), "STANDIN_LOG": str(log), "GPUPOOL_SIMULATE": "2x16GiB"}
    env |= {"OF_THE_HOST": "a secret", "APPTAINERENV_CUDA_VISIBLE_DEVICES": "7"}
    arguments = ("--snakefile", "../flow/Snakefile", "--sdm", "apptainer", "--gpupool-cache")
    arguments += (str(kept), "--apptainer-args", f"--bind {bound} --containall", "--config")
    arguments += (f"bound={bound}/far.txt", f"hidden={hidden}/far.txt")

    run = workflow.run(*arguments, "-k", "all", "hidden.txt", "lacks.txt", **env)
    assert run.code == 1, run.text
    where = f"one {version_of(python)} /usr/local on [{{}}] with nothing"
    for n in range(3):
        first, last = run.read(f"out/{n}.txt").split("\n")
        read, computed, said, stdin = first.split(", ")
        assert read == f"word{n}: read in {where.format('')}"
        cards = computed.partition("[")[2][:1]
        assert cards in ("0", "1") and computed.startswith(f"computed in {where.format(cards)}")
        assert computed.endswith(f"by gpupool of {PACKAGE_DIR} (Read-only file system)")
        assert int(said.split()[1]) < 10, "it sees the processes of the machine"
        assert stdin == "stdin ''"
        assert last == f"written in {where.format('')}"
        assert f"/{n}.txt\n" in run.read(f"logs/{n}.log")
    assert run.read("bound.txt").startswith("far: read in one")
    assert run.read("plain.txt") in ("one on 0\n", "one on 1\n")
    assert run.read("cpu.txt") == "one on .\n"
    text = " ".join(run.text.split())
    assert f"input {hidden}/far.txt is not visible in the rule's container image.sif" in text
    assert "--apptainer-args '--bind DIRECTORY'" in text
    lacks = (
        f"No module named 'notthere'. The rule's container image.sif (Python {version_of(python)})"
    )
    assert f"{lacks} lacks notthere: add it to the image" in text
    starts = [event for event in run.events("worker_started") if event.get("devices")]
    with_gpu = [words for words in calls(log) if "--nv" in words]
    assert len(with_gpu) == len([e for e in starts if "cuda" in e["devices"][0]]) > 0
    assert len(calls(log)) < 8, "a container for each job"
    container = records(run)["out/0.txt"]["container"]
    assert container["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert (container["image"], container["path"]) == ("image.sif", str(image))

    # The same path, another image: nothing of the first one's results is taken.
    before = image.read_bytes()
    make_image(image, root, LABEL="two")
    run = workflow.run(*arguments, "--forceall", "-R", "up", **env)
    assert run.code == 0, run.text
    assert all("read in two" in run.read(f"out/{n}.txt") for n in range(3))
    assert run.summary["items_reused"] == 0
    image.write_bytes(before)
    shutil.rmtree(work / "out")
    run = workflow.run(*arguments, **env)
    assert run.code == 0, run.text
    assert all("read in one" in run.read(f"out/{n}.txt") for n in range(3))
    assert run.summary["items_reused"] == 3 and run.summary["items_computed"] == 0


WITH_CONDA = """
containerized: "image.sif"

rule all:
    input: "made.txt", "own.txt"

rule made:
    input: "in.txt"
    output: "made.txt"
    conda: "env.yaml"
    resources: gpupool_tool="environs.py:Environs"
    script: "environs.py"

rule own:
    input: "in.txt"
    output: "own.txt"
    container: "other.sif"
    conda: config["prefix"]
    resources: gpupool_tool="environs.py:Environs"
    script: "environs.py"
"""
YAML = "channels: [nodefaults]\ndependencies: []\n"


def enter_by(prefix: Path, python: str = "/usr/local/bin/python") -> None:
    """Make a conda environment of which there is nothing but what its tool asks for."""
    for directory in ("bin", "etc/conda/activate.d", "conda-meta"):
        (prefix / directory).mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    # As conda's own, it begins with the file that is there, and needs no library beside it.
    (prefix / "bin/python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (prefix / "bin/onlyhere").write_text(f"#!/bin/sh\necho program of {prefix.name}\n")
    for program in ("python", "onlyhere"):
        (prefix / "bin" / program).chmod(0o755)
    hook = f"export HOOK='hook of {prefix.name}' PYTHONPATH={prefix}/lib\n"
    (prefix / "etc/conda/activate.d/hook.sh").write_text(hook)
    (prefix / "lib").mkdir()
    (prefix / "lib/onlyhere.py").write_text(f"VERSION = 'package of {prefix.name}'\n")


def test_conda_environments_are_entered_inside(tmp_path: Path, root: Path, python: str) -> None:
    # K1 S5
    conda = root / "opt/conda"
    shutil.copytree(TOOLS / "conda", conda)
    (root / "usr/local/bin/conda").symlink_to("/opt/conda/bin/conda")
    content = hashlib.md5(YAML.encode(), usedforsecurity=False).hexdigest()
    enter_by(root / "conda-envs" / content)
    tool = (TOOLS / "environs.py").read_text()
    # Read by a bash that takes its input for the network, were it not told otherwise.
    files = {"in.txt": "alpha\n", "environs.py": tool, "env.yaml": YAML, ".bashrc": "exit 7\n"}
    work = tmp_path / "work"
    workflow = Workflow(work, WITH_CONDA, files)
    enter_by(work / "prefix")
    make_image(work / "image.sif", root)
    make_image(work / "other.sif", root, "another")
    # Snakemake itself asks the one outside what is in an environment that it has not made.
    env = {**with_apptainer(str(TOOLS / "conda/bin")), "SHLVL": "0"}
    config = ("--config", f"prefix={work / 'prefix'}")
    run = workflow.run("--sdm", "conda", "apptainer", *config, **env)
    assert run.code == 0, run.text
    for output, name in (("made.txt", content), ("own.txt", "prefix")):
        place = f"{version_of(python)} local {name} hook of {name} program of {name}"
        first, last = run.read(output).splitlines()
        assert first == f"alpha: read in {place}, computed in {place} package of {name}"
        assert last == f"written in {place}"
    assert run.summary["items_computed"] == 2, "two images share a result"

    # Done again, each in its own container and environment (R7).
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.txt")}
    code, said = verified(work, env, "made.txt", "own.txt")
    assert code == 0, said
    assert [(each["kind"], each["is_written_again"]) for each in said] == [("bits", True)] * 2
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.txt")} == before
    assert not (work / ".cache").exists()
    make_image(work / "other.sif", root, "changed")
    (work / "image.sif").unlink()
    code, said = verified(work, env, "made.txt", "own.txt")
    assert code == 2
    first, last = (each["why"] for each in said)
    assert first == f"the image of its container, {work / 'image.sif'}, is gone"
    assert last.startswith(f"the image of its container, {work / 'other.sif'}, has changed since (")


def verified(work: Path, env: dict[str, str], *files: str) -> tuple[int, list[dict[str, Any]]]:
    """What ``gpupool verify`` finds, and its exit code."""
    command = [sys.executable, "-m", "snakemake_executor_gpupool.frontends.commandline.main"]
    done = subprocess.run(
        [*command, "verify", "--json", *files],
        cwd=work, env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["outputs"]
