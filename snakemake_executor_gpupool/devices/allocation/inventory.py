"""The devices of an allocator: managed, lost, held by others, expected. Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from snakemake_executor_gpupool.devices.device import Device, cpu_slot, device_key
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import KINDS, is_gpu


class DeviceInventory:
    """The devices of an allocator, and what follows from which of them are managed.

    Parameters
    ----------
    devices
        All that may ever be managed; all are, at first.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._all = tuple(sorted(devices, key=device_key))
        self._managed = self._all
        self._expected: tuple[Device, ...] = ()
        self._foreign: set[str] = set()
        self._lost: set[str] = set()

    # --- what there is

    @functools.cached_property
    def devices(self) -> tuple[Device, ...]:
        """The managed devices that are not lost."""
        return tuple(device for device in self._managed if device.name not in self._lost)

    @functools.cached_property
    def hosts(self) -> dict[str, None]:
        """The machines of these devices, in order; without any, this one, whose name is empty."""
        return dict.fromkeys(device.host for device in self.devices) or {"": None}

    @property
    def all_devices(self) -> tuple[Device, ...]:
        """Every device that was ever there."""
        return self._all

    def of_kind(self, word: str) -> tuple[Device, ...]:
        """Return the managed devices that serve a request for a word, such as ``"cuda"``."""
        if word not in self._of_kind:
            serving = {kind for kind in self.kinds if KINDS[kind].serves(word)}
            self._of_kind[word] = tuple(d for d in self.devices if d.kind in serving)
        return self._of_kind[word]

    def like(self, spec: DeviceSpec) -> tuple[Device, ...]:
        """Return the managed devices of the kind and the cards that are asked for.

        Which of them is asked for by name does not count.
        """
        if not spec.card:
            return self.of_kind(spec.kind)
        of_card = DeviceSpec(spec.kind, card=spec.card)
        if of_card not in self._like:
            self._like[of_card] = tuple(filter(of_card.accepts, self.devices))
        return self._like[of_card]

    def count(self, word: str) -> int:
        """Return how many managed devices serve a request for a word."""
        return len(self.of_kind(word))

    @functools.cached_property
    def _like(self) -> dict[DeviceSpec, tuple[Device, ...]]:
        return {}

    def is_foreign(self, device: Device) -> bool:
        """Tell whether another process holds a device, as far as is known."""
        return device.name in self._foreign

    @functools.cached_property
    def _of_kind(self) -> dict[str, tuple[Device, ...]]:
        return {}

    @functools.cached_property
    def kinds(self) -> set[str]:
        """The kinds of the managed devices, and of those that may join later."""
        return {device.kind for device in (*self.devices, *self._expected)}

    @functools.cached_property
    def _usable(self) -> tuple[Device, ...]:
        """The managed devices, and the host: a request for "cpu" needs no managed slot."""
        has_slots = not all(map(is_gpu, self._managed))
        return self.devices if has_slots else (*self.devices, cpu_slot(0))

    @functools.cached_property
    def _usable_names(self) -> frozenset[str]:
        return frozenset(device.name for device in self._usable)

    @functools.cached_property
    def _known(self) -> dict[str, Device]:
        return {device.name: device for device in (*self._all, *self._usable)}

    def _forget_usable(self) -> None:
        """Forget what was worked out for devices that have changed."""
        worked_out = ("devices", "hosts", "kinds", "_of_kind", "_like")
        for name in (*worked_out, "_usable", "_usable_names", "_known"):
            self.__dict__.pop(name, None)

    # --- what changes

    def _manage(self, managed: Sequence[Device] | None) -> None:
        self._managed = self._all if managed is None else tuple(sorted(managed, key=device_key))
        self._forget_usable()

    def _lose(self, name: str) -> None:
        self._lost.add(name)
        self._forget_usable()

    def _take_in(self, devices: Sequence[Device]) -> None:
        names = {device.name for device in devices}

        def with_them(known: Sequence[Device]) -> tuple[Device, ...]:
            others = [device for device in known if device.name not in names]
            return tuple(sorted([*others, *devices], key=device_key))

        self._all, self._managed = with_them(self._all), with_them(self._managed)
        self._lost -= names
        self._foreign -= names
        self._forget_usable()

    def _expect_devices(self, devices: Sequence[Device]) -> None:
        self._expected = tuple(devices)
        self._forget_usable()
