"""How much memory jobs may ask for together (K3)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from snakemake.resources import Resource, Resources

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.memory import (
    asked_mb,
    cgroup_limits,
    machine_mb,
    memory_budget,
)
from tests.unit.stub_workflow import StubWorkflow
from tests.unit.test_executor import workflow as workflow  # noqa: PLC0414 - a fixture


def test_what_the_option_may_say() -> None:  # K3
    assert memory_budget("off") is None
    assert memory_budget("64GB") == 64_000 and memory_budget("1500") == 1_500
    assert memory_budget("1GiB") == 1_073
    assert memory_budget(None) == machine_mb() <= psutil.virtual_memory().total // 1_000_000
    for text in ("much", "0", "-5", ""):
        with pytest.raises(ConfigError, match="--gpupool-memory"):
            memory_budget(text)


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/user/job\n", {"user/job/memory.max": "max", "user/memory.max": "4000"}, [4000]),
        (
            "5:cpu:/x\n4:memory:/slurm/step\n",
            {
                "memory/slurm/step/memory.limit_in_bytes": "3000",
                "memory/memory.limit_in_bytes": "9000",
            },
            [3000, 9000],
        ),
        ("0::/\n", {"memory.max": "7000"}, [7000]),
        ("0::/gone\n", {}, []),
    ],
)
def test_a_control_group_may_allow_less(
    tmp_path: Path, own: str, files: dict[str, str], limits: list[int]
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cgroup_limits(tmp_path, tmp_path / "own") == limits
    assert cgroup_limits(tmp_path, tmp_path / "none") == []


def test_a_job_that_asks_for_more_than_there_is_fails_by_itself(workflow: StubWorkflow) -> None:
    workflow.executor.workflow.execution_settings.keep_going = True
    workflow.executor._lane.memory_mb = 1000
    large, small = workflow.job("a", mem_mb=1001), workflow.job("b", mem_mb=1000)
    assert asked_mb(large) == 1001 and asked_mb(workflow.job("c")) == 0
    assert asked_mb(workflow.job("d", mem_mb="<TBD>")) == 0
    workflow.run(large, small)
    workflow.wait(lambda: workflow.finished and workflow.failed)
    assert workflow.failed == ["a"] and workflow.finished == ["b"]
    told = workflow.told("a")
    assert "mem_mb=1001" in told and "1000 MB" in told and "--gpupool-memory off" in told


def test_what_snakemake_makes_up_for_a_rule_that_says_nothing_counts_as_nothing() -> None:  # K3
    """As under the local executor; by the sizes of inputs it may be more than the machine has."""

    def job(resource: Any) -> Any:
        rule = SimpleNamespace(resources={"mem_mb": resource})
        return SimpleNamespace(rule=rule, resources={"mem_mb": 8000}, is_group=lambda: False)

    made_up, said = Resources.default("full")._data["mem_mb"], Resource("mem_mb", 8000)
    by_the_user = Resource.from_cli_expression("mem", "max(2*input.size_mb, 500)")
    assert asked_mb(job(made_up)) == 0
    assert asked_mb(job(said)) == 8000
    assert asked_mb(job(by_the_user.standardize_size())) == 8000
    assert asked_mb(job(Resource("mem_mb", lambda wildcards, attempt: attempt))) == 8000

    def group(*members: Any) -> Any:
        return SimpleNamespace(jobs=members, resources={"mem_mb": 8000}, is_group=lambda: True)

    assert asked_mb(group(job(made_up), job(made_up))) == 0
    assert asked_mb(group(job(made_up), job(said))) == 8000
