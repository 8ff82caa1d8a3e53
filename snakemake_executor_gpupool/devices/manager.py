"""The device manager as Python code uses it: request, wait, hold, release.

A thread-safe front of the allocator. A thread that requests devices waits on a condition; the
allocator is called under its lock, and nothing else is waited for while that is held::

    manager = DeviceManager.get_instance()
    manager.configure(managed_devices=["cuda:0", "cuda:1"])
    with manager.lease("cuda", owner="my script") as lease:
        subprocess.run([...], env={**os.environ, **lease.env})
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from snakemake_executor_gpupool.devices.allocation.allocator import (
    LEASE,
    AllocationEffect,
    Allocator,
    DeviceRequest,
    Granted,
    Impossible,
)
from snakemake_executor_gpupool.devices.allocation.requests import suits
from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy, fit_one_process
from snakemake_executor_gpupool.devices.device_spec import (
    DeviceSpec,
    gpus,
    parse_device,
    sorted_names,
)
from snakemake_executor_gpupool.devices.forking import let_go_in_children
from snakemake_executor_gpupool.devices.kinds import is_gpu
from snakemake_executor_gpupool.devices.lease import Lease, leases_around, within
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.probe import Nvml, ProbeResult, probe
from snakemake_executor_gpupool.devices.settings import (
    DeviceOptions,
    DeviceSettings,
    Managed,
    resolve,
)
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, visible_env
from snakemake_executor_gpupool.errors import GpupoolError, ImpossibleRequest

__all__ = ["DeviceManager", "Lease", "visible_env"]

FOREIGN_POLL_S = 0.5
"""How often to look again at a device that another process holds."""


class _Unset:
    """The type of an argument that was not given, where None means something."""


_UNSET = _Unset()


class DeviceManager:
    """The devices of this process, shared with other runs on the machine.

    Usually there is one: :meth:`get_instance`.

    Parameters
    ----------
    env
        The environment; None: this process's own.
    nvml
        The NVML library; None: the real one.
    clock
        Returns seconds that never run backwards.
    """

    _instance: ClassVar[DeviceManager | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        nvml: Nvml | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._env = dict(os.environ if env is None else env)
        self._nvml = nvml
        self._clock = clock
        self._options = DeviceOptions()
        self._changed = threading.Condition()
        self._allocator: Allocator | None = None
        self._probe: ProbeResult | None = None
        self._ownership = DeviceOwnership(self._env, nvml)
        self._numbers = itertools.count(1)
        self._granted: dict[str, tuple[Device, ...]] = {}
        self._lent_to: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._closed = False
        #: Returns what an open pool of this process has on devices.
        self._others: Callable[[], dict[str, list[str]]] | None = None
        let_go_in_children(self)

    def in_child(self) -> None:
        """Start afresh in a forked child: leases and waiting threads are the parent's."""
        self._changed = threading.Condition()
        DeviceManager._instance_lock = threading.Lock()
        self._allocator = None
        for table in (self._granted, self._refused, self._lent_to):
            table.clear()
        self._others = None

    # --- the one instance

    @classmethod
    def get_instance(cls) -> DeviceManager:
        """Return the process's device manager, made on first use."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    @classmethod
    def reset_instance(cls) -> None:
        """Close the process's device manager; the next use makes a new one."""
        with cls._instance_lock:
            instance, cls._instance = cls._instance, None
        if instance is not None:
            instance.close()

    def close(self) -> None:
        """Release all devices; threads that wait for one get a ``GpupoolError``."""
        with self._changed:
            self._closed = True
            self._ownership.close()
            self._changed.notify_all()

    # --- configuration

    def configure(
        self,
        managed_devices: Managed | _Unset | None = _UNSET,
        offload_strategy: str | OffloadStrategy | None = None,
        allow_multiple_per_device: bool | None = None,
    ) -> None:
        """Change what is managed, and how. What is not given stays as it is.

        Parameters
        ----------
        managed_devices
            ``["cuda:0", "cuda:1"]``, ``[0, 1]``, a number of GPUs, or a string as for
            ``--gpupool-devices``. None: all devices again, whatever the environment says.
        offload_strategy
            What happens to evicted workers.
        allow_multiple_per_device
            Whether several workers may share a GPU.

        Raises
        ------
        ConfigError
            A value is malformed, or names a device that is not there. Nothing is changed.
        """
        given = "auto" if managed_devices is None else managed_devices
        managed = None if isinstance(given, _Unset) else given
        options = self._options.updated(managed, offload_strategy, allow_multiple_per_device)
        with self._changed:
            self._apply(options)
            self._changed.notify_all()

    def _apply(self, options: DeviceOptions) -> None:
        settings = resolve(self._env, configured=options)
        managed = settings.choose(self._probe_result().devices)
        self._options = options
        if self._allocator is not None:
            effects = self._allocator.configure(
                managed,
                self._clock(),
                allow_multiple_per_device=settings.allow_multiple_per_device,
                offload_strategy=settings.offload_strategy,
            )
            self._carry_out(effects)

    @property
    def options(self) -> DeviceOptions:
        """What :meth:`configure` was given, for :func:`~.settings.resolve`."""
        return self._options

    @property
    def settings(self) -> DeviceSettings:
        """The settings that hold, from :meth:`configure`, the environment and the defaults."""
        return resolve(self._env, configured=self._options)

    # --- what there is

    @property
    def devices(self) -> tuple[Device, ...]:
        """The managed devices."""
        with self._changed:
            return self._started().devices

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the probe warns of."""
        with self._changed:
            return self._probe_result().warnings

    def allocation_map(self) -> dict[str, list[str]]:
        """Return who is on each device: ``{"cuda:0": ["my script"], "cuda:1": []}``.

        Inside of a ``with ToolPool(...)`` block the pool's models are among them.
        """
        with self._changed:
            there = self._started().allocation_map()
        others = self._others() if self._others is not None else {}
        for name, owners in others.items():
            there[name] = there.get(name, []) + owners
        return there

    def include(self, others: Callable[[], dict[str, list[str]]] | None) -> None:
        """Have :meth:`allocation_map` name a pool's models, too; None: no longer."""
        self._others = others

    def _probe_result(self) -> ProbeResult:
        if self._probe is None:
            self._probe = probe(self._env, self._nvml)
        return self._probe

    def _started(self) -> Allocator:
        if self._allocator is None:
            settings = self.settings
            self._allocator = Allocator(
                settings.choose(self._probe_result().devices),
                allow_multiple_per_device=settings.allow_multiple_per_device,
                offload_strategy=settings.offload_strategy,
            )
        return self._allocator

    # --- leases

    @contextlib.contextmanager
    def lease(
        self,
        devices: str | int | DeviceSpec = "cuda",
        *,
        owner: str = "",
        priority: int = 0,
        vram_mib: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Lease]:
        """Wait for devices, and hold them for the ``with`` block.

        Parameters
        ----------
        devices
            A device string, or a number of GPUs.
        owner
            Who asks, for messages and the allocation map.
        priority
            Higher is served first; equals by arrival.
        vram_mib
            Memory need on each device. Where several may share a device, only those
            with a known need do.
        timeout_s
            How long to wait at most; None: as long as it takes.

        Raises
        ------
        DeviceStringError
            ``devices`` is malformed.
        ImpossibleRequest
            No amount of waiting could serve it.
        TimeoutError
            The devices were not free in time.
        """
        request_id, process = f"lease-{next(self._numbers)}", os.getpid()
        request = DeviceRequest(request_id, _spec(devices), LEASE, owner, priority, vram_mib)
        if timeout_s is None:
            self._check_not_waiting_for_itself(request)
        try:
            granted = self._wait_for(request, timeout_s)
            lease = Lease(granted, self._lent_to.get(request_id, ""), self)
            with within(lease):
                yield lease
        finally:
            if os.getpid() == process:  # in a forked child it is the parent's to end
                self._end(request_id)

    def _check_not_waiting_for_itself(self, request: DeviceRequest) -> None:
        """Refuse at once a request that only an enclosing lease of this thread could serve."""
        ours = {name for lease in leases_around() if lease.of is self for name in lease.names}
        if not ours or not is_gpu(request.spec) or self.settings.allow_multiple_per_device:
            return
        with self._changed:
            others = [device for device in self._started().devices if device.name not in ours]
            suited = [device for device in others if suits(request, device)]
        if not fit_one_process(suited, request.spec.count):
            raise ImpossibleRequest(
                f"{request.label} asks for {request.spec} inside a lease of "
                f"{', '.join(sorted_names(ours))}, and would wait for itself: use the devices of "
                "that lease"
            )

    def _wait_for(self, request: DeviceRequest, timeout_s: float | None) -> tuple[Device, ...]:
        """Request devices, and wait until they are granted or refused."""
        deadline_s = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            self._check_open()
            self._look_at_refused_devices()
            self._carry_out(self._started().request(request, self._clock()))
            while True:
                self._check_open()
                if request.request_id in self._refused:
                    raise ImpossibleRequest(self._refused.pop(request.request_id))
                if request.request_id in self._granted:
                    return self._granted[request.request_id]
                if deadline_s is not None and self._clock() >= deadline_s:
                    raise TimeoutError(self._still_waiting(request, timeout_s))
                self._changed.wait(self._patience_s(deadline_s))
                self._look_at_refused_devices()

    def _patience_s(self, deadline_s: float | None) -> float | None:
        """Return how many seconds to wait before looking again; None: until notified."""
        limits = [] if deadline_s is None else [max(deadline_s - self._clock(), 0)]
        if self._ownership.refused:
            limits.append(FOREIGN_POLL_S)
        return min(limits, default=None)

    def _still_waiting(self, request: DeviceRequest, timeout_s: float | None) -> str:
        held = "; ".join(
            f"{name}: {', '.join(owners)}"
            for name, owners in self._started().allocation_map().items()
            if owners
        )
        others = "; ".join(f"{name}: another process" for name in self._ownership.refused)
        who = "; ".join(text for text in (held, others) if text)
        return f"{request.label} waited {timeout_s} s for {request.spec} ({who})"

    def _check_open(self) -> None:
        if self._closed:
            raise GpupoolError("the device manager was reset")

    def _end(self, request_id: str) -> None:
        """End a lease, or stop waiting for one."""
        with self._changed:
            self._granted.pop(request_id, None)
            self._lent_to.pop(request_id, None)
            if self._closed:
                return
            self._ownership.take_back(request_id)
            self._carry_out(self._started().withdraw(request_id, self._clock()))
            self._let_go_of_the_unused()
            self._changed.notify_all()

    def _let_go_of_the_unused(self) -> None:
        """Release the locks of devices that no lease is on."""
        allocator = self._started()
        self._ownership.keep_only(
            name for name, owners in allocator.allocation_map().items() if owners
        )
        if not allocator.snapshot().waiting:
            self._ownership.forget_refused()

    # --- carrying out decisions; the condition's lock is held

    def _carry_out(self, effects: list[AllocationEffect]) -> None:
        """Carry out the effects, and those that follow from them."""
        for effect in effects:
            if isinstance(effect, Granted):
                self._take(effect)
            elif isinstance(effect, Impossible):
                self._refused[effect.request_id] = effect.reason
                self._changed.notify_all()
            else:
                raise AssertionError(f"there are only leases here, and {effect} evicts one")

    def _take(self, granted: Granted) -> None:
        refusal = self._ownership.take(granted.devices)
        if refusal is None:
            self._granted[granted.request_id] = granted.devices
            lent = self._ownership.lend(granted.request_id, granted.devices)
            self._lent_to[granted.request_id] = lent.get(LEASE_VARIABLE, "")
            self._changed.notify_all()
            return
        now_s = self._clock()
        allocator = self._started()
        self._carry_out(refusal.tell(allocator, now_s))
        self._carry_out(allocator.retry(granted.request_id, now_s))

    def _look_at_refused_devices(self) -> None:
        for name in self._ownership.given_back():
            self._carry_out(self._started().foreign(name, False, self._clock()))


def _spec(devices: str | int | DeviceSpec) -> DeviceSpec:
    if isinstance(devices, DeviceSpec):
        return devices
    return gpus(devices) if isinstance(devices, int) else parse_device(devices)
