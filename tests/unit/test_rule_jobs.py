"""The jobs of a rule, read as a dry run would: nothing is run (gpupool check)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake import rule_jobs
from snakemake_executor_gpupool.frontends.snakemake.rule_jobs import (
    RuleJobs,
    WorkflowSource,
    read_rule,
)

SNAKEFILE = """
rule all:
    input: expand("{n}.up", n=range(6)), "one.txt"

rule up:
    input: "{n}.txt"
    output: "{n}.up", directory("{n}.more"), touch("{n}.done")
    params: n=lambda wildcards: int(wildcards.n) * 10, gpupool_tool="linear-head"
    log: "{n}.log"
    threads: 3
    resources: gpupool_tool="linear-head"
    shell: "false"

rule one:
    output: "one.txt"
    shell: "false"
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("workflow")
    (made / "Snakefile").write_text(SNAKEFILE)
    for n in range(6):
        (made / f"{n}.txt").write_text("x")
    yield made


def read(directory: Path, rule: str, most: int = 10, **wildcards: list[str]) -> RuleJobs:
    source = WorkflowSource(snakefile=str(directory / "Snakefile"), directory=str(directory))
    return read_rule(rule, source, wildcards, most)


def test_jobs_are_plain_values_and_this_process_is_left_as_it_was(directory: Path) -> None:
    before = Path.cwd(), list(sys.path), list(logging.getLogger("snakemake.logging").handlers)
    found = read(directory, "up", n=["3"])
    assert before == (
        Path.cwd(),
        list(sys.path),
        list(logging.getLogger("snakemake.logging").handlers),
    )
    (job,) = found.jobs
    assert job.title == "rule up (n=3)" and job.spec.endswith(":LinearHead")
    assert list(job.job.input) == ["3.txt"] and list(job.job.log) == ["3.log"]
    assert dict(job.job.params) == {"n": 30} and job.job.threads == min(3, os.cpu_count() or 3)
    assert job.directories == {"3.more"} and job.touched == {"3.done"}
    assert Path(found.directory) == directory and found.remarks == []
    assert not (directory / "3.up").exists()


def test_of_many_jobs_some_are_taken_from_first_to_last(directory: Path) -> None:
    found = read(directory, "up", 3)
    assert [dict(job.job.wildcards)["n"] for job in found.jobs] == ["0", "2", "5"]
    assert found.remarks == ["3 of the 6 jobs of rule up were taken"]


def test_an_input_that_no_rule_makes_is_named(directory: Path) -> None:
    (directory / "5.txt").unlink()
    try:
        with pytest.raises(ConfigError, match=r"5\.txt is missing, and no rule makes it"):
            read(directory, "up")
    finally:
        (directory / "5.txt").write_text("x")


@pytest.mark.parametrize(
    ("rule", "wildcards", "told"),
    [
        ("upp", {}, r"no rule 'upp'\. Did you mean 'up'\? Rules: all, one, up"),
        ("up", {"m": ["1"]}, r"rule up has no wildcard m; its wildcards are n"),
        ("one", {"n": ["1"]}, r"rule one has no wildcard n; it has none"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    directory: Path, rule: str, wildcards: dict[str, list[str]], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        read(directory, rule, **wildcards)


def test_a_workflow_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text("rule a:\n    outputs: 'x'\n")
    with pytest.raises(ConfigError, match=r"Snakefile cannot be read: "):
        read(tmp_path, "a")


def test_jobs_are_spread_evenly() -> None:
    jobs = list(range(100))
    assert rule_jobs._spread(jobs, 1) == [0]
    assert rule_jobs._spread(jobs, 3) == [0, 50, 99]
    assert rule_jobs._spread(jobs[:2], 3) == [0, 1]
