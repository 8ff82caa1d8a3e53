"""Which software the workers of a rule run with (S4, S5, K1)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from snakemake_executor_gpupool.frontends.snakemake.software import (
    Software,
    Unservable,
    software_of,
)


def workflow(*methods: DeploymentMethod) -> Any:
    settings = SimpleNamespace(deployment_method=set(methods), apptainer_args="")
    return SimpleNamespace(deployment_settings=settings, runtime_paths=[])


def job(**fields: Any) -> Any:
    given = {"conda_env": None, "env_modules": None, "container_img_url": None, **fields}
    return SimpleNamespace(rule=SimpleNamespace(name="up"), **given)


def test_what_snakemake_ignores_is_ignored() -> None:  # S4
    asks = job(conda_env="env", env_modules="modules", container_img_url="image.sif")
    assert software_of(workflow(), asks, "python") == Software("python")


def test_modules_are_refused_with_the_ways_out() -> None:  # S4
    with pytest.raises(Unservable) as refused:
        software_of(workflow(DeploymentMethod.ENV_MODULES), job(env_modules="gcc"), "python")
    said = str(refused.value)
    assert "a rule with envmodules: cannot be served" in said and "a container: instead" in said
    assert "--set-resources up:gpupool_tool=\"''\" up:gpu=1" in said
