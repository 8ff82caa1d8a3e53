"""Pilots: jobs of a batch system that become agents, as many as there is work for.

dask-jobqueue writes and submits the job scripts, and Dask's ``adapt`` adds pilots or gives some
back. The pool says how many there should be, since Dask itself sees none of the work.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dask_jobqueue
from dask.utils import parse_bytes
from distributed.deploy.adaptive import Adaptive
from distributed.security import Security

from snakemake_executor_gpupool.devices.cores import default_cpu_workers
from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.kinds import ANY_GPU
from snakemake_executor_gpupool.devices.process_environment import own_environment
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.cluster.engine import scheduler_options
from snakemake_executor_gpupool.hosts.cluster.launch import WORKER, Launcher
from snakemake_executor_gpupool.hosts.cluster.options import BATCH_SYSTEMS, ClusterOptions
from snakemake_executor_gpupool.hosts.cluster.pilot_cards import ANY_TYPE, PilotCards

#: How often the number of pilots is adapted.
ADAPT_S = 2.0
#: A pilot is given back after it was idle so many times in a row.
IDLE_TIMES = 5
#: After so many failed submissions in a row no more nodes are expected; after the first one, if
#: no pilot has ever joined.
MAX_FAILURES = 3
#: A pilot that has waited for its scheduler for so long ends by itself, in seconds.
DEATH_S = 60


class PilotAdaptive(Adaptive):
    """Dask's adaptive scaling, driven by the pool's demand.

    Parameters
    ----------
    pilots
        Knows how many pilots are wanted.
    """

    def __init__(self, cluster: Any, *, pilots: Pilots, **options: Any) -> None:
        self._pilots = pilots
        self._times: Counter[str] = Counter()
        super().__init__(cluster, **options)

    async def target(self) -> int:
        """Return how many pilots there should be."""
        return self._pilots.wanted

    async def recommendations(self, target: int) -> dict[str, Any]:
        """Return what Dask would do; else give pilots back that are in the way of other cards."""
        asked: dict[str, Any] = await super().recommendations(target)
        in_the_way = self._pilots.in_the_way() if asked["status"] == "same" else []
        for name in list(self._times):
            if name not in in_the_way:
                del self._times[name]
        self._times.update(in_the_way)
        long = [name for name in in_the_way if self._times[name] >= IDLE_TIMES]
        return {"status": "down", "workers": long} if long else asked

    async def workers_to_close(self, target: int) -> list[str]:
        """Return idle pilots that can be given back."""
        return self._pilots.idle(len(self.observed) - target)

    async def scale_down(self, workers: Iterable[str]) -> None:
        """Give pilots back."""
        workers = list(workers)
        self._pilots.leaving(workers)
        await super().scale_down(workers)


class Pilots(Launcher):
    """Pilots of one batch system.

    Parameters
    ----------
    options
        As the user gave them.
    security
        The run's credentials, in files that the nodes see.
    logs
        Directory for what pilots print.
    say
        Takes a line for the user.
    cards
        Which cards pilots ask for.

    Raises
    ------
    ConfigError
        The batch system's module does not take the options.
    """

    nodes = 0

    def __init__(
        self,
        options: ClusterOptions,
        security: Security,
        logs: Path,
        say: Callable[[str], None],
        cards: PilotCards | None = None,
    ) -> None:
        self._options = options
        self._cards = cards or PilotCards()
        self._kinds: dict[str, str] = {}  # a pilot's name in Dask -> its type of card
        self._logs = logs
        self._say = say
        self._failures = 0
        self._has_come = False
        self._demand = Demand()
        self._commands = 0
        self._names: dict[str, str] = {}  # node -> its Dask worker's name
        self._on_leaving: Callable[[set[str]], None] = lambda nodes: None
        logs.mkdir(mode=0o700, exist_ok=True)
        self.cluster = self._make(security)

    def _make(self, security: Security) -> Any:
        kind = getattr(dask_jobqueue, BATCH_SYSTEMS[self._options.way])
        # Dask only logs a failed submission.
        failing = self._failed

        class Job(kind.job_cls):  # type: ignore[name-defined]
            @staticmethod
            async def _call(cmd: list[str], **options: Any) -> Any:
                # Batch systems pass the environment of the submission on to the job.
                return await kind.job_cls._call(cmd, env=own_environment(), **options)

            async def start(self) -> None:
                try:
                    await super().start()
                except Exception as error:
                    failing(str(error))
                    raise

        kind_of_next, kinds = self._kind_of_next, self._kinds

        class Cluster(kind):  # type: ignore[misc,valid-type]
            def new_worker_spec(self) -> dict[str, Any]:
                card = kind_of_next()
                specs = super().new_worker_spec()
                for name, spec in specs.items():
                    kinds[name] = card
                    own = {"job_extra_directives": directives(card)}
                    specs[name] = {**spec, "options": {**spec["options"], **own}}
                return dict(specs)

        def directives(card: str) -> list[str]:
            lines: list[str] = job_arguments(self._options, self._logs, card)[
                "job_extra_directives"
            ]
            return lines

        try:
            return Cluster(
                job_cls=Job,
                security=security,
                protocol="tls",
                scheduler_options=scheduler_options(self._options.interface, security),
                silence_logs=logging.ERROR,
                **job_arguments(self._options, self._logs),
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--gpupool-cluster {self._options.way}: {error}") from error

    def start(self, leaving: Callable[[set[str]], None]) -> None:
        """Let the number of pilots follow the demand; see :meth:`Launcher.start`."""
        self._on_leaving = leaving
        self.cluster.adapt(
            minimum=self._options.fewest_nodes,
            maximum=self._options.most_nodes,
            Adaptive=PilotAdaptive,
            pilots=self,
            interval=f"{ADAPT_S} s",
            wait_count=IDLE_TIMES,
        )

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures <= MAX_FAILURES:
            self._say(f"a pilot cannot be submitted: {why}")

    # -- as any launcher ---------------------------------------------------------------
    @property
    def has_hope(self) -> bool:
        """Whether the batch system accepts our jobs."""
        return self._failures < (MAX_FAILURES if self._has_come else 1)

    def look(self, now_s: float) -> None:
        """Do nothing: Dask manages the pilots."""

    def where_to_look(self) -> str:
        """Return where a user finds out why no node came."""
        return f"what the pilots printed is in {self._logs}"

    def devices_to_come(self) -> tuple[Device, ...]:
        """Return the devices of a pilot that has not joined yet."""
        gpus = [
            Device(name=f"{ANY_GPU}:{index}", kind=ANY_GPU, index=index)
            for index in range(self._options.gpus_per_node)
        ]
        return tuple(device.on("pilot") for device in (*gpus, cpu_slot(0)))

    def joined(self, node: str, dask_name: str) -> None:
        """Note that a pilot has become a node."""
        self._failures, self._has_come = 0, True
        self._names[node] = dask_name

    def gone(self, node: str) -> None:
        """Note that a node is gone."""
        self._names.pop(node, None)

    def wants(self, demand: Demand, commands: int) -> None:
        """Note what the pool could use, and how many commands run or wait."""
        self._demand, self._commands = demand, commands

    # -- as the adaptive scaling asks, on the event loop -------------------------------------
    @property
    def wanted(self) -> int:
        """How many pilots there should be."""
        return sum(self._targets().values())

    def _targets(self) -> dict[str, int]:
        """Return how many pilots of each type of card there should be."""
        demand, cards = self._demand, self._cards
        per_node = self._options.gpus_per_node or default_cpu_workers(self._options.cores_per_node)
        devices, busy = Counter(map(self._kind_at, demand.leased)), Counter[str]()
        for wish, count in demand.cards:
            devices[cards.type_for(wish)] += count
        busy.update(map(self._kind_at, demand.busy_hosts))
        targets = {
            kind: max(math.ceil(devices[kind] / per_node), busy[kind]) for kind in cards.kinds
        }
        of_commands = math.ceil(self._commands / self._options.cores_per_node)
        targets[cards.kinds[0]] += max(of_commands - sum(targets.values()), 0)
        return targets

    def _kind_at(self, node: str) -> str:
        """Return a node's type of card."""
        return self._kinds.get(self._names.get(node, ""), self._cards.kinds[0])

    def _have(self) -> Counter[str]:
        """Return how many pilots of each type there are, those that wait in the queue as well."""
        return Counter(self._kinds[name] for name in self.cluster.plan if name in self._kinds)

    def _kind_of_next(self) -> str:
        """Return the type of card that the next pilot asks for: of which most are missing."""
        targets, have = self._targets(), self._have()
        return max(self._cards.kinds, key=lambda kind: targets[kind] - have[kind])

    def in_the_way(self) -> list[str]:
        """Return pilots, by their names in Dask, in whose place others with other cards could be.

        Nothing computes on them, and no more pilots may be asked for.
        """
        targets, have = self._targets(), self._have()
        if self._commands or sum(have.values()) < self._options.most_nodes:
            return []
        missing = sum(max(targets[kind] - have[kind], 0) for kind in self._cards.kinds)
        busy = {self._names.get(node) for node in self._demand.busy_hosts}
        found: list[str] = []
        for name in self.cluster.plan:
            kind = self._kinds.get(name)
            if name not in busy and kind is not None and have[kind] > targets[kind]:
                found.append(name)
                have[kind] -= 1
        return found[:missing]

    def idle(self, count: int) -> list[str]:
        """Return up to so many pilots, by their names in Dask, on which nothing computes."""
        if self._commands:
            return []
        idle = [name for node, name in self._names.items() if node not in self._demand.busy_hosts]
        targets, have = self._targets(), self._have()
        # First those with cards of which there are more than enough.
        idle.sort(key=lambda name: targets[k] - have[k] if (k := self._kinds.get(name)) else 0)
        return idle[: max(count, 0)]

    def leaving(self, dask_names: list[str]) -> None:
        """Note that pilots, by their names in Dask, are about to be given back."""
        self._on_leaving({node for node, name in self._names.items() if name in dask_names})


def job_arguments(options: ClusterOptions, logs: Path, card: str = ANY_TYPE) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue for a pilot; ``card``: its type of card, on Slurm."""
    arguments: dict[str, Any] = {
        "cores": options.cores_per_node,
        "memory": options.memory_per_node,
        "processes": 1,
        # A signal for the job script alone is then one for the agent.
        "python": f"exec {sys.executable}",
        "worker_command": WORKER,
        "death_timeout": DEATH_S,
        "job_name": "gpupool",
        "log_directory": str(logs),
        **(_slurm(options, card) if card else _DIALECTS[options.way](options)),
    }
    named = {
        "queue": options.partition,
        "account": options.account,
        "walltime": options.walltime,
    }
    if options.way == "htcondor":  # has no queues
        named = {}
    elif options.way in ("lsf", "sge"):
        named["project"] = named.pop("account")
    return {**arguments, **{name: value for name, value in named.items() if value}}


def _slurm(options: ClusterOptions, card: str = ANY_TYPE) -> dict[str, Any]:
    which = f"gpu:{card}" if card else "gpu"
    cards = [f"--gres={which}:{options.gpus_per_node}"] if options.gpus_per_node else []
    return {"job_extra_directives": [*cards, *options.pilot_options]}


def _pbs(options: ClusterOptions) -> dict[str, Any]:
    """PBS takes one ``select``: the user's, or one made of the sizes."""
    chosen = [text for text in options.pilot_options if text.startswith(_SELECT)]
    others = [text for text in options.pilot_options if text not in chosen]
    memory_mib = parse_bytes(options.memory_per_node) // 1024**2
    select = f"select=1:ncpus={options.cores_per_node}:mem={memory_mib}mb"
    if options.gpus_per_node:
        select += f":ngpus={options.gpus_per_node}"
    spec = chosen[0].removeprefix("-l").strip() if chosen else select
    return {"resource_spec": spec, "job_extra_directives": others}


def _lsf(options: ClusterOptions) -> dict[str, Any]:
    has_cards = any(text.startswith("-gpu ") for text in options.pilot_options)
    cards = [f"-gpu num={options.gpus_per_node}"] if options.gpus_per_node and not has_cards else []
    return {"job_extra_directives": [*cards, *options.pilot_options]}


def _sge(options: ClusterOptions) -> dict[str, Any]:
    """Sites name their GPU resource differently, so the user gives it."""
    return {"job_extra_directives": list(options.pilot_options)}


def _htcondor(options: ClusterOptions) -> dict[str, Any]:
    cards = {"request_gpus": str(options.gpus_per_node)} if options.gpus_per_node else {}
    named = (text.partition("=") for text in options.pilot_options)
    wanted = {name.strip(): value.strip() for name, _, value in named}
    return {"disk": "1GiB", "job_extra_directives": {**cards, **wanted}}


_SELECT = "-l select="
_DIALECTS = {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf, "sge": _sge, "htcondor": _htcondor}
