"""What it takes to do a job again is recorded of it, or why that cannot be done (R7)."""

from __future__ import annotations

import json
import signal
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from snakemake_executor_gpupool.frontends.snakemake.recipe import recipe_of
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.requests import ToolRef


def why_not(**params: Any) -> str:
    job, flags = Job(params=params), {"touched": (), "updates": ()}
    recipe = recipe_of(job, ToolRef("tool", "", "python"), SimpleNamespace(shadow_dir=""), **flags)
    return str(json.loads(recipe).get("why_not", ""))


def test_params_that_json_holds_are_recorded() -> None:
    assert why_not() == ""
    held = {"a": [1, 2.5, None, True, "x", -0.0], "b": {"c": []}, "d": float("inf")}
    assert why_not(**held) == ""


@pytest.mark.parametrize(
    "value",
    [
        np.arange(2),
        pd.DataFrame({"a": [1, 2]}),
        [np.arange(2)],
        np.float64(1.5),
        (1, 2),
        {1},
        {1: "a"},
        Counter("aab"),
        OrderedDict(a=1),
        signal.SIGINT,
        b"x",
        "x" * 5000,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_job_with_other_params_is_done_once_and_says_why(value: Any) -> None:
    """Arrays equal each other entry by entry: a job that has one failed."""
    assert "JSON cannot hold" in why_not(param=value)
