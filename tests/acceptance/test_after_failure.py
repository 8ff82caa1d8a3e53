"""After a failure: what still starts, and how it is told (S6, S9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.running import Workflow

CROWD = """
CPU, GPU, SERVED = range(60), range(6), range(24)

rule all:
    input:
        "bad.txt", expand("cpu/{i}.txt", i=CPU), expand("gpu/{i}.txt", i=GPU),
        expand("served/{i}.txt", i=SERVED), "group.txt",

rule bad:
    input: "in.txt"
    output: "bad.txt"
    priority: 10
    retries: 1
    shell: "echo x >> tried; until ls served/*.txt; do sleep 0.1; done; exit 1"

rule cpu:
    input: "in.txt"
    output: "cpu/{i}.txt"
    shell: "touch {output}.started; sleep 0.3; cp {input} {output}"

rule gpu:
    input: "in.txt"
    output: "gpu/{i}.txt"
    resources: gpu=1
    shell: "cp {input} {output}"

rule served:
    input: "in/{i}.txt"
    output: "served/{i}.txt", update("books/{i}.txt")
    params: sleep_s=0.4
    resources: gpupool_tool="textual.py:Textual", device="cpu"
    script: "textual.py"

rule member:
    input: "in.txt"
    output: update("member.txt")
    group: "g"
    resources: gpu=1
    shell: "cp {input} {output}"

rule last_member:
    input: "member.txt"
    output: "group.txt"
    group: "g"
    shell: "cp {input} {output}"
"""


@pytest.mark.timeout(180)
def test_nothing_new_starts_after_a_failure(tmp_path: Path) -> None:  # S6 S9
    files = {"in.txt": "new\n", **{f"in/{i}.txt": f"{'x' * 50}{i}\n" for i in range(24)}}
    old = [f"cpu/{i}.txt" for i in range(60)] + [f"gpu/{i}.txt" for i in range(6)]
    books = [f"books/{i}.txt" for i in range(24)]
    workflow = Workflow(tmp_path, CROWD, {**files, "member.txt": "old\n"})
    for name in [*old, *books]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old\n")
    run = workflow.run("--cores", "2", "--forceall", GPUPOOL_SIMULATE="1")
    assert run.code == 1
    assert run.read("tried") == "x\nx\n", "a job that is tried again has not failed for good"

    def of(kind: str, text: str) -> int:
        return sum((tmp_path / name).read_text() == text for name in old if name.startswith(kind))

    started = len(list((tmp_path / "cpu").glob("*.started")))
    assert 0 < of("cpu", "new\n") == started < 55, "what had started is finished"
    assert of("cpu", "old\n") == 60 - started, "what had not is as it was"
    assert of("gpu", "old\n") > 0
    served = len(list((tmp_path / "served").iterdir()))
    assert served == run.summary["jobs_served"] < 24
    assert run.summary["jobs_withdrawn"] == 24 - served and run.summary["jobs_failed"] == 0
    assert {(tmp_path / name).read_text() for name in books} == {"old\n"}
    assert "were not started because another one failed" in run.text
    assert run.text.count("Error in rule") == 2, "nobody else is said to have failed"

    # Nothing is taken for incomplete; the next run does what is missing.
    again = workflow.run("--cores", "2", "--keep-going", "--until", "cpu", "member", timeout_s=90)
    assert again.code == 0, again.text


TOLD = """
rule all:
    input: "c.txt", "z.txt", "g2.txt", "alone.txt"

rule a:
    input: "in/good.txt"
    output: "a.txt"
    log: "logs/a.log"
    group: "served"
    resources: gpupool_tool="textual.py:Textual"
    shell: "exit 1"

rule b:
    input: "a.txt", "in/bad.txt"
    output: "b.txt"
    log: "logs/b.log"
    group: "served"
    resources: gpupool_tool="textual.py:Textual"
    shell: "exit 1"

rule c:
    input: "b.txt"
    output: "c.txt", update("book.txt")
    log: "logs/c.log"
    group: "served"
    shell: "cp {input} {output[0]}; echo c >> {output[1]}"

rule y:
    output: "y.txt"
    log: "logs/y.log"
    group: "plain"
    shell: "echo y > {output}"

rule z:
    input: "y.txt"
    output: "z.txt"
    log: "logs/z.log"
    group: "plain"
    shell: "echo the plain reason >&2; exit 7"

rule g1:
    output: "g1.txt", update("notes.txt")
    log: "logs/g1.log"
    group: "gpu"
    resources: gpu=1
    shell: "echo g1 >> {output[1]}; touch {output[0]}"

rule g2:
    input: "g1.txt"
    output: "g2.txt"
    log: "logs/g2.log"
    group: "gpu"
    shell: "echo the other reason >&2; exit 9"

rule alone:
    input: "in/bad.txt"
    output: "alone.txt"
    log: "logs/alone.log"
    resources: gpupool_tool="textual.py:Textual"
    shell: "gpupool run textual.py:Textual"
"""


def test_a_failure_is_told_with_its_reason_and_in_every_log(tmp_path: Path) -> None:  # S9
    files = {"in/bad.txt": "bad\n", "in/good.txt": "good\n"}
    files |= {"book.txt": "old\n", "notes.txt": "old\n"}
    run = Workflow(tmp_path, TOLD, files).run("--cores", "2", "--keep-going", GPUPOOL_SIMULATE="2")
    assert run.code == 1
    assert "message: None" not in run.text
    for group, reason in (
        ("served", "rule b: item bad: ValueError: this line is bad"),
        ("plain", "the plain reason"),
        ("gpu", "returned non-zero exit status 9"),
    ):
        told = run.text.partition(f"Error in group {group}: ")[2].partition("    jobs:")[0]
        assert reason in told, run.text
    for members, reason in (("abc", "this line is bad"), ("yz", "the plain reason")):
        for name in members:
            assert reason in run.read(f"logs/{name}.log")
    for name in ("g1", "g2"):
        assert "exit status 9" in run.read(f"logs/{name}.log")

    # Of what ran no command it is not said that one had failed.
    alone = run.text.partition("Error in rule alone:")[2].partition("[")[0]
    assert "this line is bad" in alone and "non-zero exit code" not in alone
    member = run.text.partition("Error in rule g2:")[2]
    assert "(command exited with non-zero exit code)" in member

    # A group that has failed has updated nothing.
    assert run.read("book.txt") == run.read("notes.txt") == "old\n"


def test_what_never_ran_has_removed_nothing(tmp_path: Path) -> None:  # S9
    snakefile = """
        rule all:
            input: "refused.txt", "absent.txt"

        rule refused:
            output: update("refused.txt")
            resources: gpupool_tool="textual.py:NoSuchClass"
            shell: "exit 1"

        rule absent:
            output: update("absent.txt")
            resources: gpu=7
            shell: "echo new > {output}"
    """
    files = {"refused.txt": "old\n", "absent.txt": "old\n"}
    run = Workflow(tmp_path, snakefile, files).run(
        "--cores", "1", "--keep-going", "--forceall", GPUPOOL_SIMULATE="1"
    )
    assert run.code == 1
    assert run.read("refused.txt") == run.read("absent.txt") == "old\n"
