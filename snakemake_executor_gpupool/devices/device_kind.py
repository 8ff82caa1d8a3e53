"""What differs between kinds of device, in one object for each. Pure.

A kind is asked for facts by pure code (the grammar, the allocator, the variables of a child),
and for what is there by :mod:`~snakemake_executor_gpupool.devices.probe`, which hands it the
:class:`System` to look at. So a kind's module opens no file and imports no library by itself,
and its probe runs in tests on a recorded system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from snakemake_executor_gpupool.devices.device import Device


class System(Protocol):
    """What a kind may look at. Nothing here raises where something is missing."""

    def library(self, name: str) -> Any:
        """Return an importable Python package; None: it is not installed."""

    def read_text(self, path: str) -> str | None:
        """Return a small file's text, as of sysfs; None: it is not there, or not readable."""

    def list_directory(self, path: str) -> tuple[str, ...]:
        """Return the names in a directory, sorted; empty: it is not there, or not readable."""

    def sleep(self, delay_s: float) -> None:
        """Wait between two tries."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Parameters
    ----------
    devices
        The visible and usable GPUs, in numeric order.
    warnings
        What to tell the user once.
    why_none
        Why there is no GPU, if there is none.
    """

    devices: tuple[Device, ...]
    warnings: tuple[str, ...] = ()
    why_none: str = ""


class DeviceKind:
    """One kind of device. A subclass is a kind; one object of it is registered.

    Attributes
    ----------
    word
        What device strings call it, and what its devices' names begin with: ``"cuda"``.
    tool_word
        What a tool's ``devices`` and ``load`` call it: ``"cuda"``, as torch does.
    also_serves
        Words of other kinds that a request may use and be given this kind. A second kind of GPU
        names ``"cuda"`` here, which is what ``gpu=N`` asks for.
    maker
        Who makes its cards, as :mod:`~.card_wish` writes it; empty: nobody in particular.
    is_host
        The machine itself. Its slots are granted at once and shared by any number; they have no
        lock and no memory account.
    stays_hidden
        Variables of :meth:`hidden` that :meth:`shown` leaves as the user has set them.
    container_flag
        The option by which Apptainer lets a container use its devices; empty: there is none.
    """

    word: str
    tool_word: str
    also_serves: frozenset[str] = frozenset()
    maker: str = ""
    is_host: bool = False
    stays_hidden: frozenset[str] = frozenset()
    container_flag: str = ""

    def serves(self, word: str) -> bool:
        """Tell whether a request for a word may be given devices of this kind."""
        return word == self.word or word in self.also_serves

    def why_single(self, device: Device) -> str:
        """Say why a process that has this device can use no other beside it; empty: it can."""
        return ""

    # --- what a process sees

    def shown(self, devices: Sequence[Device]) -> dict[str, str | None]:
        """Return the variables that show a process exactly these devices of this kind.

        Called with at least one device. None for a variable that must be left as it is, though
        another kind would hide its own devices by it.
        """
        return {}

    def hidden(self) -> dict[str, str]:
        """Return the variables that hide all devices of this kind from a process."""
        return {}

    # --- what there is; these may be called on any thread

    def find(self, env: Mapping[str, str], system: System) -> ProbeResult:
        """Find the devices of this kind that this process may use.

        Parameters
        ----------
        env
            The environment, which may show some of them only.
        system
            What to look at.
        """
        return ProbeResult(())

    def memory_used_mib(self, device: Device, system: System) -> int | None:
        """Return the memory in use on a device, by anybody; None if that cannot be known.

        Raises
        ------
        errors.DeviceLost
            The device is gone.
        """
        return None

    def memory_by_pid(self, device: Device, system: System) -> dict[int, int | None]:
        """Return the MiB of each process that computes on a device; None: not known.

        Raises
        ------
        errors.DeviceLost
            The device is gone.
        """
        return {}

    def energy_j(self, device: Device, system: System) -> float | None:
        """Return the joules that a device has used since some moment; None: that is not counted.

        Raises
        ------
        errors.DeviceLost
            The device is gone.
        """
        return None

    def driver(self, system: System) -> str:
        """Return the version of its driver; empty: it has none, or it cannot be asked."""
        return ""
