"""What is not known of a job before its time cannot be read, in whatever way (M5)."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.worker.guessed import UNKNOWN, GuessedJob

REAL = Job(
    rule="r",
    wildcards={"a": "1"},
    input=Named(["x", "y"], {"both": (0, 2)}),
    output=["z"],
    params={"p": 1},
    log=["l"],
    threads=3,
    resources={"mem_mb": 123},
    item_names=["i"],
)

WAYS: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda job: job.resources,
    "get": lambda job: job.resources.get("mem_mb", "none"),
    "getattr with a default": lambda job: getattr(job, "resources", {}),
    "hasattr": lambda job: hasattr(job, "resources"),
    "vars": lambda job: vars(job)["resources"],
    "vars, get": lambda job: vars(job).get("resources", "none"),
    "json of vars": lambda job: json.dumps(vars(job), default=str),
    "pickle": pickle.dumps,
    "old pickle": lambda job: pickle.dumps(job, 0),
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "in a list": lambda job: pickle.dumps([job]),
    "of a copy": lambda job: job.replace(params={}).resources,
    "replaced": lambda job: job.replace(resources={}),
    "unbound": lambda job: Job.replace(job, params={}),
    "state": lambda job: job.__getstate__(),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_what_is_not_known_is_noticed(way: str) -> None:
    job = GuessedJob(REAL)
    with pytest.raises(Exception) as caught:
        WAYS[way](job)
    assert "not known" in str(caught.value)
    assert job.asked, "also where the tool goes on"


def test_all_else_is_the_real_jobs() -> None:
    """An attribute that jobs get one day is either known beforehand or cannot be read."""
    job = GuessedJob(REAL)
    for name, value in vars(REAL).items():
        if name not in UNKNOWN:
            assert getattr(job, name) == value
    assert str(job) == str(REAL)
    assert job.input.both == ["x", "y"]
    assert not set(UNKNOWN) - set(vars(REAL))
    moved = job.replace(output=["w"], params={"q": 2}, item_names=["j"])
    assert (moved.output, moved.params.q, moved.rule) == (["w"], 2, "r")
    assert not job.asked and isinstance(job, Job)
