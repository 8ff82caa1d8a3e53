"""On which devices a job's model goes. Pure."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.devices.kinds import CPU, KINDS, kind_of, kinds_for_tool
from snakemake_executor_gpupool.errors import ImpossibleRequest
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import Request

if TYPE_CHECKING:
    from snakemake_executor_gpupool.scheduling.models.model import Model


class DeviceRequests:
    """Chooses devices from what rules wish, tools accept and the pool manages."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        #: What tools get without a wish of the rule's, as long as there are the same kinds.
        self._kinds: Set[str] = frozenset()
        self._usual: dict[tuple[object, ...], DeviceSpec] = {}

    def spec_for(self, request: Request, info: ToolInfo) -> DeviceSpec:
        """Return what devices a job's model goes to: the rule's wish, else the tool's.

        Raises
        ------
        ImpossibleRequest
            The tool does not run on what the rule asks for, or on nothing that the pool manages.
        """
        kinds = self._allocator.kinds
        if request.devices is not None:
            return self._choose(request, info, kinds)
        if kinds is not self._kinds:
            self._kinds, self._usual = kinds, {}
        asked = info.devices, info.gpus_per_instance, request.card
        spec = self._usual.get(asked)
        if spec is None:
            spec = self._usual[asked] = self._choose(request, info, kinds)
        return spec

    def _choose(self, request: Request, info: ToolInfo, kinds: Set[str]) -> DeviceSpec:
        accepted = info.devices
        wish = request.devices
        if wish is not None and kind_of(wish).tool_word not in accepted:
            raise ImpossibleRequest(
                f"the rule asks for {wish}, and the tool {request.tool} runs on "
                f"{', '.join(accepted)}"
            )
        is_there = wish is not None and any(map(wish.is_served_by, kinds))
        is_firm = wish is not None and (wish.names or wish.count > 1 or wish.card)
        if wish is not None and (is_there or is_firm or KINDS[CPU].tool_word not in accepted):
            return wish
        count = info.gpus_per_instance
        for word in accepted:
            for kind in kinds_for_tool(word, {*kinds, CPU}):
                if kind != CPU:
                    return DeviceSpec(kind, count, card=request.card)
                if not request.card:
                    return DeviceSpec(kind)
        if request.card:
            raise ImpossibleRequest(
                f"the rule asks for a GPU ({request.card}), the tool {request.tool} runs on "
                f"{', '.join(accepted)}, and the pool manages "
                f"{', '.join(sorted(kinds)) or 'no device'}"
            )
        raise ImpossibleRequest(
            f"the tool {request.tool} runs on {', '.join(accepted)}, and the pool manages "
            f"{', '.join(sorted(kinds)) or 'no device'}"
        )

    def label(self, spec: DeviceSpec) -> str:
        """Name the kind of device, as far as figures measured on one hold for another."""
        names = {device.model_name for device in self._allocator.like(spec)}
        return f"{spec.kind}x{spec.count}:{min(names, default='')}"


def need_mib(model: Model, allocator: Allocator) -> int | None:
    """Return a model's memory need on each of its devices: as declared, else as measured.

    What was only measured never makes a request impossible.
    """
    if model.vram_mib is not None or model.memory.need_mib is None:
        return model.vram_mib
    count = model.spec.count
    sizes = [device.memory_mib or 0 for device in allocator.like(model.spec)]
    most_mib = sorted(sizes, reverse=True)[count - 1] if count <= len(sizes) else 0
    return min(model.memory.need_mib, most_mib) if most_mib else None
