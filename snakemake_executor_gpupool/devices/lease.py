"""What :meth:`DeviceManager.lease` returns, and the leases that enclose a line of a program."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, visible_env


@dataclass(frozen=True)
class Lease:
    """Devices that are yours until the ``with`` block ends.

    Parameters
    ----------
    devices
        The devices, in numeric order.
    """

    devices: tuple[Device, ...]
    #: The value of ``GPUPOOL_LEASE`` by which gpupool in a child process uses the same devices.
    lent: str = ""
    #: The manager that granted it.
    of: object = None

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, as users write them."""
        return tuple(device.name for device in self.devices)

    @property
    def env(self) -> dict[str, str]:
        """The variables that show a child process exactly these devices."""
        return {**visible_env(self.devices), LEASE_VARIABLE: self.lent}


# A thread begins with none: a lease is for the code inside its block, not for the whole program.
_around: contextvars.ContextVar[tuple[Lease, ...]] = contextvars.ContextVar("leases", default=())


def leases_around() -> tuple[Lease, ...]:
    """Return the leases in whose ``with`` blocks this is called, outermost first."""
    return _around.get()


@contextlib.contextmanager
def within(lease: Lease) -> Iterator[None]:
    """Put a lease around a block."""
    token = _around.set((*_around.get(), lease))
    try:
        yield
    finally:
        # A generator may be closed in another context than it was started in.
        with contextlib.suppress(ValueError):
            _around.reset(token)
