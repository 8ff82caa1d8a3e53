"""AMD's cards as the kernel's compute driver (KFD) lists them in sysfs. Pure.

``/sys/class/kfd/kfd/topology/nodes`` has a directory for each processor and each card, in the order
in which ROCm numbers the cards. A card of another control group (a Slurm job's, a container's) is
listed, but its ``gpu_id`` cannot be read, and ROCm does not count it. A card may be partitioned
(MI300 in CPX mode): then each partition is a node, and all of them have the card's unique id.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from snakemake_executor_gpupool.devices.device_kind import System

NODES = "/sys/class/kfd/kfd/topology/nodes"
PROCESSES = "/sys/class/kfd/kfd/proc"
#: What the driver's library for user programs calls each card.
IDS_FILES = ("/usr/share/libdrm/amdgpu.ids", "/opt/amdgpu/share/libdrm/amdgpu.ids")

_MIB = 2**20
_PART = 0.75  # what is less than this of its card is a partition of it
_VRAM = ("1", "2")  # heap types of memory banks: seen by the host as well, or not
#: Cards of servers, by their device id, where neither the card nor a file has a name for it.
_NAMES = {
    0x66A0: "Instinct MI50",
    0x66A1: "Instinct MI60",
    0x738C: "Instinct MI100",
    0x7408: "Instinct MI250X",
    0x740C: "Instinct MI250X / MI250",
    0x740F: "Instinct MI210",
    0x74A0: "Instinct MI300A",
    0x74A1: "Instinct MI300X",
    0x74A2: "Instinct MI308X",
    0x74A5: "Instinct MI325X",
    0x75A0: "Instinct MI350X",
    0x75A3: "Instinct MI355X",
}


@dataclass(frozen=True)
class Node:
    """One card, or one partition of a card.

    Attributes
    ----------
    gpu_id
        The driver's own number of it.
    pci
        Its address on the bus, as in ``0000:03:00.0``.
    unique_id
        Of the card, as in ``93bb6f9b7a1c3d5e``; empty: it has none.
    is_partition
        It is one of several on its card.
    directory
        Of its files at the graphics driver; empty: there is none.
    memory_mib
        All of its memory; None: not known.
    compute_units
        How many it has.
    """

    gpu_id: str
    pci: str
    unique_id: str
    is_partition: bool
    directory: str
    memory_mib: int | None
    compute_units: int
    properties: Mapping[str, int] = field(repr=False, compare=False)

    @property
    def identity(self) -> str:
        """What identifies it whatever it is numbered, and whatever others this process may see."""
        if not self.properties.get("location_id"):  # two such would be one, and share a lock
            return f"AMD-KFD-{self.gpu_id}"
        if not self.unique_id:
            return f"AMD-{self.pci}"
        function = self.pci[-1]  # partitions of a card differ in it, and the first has 0
        return f"GPU-{self.unique_id}" + (f"-{function}" if function != "0" else "")

    @property
    def architecture(self) -> str:
        """What compilers call it, as in ``gfx90a``; of an old driver, its device id."""
        version = self.properties.get("gfx_target_version", 0)
        if not version:
            return f"{self.properties.get('device_id', 0):04x}"
        return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def read_nodes(system: System) -> list[Node]:
    """Return the cards that this process may use, in ROCm's order, before any variable counts."""
    found: list[tuple[str, str, dict[str, int]]] = []
    for name in sorted(filter(str.isdecimal, system.list_directory(NODES)), key=int):
        gpu_id = (system.read_text(f"{NODES}/{name}/gpu_id") or "").strip()
        properties = _properties(system.read_text(f"{NODES}/{name}/properties"))
        if gpu_id not in ("", "0") and properties.get("simd_count", 0) > 0:
            found.append((name, gpu_id, properties))
    on_card = Counter(_card(properties) for _, _, properties in found)
    return [_node(*each, on_card[_card(each[2])] > 1, system) for each in found]


def _node(
    name: str, gpu_id: str, properties: dict[str, int], has_siblings: bool, system: System
) -> Node:
    unique_id = properties.get("unique_id", 0)
    directory = _directory(properties, system)
    own = _banks_bytes(name, system)
    card = _number(system.read_text(f"{directory}/mem_info_vram_total")) if directory else 0
    # Where the others are hidden from this process, its part of the memory tells.
    is_partition = has_siblings or 0 < own < _PART * (card or 0)
    return Node(
        gpu_id=gpu_id,
        pci=_pci(properties),
        unique_id=f"{unique_id:016x}" if unique_id else "",
        is_partition=is_partition,
        directory=directory,
        memory_mib=(own or card or 0) // _MIB or None,
        compute_units=properties["simd_count"] // max(properties.get("simd_per_cu", 1), 1),
        properties=properties,
    )


def _properties(text: str | None) -> dict[str, int]:
    lines = (line.split() for line in (text or "").splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}


def _card(properties: Mapping[str, int]) -> tuple[int, int, int]:
    """Return what the partitions of one card have in common."""
    place = properties.get("location_id", 0) >> 3
    return properties.get("domain", 0), place, properties.get("unique_id", 0)


def _pci(properties: Mapping[str, int]) -> str:
    place = properties.get("location_id", 0)
    bus, slot, function = place >> 8 & 0xFF, place >> 3 & 0x1F, place & 7
    return f"{properties.get('domain', 0):04x}:{bus:02x}:{slot:02x}.{function}"


def _directory(properties: Mapping[str, int], system: System) -> str:
    """Return the directory of a card's files at the graphics driver."""
    render = f"/sys/class/drm/renderD{properties.get('drm_render_minor', 0)}/device"
    if system.list_directory(render):
        return render
    for name in system.list_directory("/sys/class/drm"):
        directory = f"/sys/class/drm/{name}/device"
        event = (
            system.read_text(f"{directory}/uevent") if re.fullmatch("card[0-9]+", name) else None
        )
        if event and f"PCI_SLOT_NAME={_pci(properties)}" in event.splitlines():
            return directory
    return ""


def _banks_bytes(node: str, system: System) -> int:
    """Return a node's own memory; of a processor with graphics, what they may have of the host's.

    The graphics driver's ``mem_info_vram_total`` is the whole card's, for each of its partitions.
    """
    banks = f"{NODES}/{node}/mem_banks"
    total = 0
    for name in system.list_directory(banks):
        bank = _properties(system.read_text(f"{banks}/{name}/properties"))
        if str(bank.get("heap_type")) in _VRAM:
            total += bank.get("size_in_bytes", 0)
    return total


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdecimal() else None


# --- what a card is called


def model_name(node: Node, system: System) -> str:
    """Return what a card is called: by its driver's library, by itself, else by its chip."""
    device_id = node.properties.get("device_id", 0)
    revision = (system.read_text(f"{node.directory}/revision") or "").strip()
    name = (
        _listed(device_id, revision.removeprefix("0x"), system)
        or (system.read_text(f"{node.directory}/product_name") or "").strip()
        or _NAMES.get(device_id, "")
        or f"GPU {node.architecture}"
    )
    return name if name.lower().startswith("amd") else f"AMD {name}"


def _listed(device_id: int, revision: str, system: System) -> str:
    for path in IDS_FILES:
        for line in (system.read_text(path) or "").splitlines():
            fields = [field.strip() for field in line.split(",", 2)]
            if len(fields) == 3 and fields[0].lower() == f"{device_id:04x}":  # noqa: SIM102
                if fields[1].lower() == revision.lower():
                    return fields[2]
    return ""


# --- what is on it now


def used_by_process(node: Node, system: System) -> dict[int, int]:
    """Return the MiB of each process that computes on a card."""
    used = {}
    for pid in filter(str.isdecimal, system.list_directory(PROCESSES)):
        size = _number(system.read_text(f"{PROCESSES}/{pid}/vram_{node.gpu_id}"))
        if size:
            used[int(pid)] = size // _MIB
    return used


def used_mib(node: Node, system: System) -> int | None:
    """Return the memory in use on a card, by anybody; of a partition, by computing processes."""
    if not node.is_partition and node.directory:
        used = _number(system.read_text(f"{node.directory}/mem_info_vram_used"))
        if used is not None:
            return used // _MIB
    return sum(used_by_process(node, system).values())
