"""The device settings and where each came from: a pure function of its arguments.

The order of precedence, highest first: the command line, ``DeviceManager.configure``,
``GPUPOOL_*`` variables, their ``BIO_TOOLS_*`` twins, the default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.managed_spec import parse_managed
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.errors import ConfigError

__all__ = ["DeviceOptions", "DeviceSettings", "Managed", "managed_text", "resolve", "visible_env"]

MANAGED_VARIABLES = ("GPUPOOL_MANAGED_DEVICES", "BIO_TOOLS_MANAGED_DEVICES")
STRATEGY_VARIABLES = ("GPUPOOL_OFFLOAD_STRATEGY", "BIO_TOOLS_OFFLOAD_STRATEGY")
MULTIPLE_VARIABLES = ("GPUPOOL_ALLOW_MULTI_DEVICE", "BIO_TOOLS_ALLOW_MULTI_DEVICE")

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

Managed = str | int | Sequence[str | int]
T = TypeVar("T")


@dataclass(frozen=True)
class DeviceOptions:
    """What one place says about the devices; None: nothing."""

    managed_devices: Managed | None = None
    offload_strategy: str | OffloadStrategy | None = None
    allow_multiple: bool | None = None

    def updated(
        self,
        managed_devices: Managed | None,
        offload_strategy: str | OffloadStrategy | None,
        allow_multiple: bool | None,
    ) -> DeviceOptions:
        """Return these options with what is given in place of what was; None: nothing is given.

        Raises
        ------
        ConfigError
            The strategy is none.
        """
        strategy = self.offload_strategy
        if offload_strategy is not None:
            strategy = OffloadStrategy.parse(offload_strategy)
        return DeviceOptions(
            self.managed_devices if managed_devices is None else managed_devices,
            strategy,
            self.allow_multiple if allow_multiple is None else allow_multiple,
        )


@dataclass(frozen=True)
class DeviceSettings:
    """The settings that hold, after all places were asked.

    Parameters
    ----------
    managed
        A managed-devices string (:func:`~.managed_spec.parse_managed`).
    offload_strategy
        What happens to an evicted worker.
    allow_multiple_per_device
        Whether several workers may share a GPU.
    managed_source
        Where ``managed`` came from, for messages.
    """

    managed: str = "auto"
    offload_strategy: OffloadStrategy = OffloadStrategy.RESTART
    allow_multiple_per_device: bool = False
    managed_source: str = "the default"

    def choose(self, available: Sequence[Device], auto_cpu_slots: int = 1) -> tuple[Device, ...]:
        """Return the managed devices, given the GPUs that were found.

        Raises
        ------
        ConfigError
            The string is malformed or names what is not there; the message says
            where the string came from.
        """
        try:
            return parse_managed(self.managed, available, auto_cpu_slots)
        except ConfigError as error:
            raise type(error)(f"{self.managed_source}: {error}") from None


def resolve(
    env: Mapping[str, str],
    managed_devices: Managed | None = None,
    offload_strategy: str | OffloadStrategy | None = None,
    allow_multiple: bool | None = None,
    *,
    configured: DeviceOptions | None = None,
) -> DeviceSettings:
    """Settle the device settings.

    Parameters
    ----------
    env
        The environment. An empty variable counts as not set.
    managed_devices, offload_strategy, allow_multiple
        From the command line; None where it says nothing.
    configured
        What ``DeviceManager.configure`` was given.

    Raises
    ------
    ConfigError
        A value is malformed; the message names where it came from.
    """
    line = DeviceOptions(managed_devices, offload_strategy, allow_multiple)
    layers = [("the command line", line), ("configure()", configured or DeviceOptions())]
    managed, source = _first(
        [(name, options.managed_devices) for name, options in layers],
        env,
        MANAGED_VARIABLES,
        managed_text,
        ("auto", "the default"),
    )
    strategy, _ = _first(
        [(name, options.offload_strategy) for name, options in layers],
        env,
        STRATEGY_VARIABLES,
        OffloadStrategy.parse,
        (OffloadStrategy.RESTART, ""),
    )
    multiple, _ = _first(
        [(name, options.allow_multiple) for name, options in layers],
        env,
        MULTIPLE_VARIABLES,
        _boolean,
        (False, ""),
    )
    return DeviceSettings(managed, strategy, multiple, source)


def _first(
    given: list[tuple[str, object]],
    env: Mapping[str, str],
    variables: tuple[str, str],
    read: Callable[..., T],
    default: tuple[T, str],
) -> tuple[T, str]:
    """Return the value of highest precedence and where it came from."""
    candidates = given + [(name, _variable(env, name)) for name in variables]
    for source, value in candidates:
        if value is None:
            continue
        try:
            return read(value), source
        except ConfigError as error:
            raise type(error)(f"{source}: {error}") from None
    return default


def _variable(env: Mapping[str, str], name: str) -> str | None:
    value = env.get(name, "").strip() or None
    if value and name == "BIO_TOOLS_MANAGED_DEVICES" and re.fullmatch(r"[0-9\s,]+", value):
        # There, bare numbers are indices; here, one is a count.
        return f"cuda:{value}"
    return value


def managed_text(value: Managed) -> str:
    """Return a managed-devices string for what a caller of Python may give.

    Examples
    --------
    >>> managed_text(["cuda:0", "cuda:1"]), managed_text([0, 1]), managed_text(2)
    ('cuda:0,cuda:1', 'cuda:0,cuda:1', '2')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return ",".join(f"cuda:{part}" if isinstance(part, int) else part for part in value)


def _boolean(value: bool | str) -> bool:
    if isinstance(value, bool):
        return value
    text = value.strip().lower()
    if text in _TRUE + _FALSE:
        return text in _TRUE
    raise ConfigError(f"{value!r} is neither true nor false; write 1 or 0")
