"""An allocator driven synchronously, with short forms of its effects."""

from snakemake_executor_gpupool.devices.allocation.allocator import (
    Allocator,
    DeviceRequest,
    Evict,
    Granted,
    Impossible,
)
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_spec import parse_device


def gpu(index, memory_mib=80_000, **fields):
    return Device(
        f"cuda:{index}", "cuda", index, f"GPU-{index}", memory_mib, "card", str(index), **fields
    )


class Driver:
    """An allocator, a clock that steps by one second, and short forms of its effects."""

    def __init__(self, count=2, *, devices=None, **settings):
        self.devices = devices or [gpu(index) for index in range(count)]
        self.allocator = Allocator(self.devices, **settings)
        self.now_s = 0.0

    def tick(self, seconds=1.0):
        self.now_s += seconds
        return self.now_s

    def ask(self, request_id, spec="cuda", kind="worker", **fields):
        ask = DeviceRequest(request_id, parse_device(spec), kind, **fields)
        return self.short(self.allocator.request(ask, self.tick()))

    def lease(self, request_id, spec="cuda", **fields):
        return self.ask(request_id, spec, "lease", **fields)

    def __getattr__(self, name):
        method = getattr(self.allocator, name)

        def call(*args, **fields):
            result = method(*args, now_s=self.tick(), **fields)
            return self.short(result) if isinstance(result, list) else result

        return call

    def idle_worker(self, request_id, spec="cuda", **fields):
        """Put a worker on a device and let it become idle; nothing else may happen."""
        granted = self.ask(request_id, spec, **fields)
        assert granted[0].startswith(f"{request_id} on"), granted
        assert self.idle(request_id) == []
        return granted[0].split(" on ")[1]

    @staticmethod
    def short(effects):
        """Return effects as text: ``"a on cuda:0"``, ``"evict a: restart"``, ``"a never: ..."``."""
        texts = []
        for effect in effects:
            if isinstance(effect, Granted):
                names = ",".join(device.name for device in effect.devices)
                texts.append(f"{effect.request_id} on {names}")
            elif isinstance(effect, Evict):
                texts.append(f"evict {effect.holder_id}: {effect.how.value}")
            else:
                assert isinstance(effect, Impossible)
                texts.append(f"{effect.request_id} never: {effect.reason}")
        return texts


def packed(*memory_mib, **settings):
    devices = [gpu(index, memory) for index, memory in enumerate(memory_mib)]
    return Driver(devices=devices, allow_multiple_per_device=True, **settings)
