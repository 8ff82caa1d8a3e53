"""Tasks of other engines as clients of one server: make, xargs, doit, cwltool, Nextflow's way.

Each engine runs the same tasks, whose outputs are known beforehand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.serving import Workplace
from tests.waiting import eventually

TASKS = int(os.environ.get("GPUPOOL_TASKS", "24"))
COMMAND = f"{sys.executable} -m snakemake_executor_gpupool.frontends.commandline.main run"


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    for number in range(TASKS):
        # Some items are shared by tasks.
        (tmp_path / f"{number}.in").write_text(f"word{number} common{number % 3}\n")
    yield place
    directory = place.server_directory()
    place.end()
    shutil.rmtree(directory, ignore_errors=True)


def expected(number: int) -> str:
    return f"WORD{number} loud!\nCOMMON{number % 3} loud!\n"


def run(work: Workplace, command: list[str], env: Mapping[str, str] | None = None) -> str:
    environment = {**work.env, "GPUPOOL_SERVER": "auto", **(env or {})}
    done = subprocess.run(
        command,
        cwd=work.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "computed here" not in done.stderr, done.stderr
    return done.stdout


def all_is_as_expected(work: Workplace) -> None:
    """Every output is right, and all of it was done by one server that loaded one model or two."""
    for number in range(TASKS):
        assert (work.directory / f"{number}.out").read_text() == expected(number)
    assert work.status()["jobs"]["done"] == TASKS
    assert work.n_loads() <= 2


def test_make(work: Workplace) -> None:
    lines = [
        f"all: {' '.join(f'{n}.out' for n in range(TASKS))}",
        "%.out: %.in",
        f"\t{COMMAND} {work.tool} --input $< --output $@",
    ]
    (work.directory / "Makefile").write_text("\n".join(lines) + "\n")
    run(work, ["make", "-j64"])
    all_is_as_expected(work)


def test_xargs(work: Workplace) -> None:
    numbers = " ".join(map(str, range(TASKS)))
    run(
        work,
        [
            "sh",
            "-c",
            f"echo {numbers} | tr ' ' '\\n' | xargs -P 16 -I N "
            f"{COMMAND} {work.tool} --input N.in --output N.out",
        ],
    )
    all_is_as_expected(work)


def test_doit(work: Workplace) -> None:
    doit = shutil.which("doit")
    if doit is None:
        pytest.skip("doit is not installed (pip install doit)")
    (work.directory / "dodo.py").write_text(
        "def task_shout():\n"
        f"    for n in range({TASKS}):\n"
        f"        command = f'{COMMAND} {work.tool} --input {{n}}.in --output {{n}}.out'\n"
        "        yield {'name': n, 'actions': [command], 'targets': [f'{n}.out'],\n"
        "               'file_dep': [f'{n}.in']}\n"
    )
    run(work, [doit, "-n", "8"])
    all_is_as_expected(work)


CWL_TOOL = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [{python}, -m, snakemake_executor_gpupool.frontends.commandline.main, run, {tool}]
arguments: [--server, auto]
inputs:
  words: {{type: File, inputBinding: {{prefix: --input}}}}
  name: {{type: string, inputBinding: {{prefix: --output}}}}
outputs:
  shouted: {{type: File, outputBinding: {{glob: $(inputs.name)}}}}
"""
CWL_WORKFLOW = """
cwlVersion: v1.2
class: Workflow
requirements: {ScatterFeatureRequirement: {}}
inputs: {words: "File[]", names: "string[]"}
outputs: {all: {type: "File[]", outputSource: shout/shouted}}
steps:
  shout:
    run: shout.cwl
    scatter: [words, name]
    scatterMethod: dotproduct
    in: {words: words, name: names}
    out: [shouted]
"""


def test_cwltool(work: Workplace) -> None:
    """Each task has a directory of its own, which is also its home, and few variables."""
    cwltool = shutil.which("cwltool")
    if cwltool is None:
        pytest.skip("cwltool is not installed (pip install cwltool)")
    (work.directory / "shout.cwl").write_text(
        CWL_TOOL.format(python=sys.executable, tool=work.tool)
    )
    (work.directory / "all.cwl").write_text(CWL_WORKFLOW)
    files = ", ".join(f"{{class: File, path: {n}.in}}" for n in range(TASKS))
    names = ", ".join(f"{n}.out" for n in range(TASKS))
    (work.directory / "job.yml").write_text(f"words: [{files}]\nnames: [{names}]\n")
    kept = [w for name in ("GPUPOOL_PROFILE", "LOADS") for w in ("--preserve-environment", name)]
    run(work, [cwltool, "--parallel", "--no-container", *kept, "all.cwl", "job.yml"])
    all_is_as_expected(work)


COMMAND_RUN = """#!/bin/bash
# As Nextflow's .command.run: variables, the directory, staged inputs, the script, outputs.
set -e
set -u
export NXF_TASK_WORKDIR={work} NXF_BOXID={box}
export TMPDIR=$(mktemp -d)
cd {work}
ln -s {source} input.txt
/bin/bash -ue .command.sh > .command.out 2> .command.err
ls output.txt > /dev/null
"""


def test_a_task_as_nextflow_runs_it(work: Workplace) -> None:
    """Not under Nextflow itself: a wrapper of that shape, in work directories of their own."""
    tasks = []
    for number in range(TASKS):
        place = work.directory / "work" / f"{number:02d}" / f"{number:030x}"
        place.mkdir(parents=True)
        source = work.directory / f"{number}.in"
        text = COMMAND_RUN.format(work=place, source=source, box=f"nxf-{number}")
        (place / ".command.run").write_text(text)
        (place / ".command.sh").write_text(
            f"#!/bin/bash -ue\n{COMMAND} {work.tool} --server auto \\\n"
            "    --input input.txt --output output.txt\n"
        )
        tasks.append(
            subprocess.Popen(["/bin/bash", place / ".command.run"], env=work.env, cwd=place)
        )
    for number, task in enumerate(tasks):
        assert task.wait(timeout=300) == 0, (Path(task.args[1]).parent / ".command.err").read_text()
        output = Path(task.args[1]).parent / "output.txt"  # type: ignore[index]
        shutil.copy(output, work.directory / f"{number}.out")
    all_is_as_expected(work)


def test_make_that_is_interrupted_leaves_nothing_behind(work: Workplace) -> None:
    (work.directory / "slow.in").write_text("sleep60\n")
    line = f"{COMMAND} {work.tool} --input $< --output $@"
    (work.directory / "Makefile").write_text(f"slow.out: slow.in\n\t{line}\n")
    environment = {**work.env, "GPUPOOL_SERVER": "auto"}
    make = subprocess.Popen(["make"], cwd=work.directory, env=environment, start_new_session=True)
    assert eventually(lambda: work.status().get("jobs", {}).get("running") == 1)
    os.killpg(make.pid, 2)
    assert make.wait(timeout=60) != 0
    assert eventually(lambda: work.status()["jobs"]["running"] == 0)
    assert not list(work.directory.glob("slow.out")) + list(work.directory.glob(".gpupool-*"))
