"""Served rules keep what Snakemake promises (S1-S4, P5, P8, T5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, Workflow

INPUTS = {f"in/{i}.txt": f"alpha{i % 3}\nbeta\n" for i in range(6)}

BASIC = """
rule all:
    input: expand("out/{i}.up", i=range(6))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    log: "logs/{i}.log"
    benchmark: "bench/{i}.tsv"
    resources: gpupool_tool="textual.py:Textual"
    params: model="m1", sample=lambda wildcards: wildcards.i
    script: "textual.py"
"""


def test_served_and_local_runs_agree(tmp_path: Path) -> None:  # S1 S2 S4 T5
    workflow = Workflow(tmp_path / "ours", BASIC, INPUTS)
    ours = workflow.run(GPUPOOL_SIMULATE="4x16GiB")
    local = Workflow(tmp_path / "local", BASIC, INPUTS).run(*LOCAL)
    assert (ours.code, local.code) == (0, 0), ours.text + local.text
    for number in range(6):
        assert ours.read(f"out/{number}.up") == local.read(f"out/{number}.up")
    assert ours.summary["jobs_served"] == 6
    assert (ours.summary["items"], ours.summary["items_unique"]) == (12, 4)
    assert ours.summary["model_loads"] == 1
    assert "SIMULATED" in ours.text
    assert "Nothing to be done" in workflow.run("--dry-run").text


def test_log_and_benchmark_are_the_jobs_own(tmp_path: Path) -> None:  # S4
    run = Workflow(tmp_path, BASIC, INPUTS).run()
    assert run.code == 0, run.text
    for number in range(6):
        log = run.read(f"logs/{number}.log")
        assert "writing 2 results of up" in log and log.count("writing") == 1
        header, values = run.read(f"bench/{number}.tsv").splitlines()
        assert header.split()[0] == "s" and float(values.split()[0]) >= 0


def test_a_cpu_machine_says_so_once_and_uses_cpu_workers(tmp_path: Path) -> None:  # D12
    run = Workflow(tmp_path, BASIC, INPUTS).run("--gpupool-devices", "cpu:2")
    assert run.code == 0, run.text
    assert run.text.count("no GPU is visible") <= 1
    assert list(run.summary["devices"]) == ["cpu:0", "cpu:1"]


def test_the_tool_can_be_set_from_outside(tmp_path: Path) -> None:  # S2
    snakefile = BASIC.replace('    resources: gpupool_tool="textual.py:Textual"\n', "")
    run = Workflow(tmp_path, snakefile, INPUTS).run(
        "--set-resources", "up:gpupool_tool='textual.py:Textual'"
    )
    assert run.code == 0, run.text
    assert run.summary["jobs_served"] == 6


@pytest.mark.parametrize("place", ["resources", "params"])
def test_the_rules_own_script_can_be_the_tool(tmp_path: Path, place: str) -> None:  # S2
    snakefile = BASIC.replace('    resources: gpupool_tool="textual.py:Textual"\n', "")
    if place == "resources":
        snakefile = snakefile.replace(
            "    params:", '    resources: gpupool_tool="script"\n    params:'
        )
    else:
        snakefile = snakefile.replace("    params:", '    params: gpupool_tool="script",')
    run = Workflow(tmp_path, snakefile, INPUTS).run()
    assert run.code == 0, run.text
    assert run.summary["jobs_served"] == 6


def test_rules_that_share_a_model_share_the_computation(tmp_path: Path) -> None:  # P5 S3
    snakefile = """
        rule all:
            input: expand("{rule}/{i}.up", rule=["one", "two"], i=range(6))

        rule one:
            input: "in/{i}.txt"
            output: "one/{i}.up"
            resources: gpupool_tool="textual.py:Textual"
            params: model="m1"
            script: "textual.py"

        use rule one as two with:
            output: "two/{i}.up"
    """
    run = Workflow(tmp_path, snakefile, INPUTS).run()
    assert run.code == 0, run.text
    assert (run.summary["items"], run.summary["items_unique"]) == (24, 4)
    assert run.summary["model_loads"] == 1


def test_rules_with_one_tool_but_other_params_do_not(tmp_path: Path) -> None:  # T2
    snakefile = """
        rule all:
            input: expand("{rule}/{i}.up", rule=["one", "two", "three"], i=range(6))

        rule one:
            input: "in/{i}.txt"
            output: "one/{i}.up"
            resources: gpupool_tool="textual.py:Textual"
            params: model="m1"
            script: "textual.py"

        use rule one as two with:
            output: "two/{i}.up"
            params: model="m2"

        use rule one as three with:
            output: "three/{i}.up"
            params: model="m1", suffix="!"
    """
    run = Workflow(tmp_path, snakefile, INPUTS).run("--gpupool-devices", "cpu:1")
    assert run.code == 0, run.text
    assert run.read("one/0.up") == "ALPHA0.m1\nBETA.m1\n"
    assert run.read("two/0.up") == "ALPHA0.m2\nBETA.m2\n"
    assert run.read("three/0.up") == "ALPHA0!.m1\nBETA!.m1\n"
    assert run.summary["items_unique"] == 12
    assert run.summary["model_loads"] == 2


FLAGS = """
rule all:
    input: "counted.txt", "kept.up", "ensured.up", "shadowed.up", "a/named.up"

TOOL = "textual.py:Textual"

rule temporary:
    input: "in/0.txt"
    output: temp("gone.up")
    resources: gpupool_tool=TOOL
    script: "textual.py"

rule count:
    input: "gone.up"
    output: "counted.txt"
    shell: "wc -l < {input} > {output}"

rule guarded:
    input: "in/1.txt"
    output: protected("kept.up")
    resources: gpupool_tool=TOOL
    script: "textual.py"

rule ensured:
    input: "in/2.txt"
    output: ensure("ensured.up", non_empty=True)
    resources: gpupool_tool=TOOL
    script: "textual.py"

rule shadowed:
    input: "in/3.txt"
    output: "shadowed.up"
    log: "logs/shadowed.log"
    shadow: "minimal"
    resources: gpupool_tool=TOOL
    script: "textual.py"

rule named:
    input: first="in/4.txt", second=["in/5.txt"]
    output: lines="a/named.up"
    resources: gpupool_tool=TOOL
    params: model=lambda wildcards, input: "m" + str(len(input))
    script: "textual.py"
"""


def test_flags_of_outputs_and_kinds_of_inputs(tmp_path: Path) -> None:  # S4
    ours = Workflow(tmp_path / "ours", FLAGS, INPUTS).run()
    local = Workflow(tmp_path / "local", FLAGS, INPUTS).run(*LOCAL)
    assert (ours.code, local.code) == (0, 0), ours.text + local.text
    for name in ("counted.txt", "kept.up", "ensured.up", "shadowed.up", "a/named.up"):
        assert ours.read(name) == local.read(name)
    assert not (tmp_path / "ours/gone.up").exists()
    assert not (tmp_path / "ours/kept.up").stat().st_mode & 0o222
    assert "writing" in ours.read("logs/shadowed.log")


def test_an_ensured_output_that_is_empty_fails_its_job_only(tmp_path: Path) -> None:  # S4
    snakefile = """
        rule all:
            input: "empty.up", "full.up"

        rule ensured:
            input: "in/{name}.txt"
            output: ensure("{name}.up", non_empty=True)
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"
    """
    run = Workflow(tmp_path, snakefile, {"in/empty.txt": "", "in/full.txt": "x\n"}).run("-k")
    assert run.code == 1
    assert "empty" in run.text
    assert (tmp_path / "full.up").exists() and not (tmp_path / "empty.up").exists()


def test_retries_run_a_failed_job_again(tmp_path: Path) -> None:  # S4
    snakefile = """
        rule all:
            input: "a.up"

        rule up:
            input: "in/0.txt"
            output: "a.up"
            retries: 2
            resources: gpupool_tool="textual.py:Textual"
            params: model="here.once"
            script: "textual.py"
    """
    run = Workflow(tmp_path, snakefile, INPUTS).run()
    assert run.code == 0, run.text
    assert run.text.count("Trying to restart job") == 1
    assert "weights not there yet" in run.text
    assert run.read("a.up") == "ALPHA0.here.once\nBETA.here.once\n"


def test_checkpoints_open_further_served_jobs(tmp_path: Path) -> None:  # S4
    snakefile = """
        def found(wildcards):
            folder = checkpoints.split.get().output[0]
            return expand("up/{n}.up", n=glob_wildcards(folder + "/{n}.txt").n)

        rule all:
            input: found

        checkpoint split:
            output: directory("parts")
            shell: "mkdir {output}; for n in 1 2 3; do echo part$n > {output}/$n.txt; done"

        rule up:
            input: "parts/{n}.txt"
            output: "up/{n}.up"
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"
    """
    run = Workflow(tmp_path, snakefile).run()
    assert run.code == 0, run.text
    assert run.read("up/2.up") == "PART2.plain\n"


def test_groups_of_served_rules_run_in_the_pool(tmp_path: Path) -> None:  # S8 M1
    snakefile = """
        rule all:
            input: expand("{i}.second", i=range(4))

        rule first:
            input: "in/{i}.txt"
            output: "{i}.first"
            group: "chain"
            params: gpupool_tool="textual.py:Textual"
            script: "textual.py"

        rule second:
            input: "{i}.first"
            output: "{i}.second"
            group: "chain"
            params: gpupool_tool="textual.py:Textual", suffix="?"
            script: "textual.py"
    """
    run = Workflow(tmp_path, snakefile, INPUTS).run()
    assert run.code == 0, run.text
    assert run.read("3.second") == "ALPHA0.PLAIN?.plain\nBETA.PLAIN?.plain\n"
    assert run.summary["jobs_served"] == 8


def test_dry_run_and_touch_start_no_worker(tmp_path: Path) -> None:  # S4
    workflow = Workflow(tmp_path, BASIC, INPUTS)
    assert workflow.run("--dry-run").code == 0
    assert not (tmp_path / "out").exists()
    assert workflow.run().code == 0
    before = (tmp_path / ".snakemake/gpupool/latest").readlink()
    assert workflow.run("--touch", "--forceall").code == 0
    assert (tmp_path / ".snakemake/gpupool/latest").readlink() == before


def test_between_workflow_cache(tmp_path: Path) -> None:  # S4
    snakefile = BASIC.replace('    benchmark: "bench/{i}.tsv"\n', "    cache: True\n")
    snakefile = snakefile.replace('    log: "logs/{i}.log"\n', "")
    store = tmp_path / "store"
    store.mkdir()
    env = {"SNAKEMAKE_OUTPUT_CACHE": str(store)}
    first = Workflow(tmp_path / "one", snakefile, INPUTS).run("--cache", **env)
    second = Workflow(tmp_path / "two", snakefile, INPUTS).run("--cache", **env)
    assert (first.code, second.code) == (0, 0), first.text + second.text
    assert first.summary["jobs_served"] >= 3
    assert second.summary["jobs_served"] == 0
    assert second.read("out/4.up") == first.read("out/4.up")


def test_modules_find_their_tool_beside_their_own_snakefile(tmp_path: Path) -> None:  # S2 S4
    snakefile = """
        module other:
            snakefile: "other/Snakefile"
            prefix: "sub"

        use rule * from other
    """
    inner = """
rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="tools/mine.py:Textual"
    script: "tools/mine.py"
"""
    tool = (Path(__file__).parent.parent / "tools/textual.py").read_text()
    files = {f"sub/{name}": text for name, text in INPUTS.items()}
    files |= {"other/Snakefile": inner, "other/tools/mine.py": tool}
    run = Workflow(tmp_path, snakefile, files).run("sub/out/1.up")
    assert run.code == 0, run.text
    assert run.summary["jobs_served"] == 1


def test_jobs_are_reported_as_they_complete(tmp_path: Path) -> None:  # P8
    snakefile = """
        rule all:
            input: expand("{i}.n", i=range(6))

        rule up:
            input: "in/{i}.txt"
            output: "{i}.up"
            resources: gpupool_tool="textual.py:Textual"
            params: sleep_s=0.4
            script: "textual.py"

        rule count:
            input: "{i}.up"
            output: "{i}.n"
            shell: "date +%s.%N > {output}"
    """
    files = {f"in/{i}.txt": "x" * (40 + i) + "\n" for i in range(6)}
    run = Workflow(tmp_path, snakefile, files).run("--gpupool-devices", "cpu:1")
    assert run.code == 0, run.text
    last_batch_s = max(event["time_s"] for event in run.events("batch_done"))
    first_downstream_s = min(float(run.read(f"{i}.n")) for i in range(6))
    assert first_downstream_s < last_batch_s
