"""From the options of a run to its pool: attached to a server, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.server.address import AUTO
from snakemake_executor_gpupool.frontends.server.attached import AttachedPool
from snakemake_executor_gpupool.frontends.server.client import InsideOfAnother, NoServer
from snakemake_executor_gpupool.frontends.server.connection import attach, wish_of_run
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.tool_api.mode import Mode


def open_attached(
    text: str | None,
    option: str,
    config: PoolConfig,
    callbacks: Callbacks,
    given: Mapping[str, str],
) -> AttachedPool | None:
    """Return a pool whose jobs a server does; None: there is none, and the caller goes on without.

    Parameters
    ----------
    text, option
        Whether there is to be a server, as an option has it, and the option's name.
    given
        What other options say of devices, as the variables that say the same.

    Raises
    ------
    ConfigError
        There is to be a server, and there is none.
    """
    wish = wish_of_run(text, option)
    is_needed = wish.word != AUTO
    try:
        server = attach(wish, config, environment_of(config), given)
    except NoServer as error:
        if is_needed:
            raise ConfigError(f"{option} {text}: {error}") from error
        if not isinstance(error, InsideOfAnother):
            callbacks.tell_warning(
                f"gpupool: no server can be used ({error}): workers of this run serve its jobs"
            )
        return None
    try:
        return AttachedPool(config, callbacks, server, falls_back=not is_needed)
    except BaseException:
        server.socket.close()
        raise


def environment_of(config: PoolConfig) -> dict[str, str]:
    """Return this process's environment, which says how the run computes: that is a server's."""
    env = own_environment()
    for name in Mode().variables():
        env.pop(name, None)
    if config.mode.is_reproducible or config.mode.seed:
        env |= config.mode.variables()
    return env
