"""What a simulated world consists of: cards that are names, items, and how long things take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.scheduling.models.figures import Figures

INFO = {
    "deterministic": True,
    "persistent": True,
    "devices": ["cuda", "cpu"],
    "gpus_per_instance": 1,
    "pads": True,
    "vram_mib": None,
    "batch_limit_s": 600.0,
    "can_move": False,
}


def gpu(index: int, memory_mib: int | None = None) -> Device:
    """Return a card that is only a name."""
    name = f"cuda:{index}"
    return Device(name, "cuda", index, f"GPU-{index}", memory_mib, visible_id=str(index))


@dataclass
class FakeItem:
    """One item of a job."""

    key: str
    cost: float = 1.0
    tokens: int = 1
    group: str = "g"


@dataclass
class WorldOptions:
    """Devices, how long things take, and what goes wrong.

    Attributes
    ----------
    seconds_per_cost
        True speed, or a function of the item's key.
    deadly
        Keys of items that kill the worker that computes them.
    bad
        Keys of items for which the tool raises.
    broken
        Keys of items for which the tool's ``run`` returns what is no list of results.
    roomy
        Keys of items that fit a device only while nobody else has a process on it.
    huge
        Keys of items that fit no device.
    changed
        Jobs whose inputs are not what a chain made of them.
    failing_loads, fatal_loads
        Models for which ``load`` raises, or kills its worker.
    unforeseen
        Models that no process can name before there is a job.
    changed_workers
        Processes started ahead of jobs that have read what has changed since.
    short_tokens
        Up to how many tokens a job is short; 0: none is.
    dispatch_s
        What a dispatch takes beside its items.
    staging_s
        What reading and writing take a process with all models of a row, for each request's stage.
    later_load_s
        What loading each model after the first takes a process with all models of a row.
    shares
        Whether items and results lie in files, those of a frame together.
    processors
        How many processes can compute at the same time, as far as is known; 0: any number.
    hosts
        Nodes of a cluster, each of which has as many devices; empty: there is this machine alone.
    file_workers
        How many processes may read and write for one tool, on each machine.
    write_s
        What writing a job's outputs takes; None: as much as reading.
    fatal_starts
        Nodes on which file processes die while they start.
    ends_at_s
        When nodes are given back, by host.
    stop_s
        How long a process takes to end.
    claim_s
        How long it takes to learn whether granted devices are to be had.
    foreign
        Devices that another process holds, by name, and until when.
    broken_cards
        Devices that turn out to be broken when somebody wants to use them.
    figures
        What earlier runs measured of models on one of the cards, by model.
    """

    gpus: int = 2
    cpus: int = 1
    load_s: float = 1.0
    start_s: float = 0.1
    read_s: float = 0.001
    budget_tokens: int = 8
    quick_tokens: int = 0
    seconds_per_cost: float | Callable[[str], float] = 1.0
    deadly: set[str] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    roomy: set[str] = field(default_factory=set)
    huge: set[str] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    failing_loads: set[str] = field(default_factory=set)
    fatal_loads: set[str] = field(default_factory=set)
    unforeseen: set[str] = field(default_factory=set)
    changed_workers: set[str] = field(default_factory=set)
    info: dict[str, Any] = field(default_factory=dict)
    config: DispatchConfig = field(default_factory=DispatchConfig)
    strategy: OffloadStrategy = OffloadStrategy.RESTART
    gpu_mib: int | None = None
    packing: bool = False
    short_tokens: int = 0
    dispatch_s: float = 0.0
    staging_s: float = 0.0
    later_load_s: float = 0.0
    shares: bool = False
    processors: int = 0
    hosts: tuple[str, ...] = ()
    file_workers: int = 1
    write_s: float | None = None
    fatal_starts: set[str] = field(default_factory=set)
    ends_at_s: dict[str, float] = field(default_factory=dict)
    stop_s: float = 0.01
    claim_s: float = 0.0
    foreign: dict[str, float] = field(default_factory=dict)
    broken_cards: set[str] = field(default_factory=set)
    figures: dict[str, Figures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make what a world has beside its options; for subclasses."""
