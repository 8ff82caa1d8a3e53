"""Served rules with ``conda:`` (S4, S5).

Environments are made here by ``venv``, from whatever other Pythons this machine has, and given
to Snakemake as existing prefixes; none of them has gpupool or torch. They are entered by conda,
if it is installed, else by a stand-in that does what its activation does (``tools/conda``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, TOOLS, Workflow

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
CONDA = Path(shutil.which("conda") or TOOLS / "conda/bin/conda")
WITH_CONDA = {"PATH": os.pathsep.join([str(CONDA.parent), os.environ["PATH"]])}
SDM = ("--sdm", "conda")
OWN = "{}.{}".format(*sys.version_info)


def interpreters() -> dict[str, str]:
    """The Pythons of this machine by version, of those that a worker may run under."""
    roots = [os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")]
    found = {}
    for version in VERSIONS:
        places = [shutil.which(f"python{version}")]
        for root in filter(None, roots):
            places += map(str, Path(root).glob(f"versions/{version}.*/bin/python"))
        for place in filter(None, places):
            answer = [place, "-c", "import sys, venv; print(*sys.version_info[:2], sep='.')"]
            said = subprocess.run(answer, capture_output=True, text=True, check=False)
            if said.stdout.strip() == version:
                found[version] = place
                break
    return found


def make_environment(python: str, prefix: Path) -> None:
    """Make a prefix with a package, a program and an activation script of its own."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta/history").touch()
    package = next(prefix.glob("lib/python3*/site-packages")) / "onlyhere.py"
    package.write_text(f"VERSION = 'package of {prefix.name}'\n")
    program = prefix / "bin/onlyhere"
    program.write_text(f"#!/bin/sh\necho program of {prefix.name}\n")
    program.chmod(0o755)
    hook = prefix / "etc/conda/activate.d/hook.sh"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"export HOOK='hook of {prefix.name}'\n")


SNAKEFILE = """
VERSIONS = str(config["versions"]).split(",")

rule all:
    input: expand("out/{version}.txt", version=VERSIONS)

for version in VERSIONS:
    rule:
        name: f"in_{version.replace('.', '_')}"
        input: "words.txt"
        output: f"out/{version}.txt"
        log: f"logs/{version}.log"
        conda: f"{config['prefixes']}/py{version}"
        resources: gpupool_tool="script"
        script: "environs.py"
"""


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefixes")
    for version, python in interpreters().items():
        make_environment(python, directory / f"py{version}")
    return directory


def workflow_in(directory: Path, snakefile: str = SNAKEFILE) -> Workflow:
    files = {"words.txt": "alpha\nbeta\n", "environs.py": (TOOLS / "environs.py").read_text()}
    return Workflow(directory, snakefile, files)


def expected(version: str) -> str:
    name = f"py{version}"
    place = f"{version} {name} {name} hook of {name} program of {name}"
    words = [f"{word}: read in {place}, computed in {place} package of {name}\n" for word in WORDS]
    return "".join([*words, f"written in {place}\n"])


WORDS = ("alpha", "beta")


def test_workers_run_under_the_pythons_of_their_rules(tmp_path: Path, prefixes: Path) -> None:  # S5
    versions = sorted((path.name[2:] for path in prefixes.iterdir()), key=VERSIONS.index)
    other = [version for version in versions if version != OWN]
    if not other:
        pytest.skip("no other Python from 3.9 to 3.13 is installed here")
    config = ("--config", f"versions={','.join(versions)}", f"prefixes={prefixes}")
    workflow = workflow_in(tmp_path)
    # What would break another Python, and Snakemake keeps from conda environments.
    misleading = tmp_path / "misleading"
    misleading.mkdir()
    (misleading / "onlyhere.py").write_text("raise SystemExit('of the wrong Python')\n")
    run = workflow.run(*SDM, *config, **WITH_CONDA, PYTHONPATH=str(misleading))
    assert run.code == 0, run.text
    for version in versions:
        assert run.read(f"out/{version}.txt") == expected(version)
    assert run.summary["jobs_served"] == len(versions)
    assert run.summary["items_unique"] == 2 * len(versions), "environments shared results"
    assert "Nothing to be done" in workflow.run(*SDM, *config, "-n", **WITH_CONDA).text


def test_cold_the_same_script_does_the_same(tmp_path: Path, prefixes: Path) -> None:  # S2 S5 T5
    # Snakemake itself is imported by a script, and that takes a Python of 3.10 or newer.
    versions = [path.name[2:] for path in prefixes.iterdir() if path.name != "py3.9"][:2]
    config = ("--config", f"versions={','.join(versions)}", f"prefixes={prefixes}")
    run = workflow_in(tmp_path).run(*LOCAL, *SDM, *config, **WITH_CONDA)
    assert run.code == 0, run.text
    for version in versions:
        assert run.read(f"out/{version}.txt") == expected(version)


FAULTS = """
rule all:
    input: "package.txt", "module.txt", "gone.txt", "good.txt"

rule package:
    input: "words.txt"
    output: "package.txt"
    conda: config["prefix"]
    params: package="notthere"
    resources: gpupool_tool="script"
    script: "environs.py"

rule module:
    input: "words.txt"
    output: "module.txt"
    conda: config["prefix"]
    resources: gpupool_tool="not_installed.there:Tool"
    shell: "exit 1"

rule gone:
    input: "words.txt"
    output: "gone.txt"
    conda: config["old"]
    resources: gpupool_tool="script"
    script: "environs.py"

rule good:
    input: "words.txt"
    output: "good.txt"
    conda: config["prefix"]
    resources: gpupool_tool="script"
    script: "environs.py"
"""


def test_what_an_environment_lacks_is_said(tmp_path: Path, prefixes: Path) -> None:  # S5 W8
    prefix = prefixes / f"py{OWN}"
    old = tmp_path / "old"
    (old / "bin").mkdir(parents=True)
    (old / "conda-meta").mkdir()
    (old / "conda-meta/history").touch()
    # An old Python, as far as a worker looks at it.
    (old / "bin/python").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 18); '
        "sys.argv = sys.argv[1:]; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'), "
        "{'__name__': '__main__', '__file__': sys.argv[0]})\" \"$@\"\n"
    )
    (old / "bin/python").chmod(0o755)
    run = workflow_in(tmp_path / "w", FAULTS).run(
        "-k", *SDM, "--config", f"prefix={prefix}", f"old={old}", **WITH_CONDA
    )
    assert run.code == 1
    lacks = f"The rule's environment {prefix} (Python {OWN}) lacks"
    text = " ".join(run.text.split())
    assert f"No module named 'notthere'. {lacks} notthere: add it" in text
    assert f"No module named 'not_installed'. {lacks} not_installed: add it" in text
    assert "rule package" in run.text and "rule module" in run.text
    assert "a worker needs Python 3.9 or newer" in text and "has 3.8" in text
    assert run.read("good.txt").startswith("alpha: read in")
