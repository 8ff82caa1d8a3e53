"""Jobs that a pipe or a service joins: they run at the same time, each on its own devices.

One child Snakemake runs them, and must start all of them or none. Their devices are therefore
one lease, of which each job sees its own part, see
:mod:`~snakemake_executor_gpupool.frontends.snakemake.members`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakemake_executor_gpupool.devices.device import Device, device_key
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, gpus, sorted_names
from snakemake_executor_gpupool.devices.kinds import ANY_GPU, is_gpu
from snakemake_executor_gpupool.devices.lent_locks import LentLocks
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE, env_of_parent, visible_env
from snakemake_executor_gpupool.frontends.snakemake.needs import Needs, needs_of
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable
from snakemake_executor_gpupool.frontends.snakemake.translate import tool_spec

#: Tells the child that runs joined jobs which devices each of them sees.
MEMBERS_VARIABLE = "GPUPOOL_MEMBERS"


def member_needs(job: Any, managed: Iterable[Device]) -> Needs:
    """Return the devices that one joined job needs; a tool that runs cold needs a GPU."""
    needs = needs_of(job)
    has_gpus = any(map(is_gpu, managed))
    if needs.spec is None and tool_spec(job) is not None and has_gpus:
        return Needs(gpus(1, needs.card), needs.vram_mib, needs.card)
    return needs


@dataclass(frozen=True)
class Bundle:
    """Joined jobs and what they need.

    Attributes
    ----------
    jobs, needs
        The jobs, and the devices that each of them needs.
    joint
        The devices that all of them need together.
    """

    jobs: tuple[Any, ...]
    needs: tuple[Needs, ...]
    joint: Needs

    @classmethod
    def of(cls, jobs: Iterable[Any], managed: Sequence[Device]) -> Bundle:
        """Return the bundle of joined jobs.

        Raises
        ------
        Unservable
            Two of them ask for the same device, or for devices of different machines.
        """
        jobs = tuple(jobs)
        needs = tuple(member_needs(job, managed) for job in jobs)
        rules = [job.rule.name for job in jobs]
        return cls(jobs, needs, joint_needs(list(zip(rules, needs, strict=True)), managed))

    def parts(self, devices: Iterable[Device]) -> list[tuple[Device, ...]]:
        """Divide the devices of the bundle among its jobs."""
        return divided(self.needs, devices)

    def environment(self, devices: Iterable[Device], leased: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the child that runs them.

        The child itself sees no device, and is told which ones each job may see.

        Parameters
        ----------
        devices
            The devices of the bundle.
        leased
            The environment of a job that would hold all of them.
        """
        lent = LentLocks.parse(leased.get(LEASE_VARIABLE, ""))
        members = [
            {
                "rule": job.rule.name,
                "wildcards": job.wildcards_dict,
                "environment": {**visible_env(part), LEASE_VARIABLE: str(lent.part(part))},
            }
            for job, part in zip(self.jobs, self.parts(devices), strict=True)
        ]
        variables = {LEASE_VARIABLE: str(lent), MEMBERS_VARIABLE: json.dumps(members)}
        return {**env_of_parent(devices), **variables}


def joint_needs(needs: Sequence[tuple[str, Needs]], managed: Sequence[Device]) -> Needs:
    """Return the devices that jobs need together, given each one's rule and needs.

    Raises
    ------
    Unservable
        Two of them ask for the same device, or for devices of different machines.
    """
    holders = [(rule, need) for rule, need in needs if need.gpus]
    if not holders:
        return Needs()
    vrams = [need.vram_mib for _, need in holders]
    known = [vram for vram in vrams if vram is not None]
    vram_mib = max(known) if len(known) == len(vrams) else None
    host = _common_host(holders)
    named = _named(holders)
    counted = sum(need.gpus for _, need in holders if not need.names)
    cards = {need.card for _, need in holders}
    if not named and len(cards) == 1:
        card = cards.pop()
        return Needs(DeviceSpec(ANY_GPU, counted, (), host, card), vram_mib, card)
    if any(cards):
        return _chosen(holders, host, managed)
    # A request names all of its devices or none, so the unnamed ones are chosen here.
    others = [
        device.name if host else device.local_name
        for device in sorted(managed, key=device_key)
        if is_gpu(device) and host in ("", device.host)
    ]
    chosen = [name for name in dict.fromkeys(others) if name not in named][:counted]
    missing = counted - len(chosen)
    names = tuple(sorted_names([*named, *chosen]))
    return Needs(DeviceSpec(ANY_GPU, len(names) + missing, names, host), vram_mib)


def _chosen(holders: Sequence[tuple[str, Needs]], host: str, managed: Sequence[Device]) -> Needs:
    """Return devices, by name, of a machine that has the different cards that jobs ask for.

    Raises
    ------
    Unservable
        No machine has them.
    """
    needs = [need for _, need in holders]
    there = [device for device in managed if is_gpu(device) and device.model_name]
    for machine in dict.fromkeys(device.host for device in sorted(there, key=device_key)):
        if host not in ("", machine):
            continue
        parts = divided(needs, [device for device in there if device.host == machine])
        if all(len(part) == need.gpus for part, need in zip(parts, needs, strict=True)):
            names = tuple(sorted_names(device.name for part in parts for device in part))
            # Their needs of memory differ, and these cards are large enough.
            return Needs(DeviceSpec(ANY_GPU, len(names), names, machine))
    asked = "; ".join(f"{rule}: {need.spec}" for rule, need in holders)
    cards = ", ".join(f"{device.name} ({device.model_name})" for device in there) or "no GPU"
    raise Unservable(
        f"they run at the same time on one machine, and no machine has what they ask for together "
        f"({asked}); there is {cards}. Change their gpu_model, or give all of them the same"
    )


def divided(needs: Sequence[Needs], devices: Iterable[Device]) -> list[tuple[Device, ...]]:
    """Divide devices among jobs, so that as many as possible have what they need."""
    there = sorted(devices, key=device_key)
    # First the jobs that name their devices: the others take any.
    by_choice = sorted(enumerate(needs), key=lambda pair: (not pair[1].names, not pair[1].card))
    places = [number for number, need in by_choice for _ in range(need.gpus)]
    holder: dict[str, int] = {}  # the place that has a device

    def find(place: int, tried: set[str]) -> bool:
        """Find a device for a place; one that has another moves on to it if it must."""
        need = needs[places[place]]
        fits = [device for device in there if need.accepts(device) and _is_large(need, device)]
        for device in sorted(fits, key=lambda device: device.name in holder):
            if device.name in tried:
                continue
            tried.add(device.name)
            if device.name not in holder or find(holder[device.name], tried):
                holder[device.name] = place
                return True
        return False

    for place in range(len(places)):
        find(place, set())
    owner = {name: places[place] for name, place in holder.items()}
    return [tuple(d for d in there if owner.get(d.name) == number) for number in range(len(needs))]


def _is_large(need: Needs, device: Device) -> bool:
    return device.memory_mib is None or (need.vram_mib or 0) <= device.memory_mib


def _named(holders: Iterable[tuple[str, Needs]]) -> list[str]:
    """Return the devices that jobs ask for by name."""
    by: dict[str, str] = {}
    for rule, need in holders:
        for name in need.names:
            if name in by:
                raise Unservable(
                    f"rules {by[name]} and {rule} run at the same time, as a pipe or a service "
                    f"joins them, and both ask for {name}"
                )
            by[name] = rule
    return list(by)


def _common_host(holders: Sequence[tuple[str, Needs]]) -> str:
    hosts = sorted({need.spec.host for _, need in holders if need.spec and need.spec.host})
    if len(hosts) > 1:
        rules = ", ".join(rule for rule, _ in holders)
        raise Unservable(
            f"rules {rules} run at the same time on one machine, as a pipe or a service joins "
            f"them, and ask for devices of {' and '.join(hosts)}"
        )
    return hosts[0] if hosts else ""


def identity(rule: str, wildcards: Mapping[str, Any]) -> tuple[str, str]:
    """Return what identifies a job within its workflow."""
    return rule, json.dumps({name: str(value) for name, value in wildcards.items()}, sort_keys=True)


def part_of_group(group: Any, jobs: Iterable[Any]) -> Any:
    """Return a group job that holds some members of a group."""
    members = frozenset(jobs)
    if members == frozenset(group.jobs):
        return group
    part = type(group)(group.groupid, members, group.global_resources)
    part.attempt = group.attempt
    part.finalize()
    return part
