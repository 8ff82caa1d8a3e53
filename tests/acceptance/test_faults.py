"""Workers and runs that end before their time (W4, S10), and plain GPU rules (S7)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, Workflow
from tests.waiting import eventually

SLOW = """
rule all:
    input: expand("out/{i}.up", i=range(8))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=SLEEP
    script: "textual.py"
"""
INPUTS = {f"in/{i}.txt": "x" * (40 + i) + "\n" for i in range(8)}


def worker_pids(directory: Path) -> set[int]:
    """Processes of workers that were started for a workflow in this directory."""
    pids = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            cwd = (entry / "cwd").readlink()
        except OSError:
            continue
        if b"worker/main.py" in command and cwd == directory:
            pids.add(int(entry.name))
    return pids


def model_workers(directory: Path) -> list[int]:
    """The workers that hold a model, the oldest first."""
    names = {}
    for pid in worker_pids(directory):
        with contextlib.suppress(OSError):
            names[pid] = (Path("/proc") / str(pid) / "environ").read_bytes()
    return sorted(pid for pid, text in names.items() if text and b".files" not in text)


def jobs_done(log: Path) -> int:
    """How many jobs a run has done so far."""
    return log.read_text().count('"job_done"')


def worker_at_new_work(log: Path) -> int | None:
    """The pid of a worker that computes something over which no worker has died."""
    events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    by_kind = {
        kind: [e for e in events if e["event"] == kind] for kind in ("worker_died", "batch_done")
    }
    dead = {event["worker"] for event in by_kind["worker_died"]}
    done = {event["batch"] for event in by_kind["batch_done"]}
    at_hand: dict[str, tuple[int, ...]] = {}
    for event in events:
        if event["event"] == "batch_sent" and event["batch"] not in done:
            at_hand.setdefault(event["worker"], tuple(event["jobs"]))
    interrupted = {at_hand[worker] for worker in dead if worker in at_hand}
    for event in events:
        hers = at_hand.get(event.get("worker", ""))
        alive = event["event"] == "worker_started" and event["worker"] not in dead
        if alive and hers and hers not in interrupted:
            return int(event["pid"])
    return None


def test_killed_workers_cost_nobody_a_result(tmp_path: Path) -> None:  # W4
    workflow = Workflow(tmp_path, SLOW.replace("SLEEP", "0.4"), INPUTS)
    run = workflow.start("--gpupool-devices", "cpu:2")
    log = tmp_path / ".snakemake/gpupool/latest/events.jsonl"
    for kills in range(1, 4):
        # Never the same item twice: two workers that die over one item alone count against it.
        assert eventually(lambda: log.exists() and worker_at_new_work(log))
        pid = worker_at_new_work(log)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda n=kills: log.read_text().count('"worker_died"') == n)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 0, text
    summary = json.loads((log.parent / "summary.json").read_text())
    assert summary["worker_crashes"] == 3
    for number in range(8):
        assert (tmp_path / f"out/{number}.up").read_text().startswith("XXX")


def test_an_item_that_kills_its_worker_fails_its_own_job_only(tmp_path: Path) -> None:  # W4 P9
    files = {**INPUTS, "in/3.txt": "fine\ndie\n", "in/5.txt": "bad\n"}
    run = Workflow(tmp_path, SLOW.replace("SLEEP", "0"), files).run("--keep-going")
    assert run.code == 1
    done = {path.name for path in (tmp_path / "out").glob("*.up")}
    assert done == {f"{i}.up" for i in (0, 1, 2, 4, 6, 7)}
    assert "rule up (i=3): item die" in run.text and "exit code 7" in run.text
    assert "rule up (i=5): item bad: ValueError: this line is bad" in run.text
    assert run.summary["jobs_failed"] == 2


def local_code(directory: Path, number: int) -> int:
    """The exit code of a run under Snakemake's local executor that a signal ends."""
    workflow = Workflow(directory, SLOW.replace("SLEEP", "1.0"), INPUTS)
    run = workflow.start(*LOCAL)
    assert eventually(lambda: any((directory / "out").glob("*.up")), 60)
    assert run.poll() is None, "it has ended before the signal"
    run.send_signal(number)
    run.communicate(timeout=60)
    return run.returncode


def has_finished_some(directory: Path) -> bool:
    """Whether Snakemake knows of a job that has ended, and no output is being written.

    A run that is ended while it writes is a test of its own.
    """
    known, unfinished = (
        {path.name for path in directory.glob(f".snakemake/{kind}/*")}
        for kind in ("metadata", "incomplete")
    )
    return bool(known - unfinished) and all(
        path.suffix == ".up" for path in directory.glob("out/*")
    )


def ends_cleanly(tmp_path: Path, number: int, within_s: float) -> str:
    """Send a signal to a run at work; return what it printed. Nothing may be left behind."""
    workflow = Workflow(tmp_path, SLOW.replace("SLEEP", "2.0"), INPUTS)
    run = workflow.start("--gpupool-devices", "cpu:2")
    # As early as can be, so that most of the work is still to come.
    assert eventually(lambda: has_finished_some(tmp_path), 60)
    assert run.poll() is None, "it has ended before the signal"
    started_s = time.monotonic()
    run.send_signal(number)
    text, _ = run.communicate(timeout=60)
    assert time.monotonic() - started_s < within_s
    assert run.returncode == local_code(tmp_path / "local", number) != 0
    assert eventually(lambda: not worker_pids(tmp_path))
    files = [path.name for path in (tmp_path / "out").iterdir()]
    assert all(name.endswith(".up") for name in files), files
    workflow.run("--unlock")
    again = workflow.run("--rerun-incomplete", "--gpupool-devices", "cpu:2")
    assert again.code == 0, again.text
    assert len(list((tmp_path / "out").glob("*.up"))) == 8
    assert again.summary["jobs_served"] < 8
    return text


def test_ctrl_c_ends_every_worker(tmp_path: Path) -> None:  # S10
    assert "Terminating processes on user request" in ends_cleanly(tmp_path, signal.SIGINT, 10)


def test_sigterm_ends_every_worker(tmp_path: Path) -> None:  # S10
    ends_cleanly(tmp_path, signal.SIGTERM, 10)


HALF_WRITTEN = """
rule all:
    input: "out/whole"

rule half:
    input: "in.txt"
    output: directory("out/whole")
    resources: gpupool_tool="script"
    script: "halves.py"
"""
HALVES = """
import os
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Halves(Tool):
    devices = ("cpu",)

    def load(self, device): ...

    def read(self, job):
        return [Path(job.input[0]).read_text()]

    def run(self, items):
        return items

    def write(self, job, results):
        folder = Path(job.output[0])
        folder.mkdir(exist_ok=True)
        folder.joinpath("first").write_text(results[0])
        Path("begun").touch()
        while not os.path.exists("may_end"):
            time.sleep(0.01)
        folder.joinpath("second").write_text(results[0])


Halves.main(snakemake)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_while_it_writes_leaves_no_part(
    tmp_path: Path, number: int
) -> None:  # S10 W9
    workflow = Workflow(tmp_path, HALF_WRITTEN, {"in.txt": "a", "halves.py": HALVES})
    run = workflow.start("--gpupool-devices", "cpu:1")
    assert eventually((tmp_path / "begun").exists, 60)
    hidden = [path.name for path in (tmp_path / "out").iterdir()]
    assert len(hidden) == 1 and hidden[0].startswith(".gpupool-")
    run.send_signal(number)
    text, _ = run.communicate(timeout=60)
    assert run.returncode != 0, text
    assert not list((tmp_path / "out").glob("*")) + list((tmp_path / "out").glob(".*")), text
    (tmp_path / "may_end").touch()
    workflow.run("--unlock")
    again = workflow.run("--rerun-incomplete", "--gpupool-devices", "cpu:1")
    assert again.code == 0, again.text
    assert sorted(path.name for path in (tmp_path / "out/whole").glob("[!.]*")) == [
        "first",
        "second",
    ]


def test_what_a_killed_writer_has_begun_is_gone_when_the_run_ends(tmp_path: Path) -> None:  # W4 W9
    workflow = Workflow(tmp_path, HALF_WRITTEN, {"in.txt": "a", "halves.py": HALVES})
    run = workflow.start("--gpupool-devices", "cpu:1")
    assert eventually((tmp_path / "begun").exists, 60)
    (hidden,) = (tmp_path / "out").iterdir()
    os.kill(int(hidden.name.split("-")[2]), signal.SIGKILL)
    (tmp_path / "may_end").touch()
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 0, text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    assert (tmp_path / "out/whole/second").read_text() == "a"


def test_what_a_killed_run_has_begun_is_gone_when_the_next_one_ends(
    tmp_path: Path,
) -> None:  # W9
    workflow = Workflow(tmp_path, HALF_WRITTEN, {"in.txt": "a", "halves.py": HALVES})
    run = workflow.start("--gpupool-devices", "cpu:1")
    assert eventually((tmp_path / "begun").exists, 60)
    (hidden,) = (tmp_path / "out").iterdir()
    run.kill()
    run.communicate()
    assert eventually(lambda: not Path("/proc", hidden.name.split("-")[2]).exists(), 30)
    assert hidden.exists(), "nobody was there to remove it"
    (tmp_path / "may_end").touch()
    workflow.run("--unlock")
    again = workflow.run("--rerun-incomplete", "--gpupool-devices", "cpu:1")
    assert again.code == 0, again.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


SLEEPERS = """
rule all:
    input: "a.txt", "b.txt"

rule in_a_shell:
    output: "a.txt"
    shell: "sleep 7531; echo a > {output}"

rule in_a_child:
    output: "b.txt"
    shadow: "minimal"
    shell: "sleep 7532; echo b > {output}"
"""


def sleepers() -> set[str]:
    """The processes of the two rules' commands."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if command in (b"sleep\x007531\x00", b"sleep\x007532\x00"):
            found.add(entry.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_commands_of_cpu_rules_end_with_the_run(tmp_path: Path, number: int) -> None:  # S10
    run = Workflow(tmp_path, SLEEPERS).start("--cores", "4")
    assert eventually(lambda: len(sleepers()) == 2)
    run.send_signal(number)
    text, _ = run.communicate(timeout=60)
    assert run.returncode != 0, text
    assert eventually(lambda: not sleepers())
    assert not (tmp_path / "a.txt").exists()


GPU_JOBS = """
rule all:
    input: expand("one/{i}.txt", i=range(8)), "two.txt", "named.txt"

rule one:
    output: "one/{i}.txt"
    resources: gpu=1
    shell: "echo $CUDA_VISIBLE_DEVICES $GPUPOOL_SIMULATED > {output}; sleep 0.3"

rule two:
    output: "two.txt"
    resources: gpu=2
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"

rule named:
    output: "named.txt"
    resources: device="cuda:3"
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
"""


def test_plain_gpu_rules_get_devices_of_their_own(tmp_path: Path) -> None:  # S7 D6 D11
    run = Workflow(tmp_path, GPU_JOBS).run("--cores", "8", GPUPOOL_SIMULATE="4x16GiB")
    assert run.code == 0, run.text
    seen = [run.read(f"one/{i}.txt").split() for i in range(8)]
    assert {device for device, _ in seen} == {"0", "1", "2", "3"}
    assert {simulated for _, simulated in seen} == {"1"}
    assert len(run.read("two.txt").strip().split(",")) == 2
    assert run.read("named.txt").strip() == "3"
    held: dict[str, int] = {}
    for event in run.events():
        if event["event"] == "lease_granted":
            for device in event["devices"]:
                assert device not in held, "two jobs on one device"
                held[device] = event["job_id"]
        elif event["event"] == "lease_released":
            held = {d: job for d, job in held.items() if job != event["job_id"]}


def test_an_idle_worker_makes_room_for_a_plain_gpu_job(tmp_path: Path) -> None:  # S7 D5
    snakefile = """
        rule all:
            input: "gpu.txt"

        rule up:
            input: "in/0.txt"
            output: "0.up"
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"

        rule gpu:
            input: "0.up"
            output: "gpu.txt"
            resources: gpu=1
            shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
    """
    run = Workflow(tmp_path, snakefile, INPUTS).run(GPUPOOL_SIMULATE="1x16GiB")
    assert run.code == 0, run.text
    assert run.summary["evictions"] == 1
