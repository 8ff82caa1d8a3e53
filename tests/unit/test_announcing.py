"""Snakemake formats each text of a job that starts once, and says what it would have said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake.announcing import announce


class Job:
    """Formats and logs as a job of Snakemake's does."""

    shell, message = "cp {input} {output}", "copies to {output}"

    def __init__(self, output: str) -> None:
        self.output = output
        self.formatted: Counter[str] = Counter()
        self.said: list[str] = []

    def is_group(self) -> bool:
        return False

    def format_wildcards(self, string: str, **variables: Any) -> str:
        self.formatted[string] += 1
        return string.format(**{"input": "in.txt", "output": self.output, **variables})

    def log_info(self) -> None:
        self.said += [self.format_wildcards(self.message)]
        self.said += [self.format_wildcards(self.shell) for _ in range(3)]
        self.said += [self.format_wildcards(self.shell, input="other.txt")]


def test_each_text_is_formatted_once_for_a_job_and_not_longer() -> None:
    for output in ("a", "b"):
        job, plain = Job(output), Job(output)
        plain.log_info()
        announce(job)
        assert job.said == plain.said and job.formatted == {Job.message: 1, Job.shell: 2}
        job.output = "c"
        assert job.format_wildcards(Job.shell) == "cp in.txt c", "what it is made of has changed"


def test_a_text_that_cannot_be_formatted_fails_as_it_would_have() -> None:
    job = Job("a")
    job.shell = "cp {missing}"
    with pytest.raises(KeyError, match="missing"):
        announce(job)
    job.shell = "cp {output}"
    assert job.format_wildcards(job.shell) == "cp a"


class FixedJob(Job):
    """A job of another version, which takes no other method."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "format_wildcards":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_a_job_that_takes_no_other_method_is_logged_all_the_same() -> None:
    job = FixedJob("a")
    announce(job)
    assert job.said[1:4] == ["cp in.txt a"] * 3
