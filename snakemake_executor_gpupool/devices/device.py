"""What a device is, and the two ways of taking one back. Pure."""

from __future__ import annotations

import enum
import functools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from snakemake_executor_gpupool.errors import ConfigError

CPU = "cpu"
"""The kind of the machine itself; all other kinds are GPUs (:mod:`~.kinds`)."""


class OffloadStrategy(enum.Enum):
    """What happens to an idle worker whose device another request needs."""

    RESTART = "restart"
    """The worker ends; its tool loads again when it is next needed."""

    CPU = "cpu"
    """The weights move to host memory; the process stays, and its return is a copy."""

    @classmethod
    def parse(cls, text: str | OffloadStrategy) -> OffloadStrategy:
        """Return the strategy that ``text`` names.

        Raises
        ------
        ConfigError
            It names none.
        """
        if isinstance(text, cls):
            return text
        try:
            return cls(str(text).strip().lower())
        except ValueError:
            names = " or ".join(f'"{strategy.value}"' for strategy in cls)
            raise ConfigError(f"unknown offload strategy {text!r}: it is {names}") from None


@dataclass(frozen=True)
class Device:
    """One device that a worker or a job can be given.

    Parameters
    ----------
    name
        ``"cuda:0"`` or ``"cpu:0"``: the logical name that users write. It may
        carry a host (``"n1/cuda:0"``).
    kind
        The word of its kind (:data:`~.kinds.KINDS`): ``"cuda"`` or ``"cpu"``.
    index
        The logical index, the number in ``name``.
    uuid
        What identifies the card itself, however this process numbers it. Empty for a CPU slot.
    memory_mib
        All of its memory; None: not known, or none is accounted for (a CPU slot).
    model_name
        As the vendor calls it; empty: not known yet.
    visible_id
        The token that shows this device to a child, in the variable of its kind
        (``CUDA_VISIBLE_DEVICES``).
    exclusive_process
        The driver lets only one process at a time use it.
    is_mig
        A slice of a card. A process sees one slice only, however many it is given.
    simulated
        There is no such card; what is placed on it computes on the CPU.
    """

    name: str
    kind: str
    index: int
    uuid: str = ""
    memory_mib: int | None = None
    model_name: str = ""
    visible_id: str = ""
    exclusive_process: bool = False
    is_mig: bool = False
    simulated: bool = False

    @functools.cached_property
    def host(self) -> str:
        """The machine that it is in; empty for this one."""
        return self.name.rpartition("/")[0]

    @functools.cached_property
    def domain(self) -> str:
        """Machine and kind: a process can use several devices only if they have both in common."""
        return f"{self.host}/{self.kind}"

    @property
    def local_name(self) -> str:
        """What it is called on its own machine: ``"cuda:0"``."""
        return self.name.rpartition("/")[2]

    @functools.cached_property
    def sort_key(self) -> tuple[bool, tuple[tuple[str, int], ...], str]:
        """GPUs before CPU slots, then by number."""
        return self.kind == CPU, natural_key(self.name), self.name  # n1 and n01 are two

    def on(self, host: str) -> Device:
        """Return the same device as others see it: named after its machine."""
        # Every machine's simulated cards have the same numbers, and are not the same cards.
        uuid = f"{self.uuid}@{host}" if self.simulated else self.uuid
        return replace(self, name=f"{host}/{self.local_name}", uuid=uuid)


def cpu_slot(index: int) -> Device:
    """Return the CPU slot of that index: a place for workers, all of which share the cores."""
    return Device(name=f"{CPU}:{index}", kind=CPU, index=index, model_name="CPU")


@functools.lru_cache(maxsize=65536)
def natural_key(name: str) -> tuple[tuple[str, int], ...]:
    """Sort key of a device name, by number where there are numbers.

    Examples
    --------
    >>> sorted(["cuda:10", "cuda:9"], key=natural_key)
    ['cuda:9', 'cuda:10']
    """
    pairs = re.findall(r"([^0-9]*)([0-9]*)", name)
    return tuple((text, int(digits or -1)) for text, digits in pairs)


def device_key(device: Device) -> tuple[bool, tuple[tuple[str, int], ...], str]:
    """Sort key of a device: GPUs before CPU slots, then by number."""
    return device.sort_key


def fit_one_process(devices: Iterable[Device], count: int) -> bool:
    """Tell whether one process could have so many of the devices: of one machine and kind."""
    there: Counter[str] = Counter()
    for device in devices:
        there[device.domain] += 1
        if there[device.domain] >= count:
            return True  # thousands of devices are not all looked at for a request for two
    return False
