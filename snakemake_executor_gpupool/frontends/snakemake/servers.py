"""``--gpupool-server``: a server does a run's served jobs, if that is asked for and can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakemake_executor_gpupool.devices.settings import (
    MANAGED_VARIABLES,
    MULTIPLE_VARIABLES,
    STRATEGY_VARIABLES,
    managed_text,
)
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.settings import ExecutorSettings
from snakemake_executor_gpupool.frontends.snakemake.translate import TOOL
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig

if TYPE_CHECKING:
    from snakemake_executor_gpupool.frontends.server.attached import AttachedPool

OFF = "off"
OPTION = "--gpupool-server"


def check_server_option(settings: ExecutorSettings) -> None:
    """Refuse what cannot be combined with a server, before anything is started.

    Raises
    ------
    ConfigError
        The message says what is missing.
    """
    if (settings.server or OFF) == OFF:
        return
    from snakemake_executor_gpupool.frontends.server.connection import wish_of_run

    wish_of_run(settings.server, OPTION)
    if settings.cluster:
        raise ConfigError(
            f"{OPTION} {settings.server} and --gpupool-cluster do not go together: a server has "
            "the devices of one machine; it has no nodes, and starts no pilot jobs. On a cluster "
            "leave one of the two out: run on one node, with a server in its allocation, or on "
            "several without one"
        )


def attached_pool(
    workflow: Any, settings: ExecutorSettings, config: PoolConfig, callbacks: Callbacks
) -> AttachedPool | None:
    """Return the run's pool if a server serves its jobs; None: the run does so itself.

    Raises
    ------
    ConfigError
        There is to be a server, and there is none.
    """
    if (settings.server or OFF) == OFF or not may_serve(workflow):
        return None
    # What follows is not imported by other runs.
    from snakemake_executor_gpupool.frontends.server.attaching import open_attached

    given = given_as_variables(settings)
    return open_attached(settings.server, OPTION, config, callbacks, given)


def given_as_variables(settings: ExecutorSettings) -> dict[str, str]:
    """Return the options on devices that were given, as the variables that say the same."""
    given: dict[str, str] = {}
    if settings.devices is not None:
        given[MANAGED_VARIABLES[0]] = managed_text(settings.devices)
    if settings.offload_strategy is not None:
        given[STRATEGY_VARIABLES[0]] = settings.offload_strategy
    if settings.allow_multiple_per_device:
        given[MULTIPLE_VARIABLES[0]] = "1"
    return given


def may_serve(workflow: Any) -> bool:
    """Return whether there is something to do, and any rule names a tool."""
    return any(True for _ in workflow.dag.needrun_jobs()) and any(
        TOOL in rule.resources or TOOL in rule.params for rule in workflow.rules
    )
