"""AMD's cards: found through sysfs, shown through one variable. Pure.

Three variables choose among them, and a process that finds several applies them one after the
other. ``ROCR_VISIBLE_DEVICES`` comes first, in the runtime below HIP: indices or ids, and an empty
one hides all. What is left is counted anew, and ``HIP_VISIBLE_DEVICES`` chooses within that; where
it is empty or not set, HIP takes ``CUDA_VISIBLE_DEVICES`` in its place, never both.

So a child that has cards is shown them by ``HIP_VISIBLE_DEVICES`` alone, within what the user has
left by ``ROCR_VISIBLE_DEVICES``, which stays as it is. A child without any has ``-1`` in the first,
as an empty one would fall through to the other, and nothing in the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from snakemake_executor_gpupool.devices import kfd
from snakemake_executor_gpupool.devices.cards import CUDA
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.device_kind import DeviceKind, ProbeResult, System
from snakemake_executor_gpupool.errors import DeviceLost

ROCM = "rocm"
HIP, ROCR = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
#: HIP passes over an empty list; a negative number ends one.
NO_DEVICE = "-1"
MIN_COMPUTE_UNITS = 8
"""Fewer have only the graphics of a processor, which are for its screen; ROCm lists them, too."""

T = TypeVar("T")


class RocmKind(DeviceKind):
    """AMD's cards. Tools call them ``cuda``, as torch does."""

    word = ROCM
    tool_word = "cuda"
    also_serves = frozenset({CUDA})
    maker = "amd"
    stays_hidden = frozenset({ROCR})
    container_flag = "--rocm"

    def shown(self, devices: Sequence[Device]) -> dict[str, str | None]:
        """Return the variables that show a process exactly these cards."""
        return {HIP: ",".join(device.visible_id for device in devices), ROCR: None}

    def hidden(self) -> dict[str, str]:
        """Return the variables that hide all cards from a process."""
        return {HIP: NO_DEVICE, ROCR: ""}

    def find(self, env: Mapping[str, str], system: System) -> ProbeResult:
        """Find the cards that the variables leave to this process."""
        nodes = kfd.read_nodes(system)
        if not nodes:
            # Most machines have none, which is no news; one whose driver lists none, a little.
            is_there = bool(system.list_directory(kfd.NODES))
            why = "AMD's driver lists no card that this process may use" if is_there else ""
            return ProbeResult((), (), why)
        first = _chosen(nodes, env.get(ROCR), ROCR, _of_rocr)
        name = HIP if env.get(HIP) else "CUDA_VISIBLE_DEVICES"
        # An empty one is meant to hide all, though HIP itself passes over it.
        text = env.get(name) or ("" if HIP in env or name in env else None)
        second = _chosen(first.nodes, text, name, _of_hip)
        devices: list[Device] = []
        warnings = [*first.warnings, *second.warnings]
        for index, node in enumerate(second.nodes):
            if node.compute_units < MIN_COMPUTE_UNITS:
                warnings.append(
                    f"{ROCM}:{index} is not used: it has {node.compute_units} compute units, so it "
                    "is the graphics of the processor"
                )
            else:
                place = first.nodes.index(node)
                devices.append(_device(index, node, str(place), system))
        why = "" if devices else f"{first.why or second.why or 'no AMD card is usable'}"
        return ProbeResult(tuple(devices), tuple(warnings), why)

    def memory_used_mib(self, device: Device, system: System) -> int | None:
        """Return the memory in use on a card, by anybody."""
        return kfd.used_mib(_find(device, system), system)

    def memory_by_pid(self, device: Device, system: System) -> dict[int, int | None]:
        """Return the MiB of each process that computes on a card."""
        return dict(kfd.used_by_process(_find(device, system), system))

    def driver(self, system: System) -> str:
        """Return the version of AMD's own driver, else of the kernel that brought it."""
        own = (system.read_text("/sys/module/amdgpu/version") or "").strip()
        kernel = (system.read_text("/proc/sys/kernel/osrelease") or "").strip()
        return f"amdgpu {own or kernel}"


def _device(index: int, node: kfd.Node, visible_id: str, system: System) -> Device:
    return Device(
        name=f"{ROCM}:{index}",
        kind=ROCM,
        index=index,
        uuid=node.identity,
        memory_mib=node.memory_mib,
        model_name=kfd.model_name(node, system),
        visible_id=visible_id,
    )


def _find(device: Device, system: System) -> kfd.Node:
    """Return a card as it is now.

    Raises
    ------
    DeviceLost
        The driver lists it no more.
    """
    for node in kfd.read_nodes(system):
        if node.identity == device.uuid:
            return node
    raise DeviceLost(f"{device.name} ({device.uuid}): AMD's driver no longer lists it")


# --- what the variables leave


class _Left:
    """The cards that a variable leaves, in its order."""

    def __init__(self, nodes: list[kfd.Node], warnings: list[str], why: str) -> None:
        self.nodes, self.warnings, self.why = nodes, warnings, why


def _chosen(
    nodes: list[kfd.Node],
    text: str | None,
    variable: str,
    find: Callable[[str, list[kfd.Node]], kfd.Node | None],
) -> _Left:
    if text is None:
        return _Left(nodes, [], "")
    left: list[kfd.Node] = []
    warnings: list[str] = []
    for entry in text.split(",") if text else ():
        node = find(entry, nodes)
        if node in left and variable != ROCR:
            continue  # HIP counts it once; to the runtime below it ends the list
        if node is None or node in left:
            if entry.strip() != NO_DEVICE:
                warnings.append(
                    f"{variable}: {entry!r} is no AMD card of this machine, or is there twice; as "
                    "ROCm does, it and all entries after it are ignored"
                )
            break
        left.append(node)
    return _Left(left, warnings, "" if left else f"{variable}={text!r} shows no AMD card")


def _of_rocr(entry: str, nodes: list[kfd.Node]) -> kfd.Node | None:
    entry = entry.strip().upper()
    if entry.startswith("G"):
        return _by_id(entry, nodes) if 5 <= len(entry) <= 20 else None
    try:
        number = int(entry, 0)
    except ValueError:
        return None
    return nodes[number] if 0 <= number < len(nodes) else None


def _of_hip(entry: str, nodes: list[kfd.Node]) -> kfd.Node | None:
    if entry.upper().startswith("GPU-"):
        return _by_id(entry.upper(), nodes)
    is_plain = entry.isdecimal() and entry == str(int(entry))
    return nodes[int(entry)] if is_plain and int(entry) < len(nodes) else None


def _by_id(entry: str, nodes: list[kfd.Node]) -> kfd.Node | None:
    """Return the one card whose id begins so; the partitions of a card have one id together."""
    matches = [n for n in nodes if n.unique_id and f"GPU-{n.unique_id}".upper().startswith(entry)]
    return matches[0] if len(matches) == 1 else None
