"""What Snakemake says of a rule's software, today and once plugins provide it (S5)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.snakemake import deployment
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable, software_of


class PluginEnv:
    """An environment as the interface of the plugins has it: EnvBase, release 0.18."""

    def __init__(self, prefix: Path, within: Any = None) -> None:
        self.deployment_path = prefix
        self.within = within
        self.spec = "envs/tool.yaml"

    def managed_decorate_shellcmd(self, command: str) -> str:
        return f"export ENTERED='{self.deployment_path}' && {command}"


def plugged(kind: str, prefix: Path, within: Any = None) -> Any:
    """A job whose environment is of one kind of plugin, in a Snakemake whose core has none."""
    of_kind = type(
        "Env", (PluginEnv,), {"__module__": f"snakemake_software_deployment_plugin_{kind}"}
    )
    rule = SimpleNamespace(name="embed")
    return SimpleNamespace(
        rule=rule, software_env=of_kind(prefix, within), software_env_spec="spec"
    )


NEW_CORE = SimpleNamespace(deployment_settings=SimpleNamespace())


def test_an_environment_of_the_conda_plugin_is_entered(tmp_path: Path) -> None:  # S5
    job = plugged("conda", tmp_path / "env")
    assert software_of(NEW_CORE, job, sys.executable).python == sys.executable, "it has no Python"
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    software = software_of(NEW_CORE, job, "python")
    assert (software.python, software.environment) == (str(python), str(tmp_path / "env"))
    # As a worker is started: the activation, then what it runs.
    command = ["bash", "-c", software.activation, "bash", "printenv", "ENTERED"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [
        str(tmp_path / "env")
    ]
    assert deployment.environment_key(job) == "spec"


def test_what_a_worker_cannot_enter_is_refused_with_a_way_out(tmp_path: Path) -> None:
    outer = PluginEnv(tmp_path)
    for kind, within in (
        ("container", None),
        ("envmodules", None),
        ("pixi", None),
        ("conda", outer),
    ):
        with pytest.raises(Unservable, match=r"cannot be served.*embed:gpu=1") as refused:
            software_of(NEW_CORE, plugged(kind, tmp_path, within), "python")
        assert f"plugin snakemake_software_deployment_plugin_{kind}" in str(refused.value)


def test_a_core_without_deployment_methods_is_no_error() -> None:
    bare = SimpleNamespace(rule=SimpleNamespace(name="r"))
    assert software_of(NEW_CORE, bare, "python").python == "python"
    assert deployment.environment_key(bare) is None
    assert not deployment.has_environment(bare.rule)


def test_the_module_can_be_imported_where_the_interface_has_no_such_methods() -> None:
    code = (
        "from snakemake_interface_executor_plugins import settings\n"
        "del settings.DeploymentMethod\n"
        "from snakemake_executor_gpupool.frontends.snakemake import deployment\n"
        "print(deployment.DeploymentMethod.CONDA.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "conda\n"
