"""Eviction as its users describe it, on simulated devices with real workers (D5-D9, T4, D13)."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from snakemake_executor_gpupool.frontends.commandline.main import main
from tests.acceptance.running import Finished, Workflow
from tests.waiting import eventually

STEP = """
rule step{number}:
    input: {before}
    output: "{number}.up"
    resources: gpupool_tool="textual.py:Textual"{resources}
    params: model="{model}", pid={pid}, sleep_s={sleep_s}
    script: "textual.py"
"""


def steps(
    *models: str, resources: tuple[str, ...] = (), pid: bool = False, sleep_s: float = 0.0
) -> str:
    """Rules that run one after the other, each on its model."""
    rules = [f'rule all:\n    input: "{len(models) - 1}.up"\n']
    for number, model in enumerate(models):
        rules.append(
            STEP.format(
                number=number,
                before=f'"{number - 1}.up"' if number else '"start.txt"',
                resources=f", {resources[number]}" if resources and resources[number] else "",
                model=model,
                pid=pid,
                sleep_s=sleep_s,
            )
        )
    return "\n".join(rules)


def run(tmp_path: Path, snakefile: str, gpus: int, *arguments: str, **variables: str) -> Finished:
    workflow = Workflow(tmp_path, snakefile, {"start.txt": "word\n"})
    # The steps follow each other; merged, they would need no second worker.
    apart = ("--gpupool-merge", "off")
    done = workflow.run(*apart, *arguments, GPUPOOL_SIMULATE=f"{gpus}x16GiB", **variables)
    assert done.code == 0, done.text
    return done


def evicted(done: Finished) -> list[str]:
    """The devices that evictions took, in order."""
    return [event["devices"][0] for event in done.events("evicted")]


def test_restart_ends_the_first_and_loads_it_again(tmp_path: Path) -> None:  # D5 D8
    # With the graph in view m2's worker may end by itself: it has no job left.
    done = run(tmp_path, steps("m1", "m2", "m1"), 1, GPUPOOL_LOOKAHEAD="0")
    assert (done.summary["evictions"], done.summary["model_loads"]) == (2, 3)
    assert done.read("2.up") == "WORD.M1.M2.m1\n"


def test_cpu_offload_keeps_process_and_weights(tmp_path: Path) -> None:  # D8
    snakefile = steps("m1", "m2", "m1", pid=True)
    done = run(tmp_path, snakefile, 1, "--gpupool-offload-strategy", "cpu")
    assert done.summary["model_loads"] == 2
    assert done.summary["offloads"] == 2
    first, _, last = (done.read(f"{n}.up").strip().split(".")[-1] for n in range(3))
    assert first == last, "the same process served again"
    moved = [event["to"] for event in done.events("model_moved")]
    assert moved == [["cpu"], ["cpu"], ["cuda:0"]]


def test_both_strategies_give_the_same_results(tmp_path: Path) -> None:  # D8 R5
    one = run(tmp_path / "restart", steps("m1", "m2", "m1"), 1)
    two = run(tmp_path / "cpu", steps("m1", "m2", "m1"), 1, "--gpupool-offload-strategy", "cpu")
    assert one.read("2.up") == two.read("2.up")


def test_the_least_recently_used_goes_wherever_it_is(tmp_path: Path) -> None:  # D5 T4
    instances = ("A", "B", "A", "C")
    resources = tuple(f'gpupool_instance="{name}"' for name in instances)
    # With the graph in view workers without a job left end by themselves, here and below.
    done = run(tmp_path, steps("m", "m", "m", "m", resources=resources), 2, GPUPOOL_LOOKAHEAD="0")
    granted = {event["worker"]: event["devices"][0] for event in done.events("device_granted")}
    assert done.summary["evictions"] == 1
    assert evicted(done) == [granted["Textual.2"]], "B was used longer ago than A"


def test_a_model_that_is_used_again_stays_and_another_goes(tmp_path: Path) -> None:  # D5
    """m1 was used longest ago, and its next job is in the graph; m2 has none left."""
    snakefile = steps("m1", "m2", "m3", "m1")
    ahead = run(tmp_path / "ahead", snakefile, 2, GPUPOOL_RECORD="1")
    ready = run(tmp_path / "ready", snakefile, 2, GPUPOOL_LOOKAHEAD="0")
    assert (ahead.summary["model_loads"], ready.summary["model_loads"]) == (3, 4)
    assert ahead.read("3.up") == ready.read("3.up")
    recording = ahead.directory / ".snakemake/gpupool/latest/recording.jsonl"
    assert main(["replay", str(recording)]) == 0
    assert "JobsForeseen" in recording.read_text()


def test_packing_goes_round_and_evicts_nobody(tmp_path: Path) -> None:  # D9
    resources = tuple(f'gpupool_instance="{name}", vram_mb=4000' for name in "ABCD")
    done = run(
        tmp_path,
        steps("m", "m", "m", "m", resources=resources),
        2,
        "--gpupool-allow-multiple-per-device",
    )
    granted = [event["devices"][0] for event in done.events("device_granted")]
    assert granted == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert done.summary["evictions"] == 0


def test_what_does_not_fit_beside_another_evicts_it(tmp_path: Path) -> None:  # D9
    resources = tuple(f'gpupool_instance="{name}", vram_mb=9000' for name in "AB")
    done = run(
        tmp_path,
        steps("m", "m", resources=resources),
        1,
        "--gpupool-allow-multiple-per-device",
        GPUPOOL_LOOKAHEAD="0",
    )
    assert done.summary["evictions"] == 1


def test_what_an_earlier_run_measured_counts_when_packing(tmp_path: Path) -> None:  # D9
    snakefile = steps("m1", "m2")
    packing = "--gpupool-allow-multiple-per-device"
    assert run(tmp_path, snakefile, 1, packing).summary["evictions"] == 0, "no figure is known"
    path = tmp_path / ".snakemake/profile.json"
    profile = json.loads(path.read_text())
    for figures in profile["entries"].values():
        figures["peak_mib"] = 9000
    path.write_text(json.dumps(profile))
    # With the graph in view m1's worker may end by itself first: it has no job left.
    again = run(tmp_path, snakefile, 1, packing, "--forceall", GPUPOOL_LOOKAHEAD="0")
    assert again.summary["evictions"] == 1


def test_a_request_for_two_evicts_two_singles(tmp_path: Path) -> None:  # D5 D1
    resources = ('gpupool_instance="A"', 'gpupool_instance="B"', 'device="cudax2"')
    done = run(tmp_path, steps("m", "m", "m", resources=resources), 2, GPUPOOL_LOOKAHEAD="0")
    assert sorted(evicted(done)) == ["cuda:0", "cuda:1"]
    assert done.events("device_granted")[-1]["devices"] == ["cuda:0", "cuda:1"]


def test_a_specific_request_displaces_the_idle_occupant(tmp_path: Path) -> None:  # D6
    resources = ('device="cuda:0"', 'device="cuda:0"')
    done = run(tmp_path, steps("m1", "m2", resources=resources), 4)
    assert evicted(done) == ["cuda:0"]


def test_a_specific_request_waits_for_the_busy_occupant(tmp_path: Path) -> None:  # D6 D7
    snakefile = """
        rule all:
            input: "a.up", "b.up"

        rule a:
            input: "start.txt"
            output: "a.up"
            resources: gpupool_tool="textual.py:Textual", device="cuda:0"
            params: model="m1", sleep_s=1.5
            script: "textual.py"

        rule wait_until_a_is_busy:
            input: "start.txt"
            output: "later.txt"
            shell:
                "until grep -q batch_sent .snakemake/gpupool/latest/events.jsonl;"
                " do sleep 0.02; done; cp {input} {output}"

        rule b:
            input: "later.txt"
            output: "b.up"
            resources: gpupool_tool="textual.py:Textual", device="cuda:0"
            params: model="m2"
            script: "textual.py"
    """
    done = run(tmp_path, snakefile, 2)
    batches = done.events("batch_done")
    assert done.summary["evictions"] == 1 and done.summary["worker_crashes"] == 0
    assert done.events("evicted")[0]["time_s"] >= batches[0]["time_s"]


def test_a_leased_device_is_not_taken_and_a_served_rule_waits(tmp_path: Path) -> None:  # D11
    snakefile = """
        rule all:
            input: "plain.txt", "a.up"

        rule plain:
            output: "plain.txt"
            resources: gpu=1
            priority: 10
            shell: "sleep 2; echo $CUDA_VISIBLE_DEVICES > {output}"

        rule a:
            input: "start.txt"
            output: "a.up"
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"
    """
    done = run(tmp_path, snakefile, 1)
    released_s = done.events("lease_released")[0]["time_s"]
    assert done.events("worker_started")[-1]["time_s"] >= released_s


# -- several runs on one machine (D13) ---------------------------------------------
LONG = """
rule all:
    input: expand("{i}.txt", i=range(3))

rule one:
    output: "{i}.txt"
    resources: gpu=1
    shell: "sleep 0.5; echo $CUDA_VISIBLE_DEVICES > {output}"
"""


def held(directory: Path) -> list[tuple[str, float, float]]:
    """(device, from, to) of every lease that a run noted."""
    log = directory / ".snakemake/gpupool/latest/events.jsonl"
    spans, since = [], {}
    for event in map(json.loads, log.read_text().splitlines()):
        if event["event"] == "lease_granted":
            since[event["job_id"]] = (event["devices"][0], event["time_s"])
        elif event["event"] == "lease_released":
            device, start_s = since.pop(event["job_id"])
            spans.append((device, start_s, event["time_s"]))
    return spans


def test_two_runs_never_hold_one_device_together(tmp_path: Path) -> None:  # D13
    env = {"GPUPOOL_SIMULATE": "2x16GiB", "GPUPOOL_LOCK_DIR": str(locks(tmp_path))}
    runs = [Workflow(tmp_path / name, LONG).start("--cores", "8", **env) for name in "ab"]
    texts = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "".join(texts)
    for device, start_s, end_s in held(tmp_path / "a"):
        for other, other_start_s, other_end_s in held(tmp_path / "b"):
            overlap = min(end_s, other_end_s) - max(start_s, other_start_s)
            assert device != other or overlap <= 0


def locks(tmp_path: Path) -> Path:
    """A directory for locks as a site would make it."""
    directory = tmp_path / "locks"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    return directory


def test_a_killed_run_frees_its_devices_at_once(tmp_path: Path) -> None:  # D13 W7
    env = {"GPUPOOL_SIMULATE": "1x16GiB", "GPUPOOL_LOCK_DIR": str(locks(tmp_path))}
    endless = LONG.replace("sleep 0.5", "sleep 600")
    first = Workflow(tmp_path / "a", endless).start("--cores", "8", **env)
    log = tmp_path / "a/.snakemake/gpupool/latest/events.jsonl"
    assert eventually(lambda: log.exists() and "lease_granted" in log.read_text())
    second = Workflow(tmp_path / "b", LONG.replace("range(3)", "range(1)")).start(**env)
    other = tmp_path / "b/.snakemake/gpupool/latest/events.jsonl"
    assert eventually(lambda: other.exists() and "device_refused" in other.read_text())
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    text, _ = second.communicate(timeout=60)
    assert second.returncode == 0, text


def test_an_idle_worker_makes_room_for_another_run(tmp_path: Path) -> None:  # D13
    env = {"GPUPOOL_SIMULATE": "1x16GiB", "GPUPOOL_LOCK_DIR": str(locks(tmp_path))}
    served_then_cpu = steps("m") + "\n".join(
        [
            "",
            'rule last:\n    input: "0.up"\n    output: "last.txt"',
            '    shell: "for n in $(seq 600); do test -e ../b/0.txt && break; sleep 0.1; done;'
            ' touch {output}"',
        ]
    )
    first = Workflow(tmp_path / "a", served_then_cpu, {"start.txt": "word\n"})
    run_a = first.start("last.txt", **env)
    assert eventually((tmp_path / "a/0.up").exists)
    run_b = Workflow(tmp_path / "b", LONG.replace("range(3)", "range(1)")).start(**env)
    text_b, _ = run_b.communicate(timeout=60)
    text_a, _ = run_a.communicate(timeout=60)
    assert (run_a.returncode, run_b.returncode) == (0, 0), text_a + text_b
