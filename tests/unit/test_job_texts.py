"""Texts of jobs say what Snakemake would say, whose own method is the oracle here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.exceptions import RuleException
from snakemake.iocontainers import (
    InputFiles,
    Log,
    OutputFiles,
    Params,
    ResourceList,
    Wildcards,
)
from snakemake.jobs import Job as SnakemakesJob

from snakemake_executor_gpupool.frontends.snakemake.texts import JobTexts, names_only_a_job


class Job:
    """What Snakemake's method looks at."""

    def __init__(self, **variables: Any) -> None:
        workflow = SimpleNamespace(globals={"input": "a variable's", "config": {"x": 1}})
        workflow.globals.update(variables)
        self.rule = SimpleNamespace(name="copy", workflow=workflow, lineno=3, snakefile="Snakefile")
        self.input = InputFiles(fromdict={"fasta": "my file.fa", "more": ["b.txt", "c.txt"]})
        self.output = OutputFiles(["out/x.txt"])
        self.params = Params(fromdict={"k": 3, "text": "a 'b'", "flags": ["-v", "-q"], "no": None})
        self.wildcards = self._format_wildcards = Wildcards(fromdict={"b": "2", "a": "one"})
        self.resources = ResourceList(fromdict={"mem_mb": 100, "tmpdir": "/tmp"})
        self.log = Log()
        self.threads, self.jobid, self.name = 4, 7, "copy"
        self.formatted = 0

    def format_wildcards(self, text: str, **variables: Any) -> Any:
        self.formatted += 1
        return SnakemakesJob.format_wildcards(self, text, **variables)  # type: ignore[arg-type]


OF_A_JOB = [
    "cp {input} {output}",
    "cp {input.fasta:q} {input.more[1]} {input[0]!r:>20} > {output[0]}",
    "{params} {params.k:05d} {params.text:q} {params.text:u} {params.flags} {params.no}",
    "{wildcards} {wildcards.a}{wildcards[b]} {threads} {jobid} {name} {rule} {rulename}",
    "{resources} {resources.mem_mb} {log} {{print $1}}",
    "plain, and nothing else",
    "",
]
OTHERS = ["{config}", "{config[x]} {input}", "{bench_iteration}", "{threads:{jobid}}"]
WRONG = [
    "{missing}",
    "{wildcards.missing}",
    "{input.missing}",
    "{a}",
    "{",
    "{}",
    "{0}",
    "{params[9]}",
]


@pytest.mark.parametrize("text", OF_A_JOB)
def test_a_text_that_names_only_what_is_the_jobs_is_the_same(text: str) -> None:
    job = Job()
    expected = SnakemakesJob.format_wildcards(job, text)  # type: ignore[arg-type]
    assert JobTexts(job)(text) == expected and job.formatted == 0
    job.threads, job.wildcards[0] = 8, "other"
    expected = SnakemakesJob.format_wildcards(job, text)  # type: ignore[arg-type]
    assert JobTexts(job)(text) == expected, "what it is made of has changed"


@pytest.mark.parametrize("text", OTHERS)
def test_any_other_text_is_left_to_snakemake(text: str) -> None:
    job = Job()
    expected = SnakemakesJob.format_wildcards(job, text)  # type: ignore[arg-type]
    assert JobTexts(job)(text) == expected and job.formatted == 1 and not names_only_a_job(text)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_text_is_said_in_snakemakes_words(text: str) -> None:
    job = Job()
    with pytest.raises(RuleException) as expected:
        SnakemakesJob.format_wildcards(job, text)  # type: ignore[arg-type]
    with pytest.raises(RuleException) as met:
        JobTexts(job)(text)
    assert str(met.value) == str(expected.value)


def test_further_variables_count() -> None:
    job = Job()
    assert JobTexts(job)("{input} {extra}", input="own", extra=1) == "own 1"


def test_params_that_cannot_be_had_are_an_error_though_nothing_names_them() -> None:
    """Snakemake looks at all that a text may name, and ends a run whose params fail there."""

    class Failing(Job):
        @property
        def params(self) -> Any:
            raise ValueError("no such sample")

        @params.setter
        def params(self, value: Any) -> None: ...

    with pytest.raises(ValueError, match="no such sample"):
        JobTexts(Failing())("{input}")


def test_what_stands_in_for_the_method_is_not_stacked() -> None:
    job: Any = Job()
    job.format_wildcards = texts = JobTexts.of(job)
    assert JobTexts.of(job) is texts
