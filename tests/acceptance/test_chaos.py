"""Runs whose workers, or whose coordinator, are killed at random (W4, W7, S10, W10).

The short forms are part of the default tests. The long forms run by ``make chaos``.
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import workload
from tests.acceptance.chaos import PHASES, Killer, Replay
from tests.acceptance.running import TOOLS, Finished, Workflow
from tests.acceptance.test_faults import worker_pids
from tests.waiting import eventually

MIN_KILLS = 10
#: Six models on two devices, so that they take turns: each file goes through two of them.
PACED = """
rule all:
    input: expand("out/{i}.second", i=range(FILES))

rule first:
    input: "in/{i}.txt"
    output: "out/{i}.first"
    resources: gpupool_tool="paced.py:Paced"
    params: model=lambda wildcards: f"m{int(wildcards.i) % 3}", child="CHILD"
    script: "paced.py"

rule second:
    input: "out/{i}.first"
    output: "out/{i}.second"
    resources: gpupool_tool="paced.py:Paced"
    params: model=lambda wildcards: f"n{int(wildcards.i) % 3}", child="CHILD"
    script: "paced.py"
"""
#: Each file through one of eight models: devices have to change hands.
ESM2 = """
rule all:
    input: expand("out/s{n}.npz", n=[f"{n:04d}" for n in range(120)])

rule embed:
    input: "in/s{n}.fasta"
    output: "out/s{n}.npz"
    resources: gpupool_tool="steady_esm2.py:SteadyEsm2"
    params: model=lambda wildcards: MODELS[int(wildcards.n) % len(MODELS)]
    script: "steady_esm2.py"
"""
TWO_DEVICES = {"GPUPOOL_SIMULATE": "2x16GiB"}
FOUR_DEVICES = {"GPUPOOL_SIMULATE": "4x16GiB"}
#: Merged, the two models would be side by side, and nothing would move.
TURNS = ("--gpupool-offload-strategy", "cpu", "--gpupool-merge", "off")


def paced(directory: Path, files: int, child: str = "") -> Workflow:
    """A workflow of two rules, and words for it."""
    draw = random.Random(files)
    texts = {
        f"in/{i}.txt": "".join(f"w{draw.randrange(2 * files)}\n" for _ in range(draw.randint(1, 4)))
        for i in range(files)
    }
    texts["paced.py"] = (TOOLS / "paced.py").read_text()
    snakefile = PACED.replace("FILES", str(files)).replace("CHILD", child)
    return Workflow(directory, snakefile, texts)


def undisturbed(directory: Path) -> dict[str, bytes]:
    """What the workflow of two rules writes."""
    written = {}
    for path in (directory / "in").glob("*.txt"):
        lines = path.read_text().splitlines()
        for step, model in (("first", "m"), ("second", "n")):
            lines = [f"{line.upper()}.{model}{int(path.stem) % 3}" for line in lines]
            written[f"out/{path.stem}.{step}"] = "".join(f"{line}\n" for line in lines).encode()
    return written


def esm2(directory: Path) -> Workflow:
    """The bench's 120 files, and ESM-2 models of the smallest published shape for them."""
    write = (
        "from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint;"
        "print([write_seeded_checkpoint('models', 6, 320, 20, seed) for seed in range(8)])"
    )
    directory.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", write], cwd=directory, check=True, capture_output=True, text=True
    )
    workflow = Workflow(directory, f"MODELS = {done.stdout}{ESM2}")
    (directory / "steady_esm2.py").write_text((TOOLS / "steady_esm2.py").read_text())
    workload.write(directory / "in")
    return workflow


def contents(directory: Path) -> dict[str, bytes]:
    """What a run has written, staging directories included; they may end meanwhile."""
    found = {}
    for parent, _, names in os.walk(directory / "out"):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found


def survives(
    workflow: Workflow,
    devices: dict[str, str],
    expected: dict[str, bytes],
    seed: int,
    kills: int,
) -> None:
    """Run to the end while somebody kills workers: nothing may tell that it did."""
    run = workflow.start(*TURNS, **devices)
    killer = Killer(workflow.directory, seed, kills)
    killer.start()
    try:
        text, _ = run.communicate(timeout=250)
    finally:
        run.kill()
        killer.stop()
    assert run.returncode == 0, text
    finished = Finished(workflow.directory, run.returncode, text)
    replay = Replay()
    replay.follow(finished.events())
    assert replay.killed.total() >= MIN_KILLS
    assert set(+replay.killed) >= PHASES, replay.killed
    assert not replay.pids, "every worker that started has ended"
    assert contents(workflow.directory) == expected
    # What a process that is killed while it writes has left is removed at the end.
    assert not list(workflow.directory.glob("**/.gpupool-*"))


def test_killed_workers_change_nothing(tmp_path: Path) -> None:  # W4 W10
    workflow = paced(tmp_path, 50)
    survives(workflow, TWO_DEVICES, undisturbed(tmp_path), seed=1, kills=14)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run of the long form writes."""
    done = esm2(tmp_path_factory.mktemp("undisturbed")).run(*TURNS, timeout_s=280, **FOUR_DEVICES)
    assert done.code == 0, done.text
    return contents(done.directory)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(20))
def test_killed_workers_change_no_embedding(
    tmp_path: Path, embedded: dict[str, bytes], seed: int
) -> None:  # W4 W10
    survives(esm2(tmp_path), FOUR_DEVICES, embedded, seed, kills=15)


# -- the coordinator -----------------------------------------------------------------
def incomplete(directory: Path) -> set[str]:
    """The files that Snakemake knows to be unfinished."""
    markers = directory / ".snakemake/incomplete"
    return {
        base64.b64decode(path.name).decode()
        for path in markers.glob("*")
        if path.name != "migrated"
    }


def identities(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of what is done."""
    unfinished = incomplete(directory)
    return {
        name: ((directory / name).stat().st_ino, (directory / name).stat().st_mtime_ns)
        for name in contents(directory)
        if name not in unfinished and ".gpupool-" not in name
    }


def sleepers(command: str) -> set[str]:
    """The processes of a command line."""
    line = command.replace(" ", "\0").encode() + b"\0"
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == line:
                found.add(entry.name)
        except OSError:
            continue
    return found


def outlives_kills(tmp_path: Path, files: int, moments_s: list[float]) -> None:
    """Kill the coordinator, again and again, each time later in the work; then finish it."""
    child = f"sleep 75{files:02d}33"
    workflow, directory = paced(tmp_path, files, child), tmp_path
    expected = undisturbed(directory)
    for moment_s in moments_s:
        before = identities(directory)
        run = workflow.start("--rerun-incomplete", "--nolock", **FOUR_DEVICES)
        assert eventually(lambda n=before: len(identities(directory)) > len(n), 60)
        time.sleep(moment_s)
        run.kill()
        gone = eventually(lambda: not worker_pids(directory) and not sleepers(child))
        assert gone, "workers and their children"
        run.communicate(timeout=10)
        for name, data in contents(directory).items():
            assert ".gpupool-" in name or data == expected[name], name
        after = identities(directory)
        assert before.items() <= after.items(), "what was done is not done again"
    before = identities(directory)
    assert 0 < len(before) < 2 * files, "the kills came while it was at work"
    last = workflow.run("--rerun-incomplete", "--nolock", **FOUR_DEVICES)
    assert last.code == 0, last.text
    assert before.items() <= identities(directory).items()
    assert last.summary["jobs_served"] == 2 * files - len(before)
    assert contents(directory) == expected
    assert not list(directory.glob("**/.gpupool-*")), "nor what killed writers have begun"


def test_a_killed_coordinator_leaves_nothing_half_done(tmp_path: Path) -> None:  # W7 S10
    outlives_kills(tmp_path, 30, [0.1, 0.4])


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_a_coordinator_killed_at_random_leaves_nothing_half_done(
    tmp_path: Path, seed: int
) -> None:  # W7 S10
    draw = random.Random(seed)
    outlives_kills(tmp_path, 80 + seed, [draw.uniform(0.0, 0.5) for _ in range(4)])
