"""What is still to come: how many jobs of which kind, and what they wait for. A plain value. Pure.

A frontend that knows its graph of jobs makes one of it, and a new one whenever the graph has
changed. Jobs that need the same model, as far as anybody knows beforehand, and that are equally far
from ready form a wave::

    embed x 3 ──► predict x 3 ──► rank x 1
    wave embed@0: 3 jobs, after nothing
    wave predict@1: 3 jobs, the first after 1 of embed@0
    wave rank@2: 1 job, after 3 of predict@1

A job that becomes ready names its wave (:attr:`~.Request.wave`), so that the scheduler counts on by
itself. The empty forecast says that nothing is known, not that nothing is to come.

Several frontends of one scheduler each have a forecast of their own, kept apart: in the scheduler
its waves have other names (:meth:`Forecast.merged`, :func:`wave_of_client`). Kinds are common to
all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from snakemake_executor_gpupool.wire.requests import Request

#: Of a graph with more, only the nearest are foretold: looking at all would take too long.
MAX_WAVES = 256


@dataclass(frozen=True)
class Need:
    """What the jobs of a wave wait for in another one.

    Attributes
    ----------
    wave
        The other wave's name.
    jobs
        For how many of its jobs the first of these jobs waits; the last one is taken to wait for
        all of them.
    """

    wave: str
    jobs: int


@dataclass(frozen=True)
class Wave:
    """Jobs of one kind that are equally far from ready.

    Attributes
    ----------
    name
        Unique in the run's forecasts.
    kind
        Jobs of one kind need the same model, most likely.
    tool
        The tool as the user named it.
    jobs
        How many are still to come, and are not ready yet.
    after
        What they wait for, of jobs that are to be served and have not finished.
    waits_elsewhere
        The first of them also waits for jobs that are not served.
    """

    name: str
    kind: str
    tool: str
    jobs: int
    after: tuple[Need, ...] = ()
    waits_elsewhere: bool = False


@dataclass(frozen=True)
class Forecast:
    """Everything that is known of the jobs to come.

    Attributes
    ----------
    waves
        Each one after those that it waits for.
    is_complete
        No other served job will come, unless one is tried again. False where a checkpoint may
        still add some.
    is_cut
        There are more waves, which come later than these.
    foretold
        By kind, what its first job will ask of its model, of kinds of which that is known already:
        a request for nothing else (:attr:`~.Request.loads_only`), and a guess.
    """

    waves: tuple[Wave, ...] = ()
    is_complete: bool = False
    is_cut: bool = False
    foretold: Mapping[str, Request] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.waves) or self.is_complete

    @classmethod
    def merged(cls, parts: Mapping[str, Forecast]) -> Forecast:
        """Return one forecast of those of several clients, by their names.

        A client that leaves is left out of the next one. Others may still come: the whole is never
        complete. Of more than :data:`MAX_WAVES` the nearest count.

        Parameters
        ----------
        parts
            Names have no ``@``. What a client's requests call :attr:`~.Request.wave` becomes
            :func:`wave_of_client`.
        """
        waves = [
            replace(
                wave,
                name=wave_of_client(wave.name, client),
                after=tuple(
                    replace(need, wave=wave_of_client(need.wave, client)) for need in wave.after
                ),
            )
            for client, part in parts.items()
            for wave in part.waves
        ]
        waves.sort(key=lambda wave: depth_of(wave.name))
        is_cut = len(waves) > MAX_WAVES or any(part.is_cut for part in parts.values())
        foretold = {kind: each for part in parts.values() for kind, each in part.foretold.items()}
        return cls(tuple(waves[:MAX_WAVES]), is_cut=is_cut, foretold=foretold)


@dataclass(frozen=True)
class Node:
    """A job of a graph that has not finished.

    Attributes
    ----------
    kind
        Jobs of one kind need the same model, most likely; empty: it is not served.
    after
        The jobs whose outputs it reads; finished ones may be among them.
    wave
        In which wave it became ready; empty: it has not.
    """

    kind: str
    tool: str = ""
    after: Sequence[Hashable] = ()
    wave: str = ""


@dataclass
class _Gathered:
    """A wave while it is being made: by the name of another wave, the fewest and how many asked."""

    kind: str
    tool: str
    jobs: int = 0
    fewest: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    elsewhere: int = 0

    def add(self, before: Mapping[str, int], waits_elsewhere: bool) -> None:
        self.jobs += 1
        self.elsewhere += waits_elsewhere
        for wave, jobs in before.items():
            self.asked[wave] += 1
            self.fewest[wave] = min(self.fewest.get(wave, jobs), jobs)

    def needs(self) -> tuple[Need, ...]:
        return tuple(
            Need(wave, fewest if self.asked[wave] == self.jobs else 0)
            for wave, fewest in self.fewest.items()
        )


@dataclass(frozen=True)
class _Behind:
    """What a job's readers wait for: how many jobs of which waves, how deep, what else."""

    before: Mapping[str, int]
    depth: int
    elsewhere: bool


_NOTHING = _Behind({}, 0, elsewhere=False)


def forecast_of(
    nodes: Mapping[Hashable, Node], *, is_complete: bool = True
) -> tuple[Forecast, dict[Hashable, str]]:
    """Make a forecast of the jobs of a graph that have not finished.

    Parameters
    ----------
    nodes
        The jobs by any key. Those named in ``after`` that are not among them have finished.
    is_complete
        See :class:`Forecast`.

    Returns
    -------
    tuple
        The forecast, and the wave of each served job that is still to come. Of more than
        :data:`MAX_WAVES` the nearest count.
    """
    waves: dict[str, _Gathered] = {}
    wave_of: dict[Hashable, str] = {}
    behind: dict[Hashable, _Behind] = {}
    for key in _in_order(nodes):
        node = nodes[key]
        if node.wave:
            behind[key] = _Behind({node.wave: 1}, depth_of(node.wave) + 1, elsewhere=False)
            continue
        seen = _merged([behind[before] for before in node.after if before in behind])
        if not node.kind:
            behind[key] = _Behind(seen.before, seen.depth, elsewhere=True)
            continue
        name = f"{node.kind}@{seen.depth}"
        wave_of[key] = name
        waves.setdefault(name, _Gathered(node.kind, node.tool)).add(seen.before, seen.elsewhere)
        behind[key] = _Behind({name: 1}, seen.depth + 1, elsewhere=False)
    made = [
        Wave(name, wave.kind, wave.tool, wave.jobs, wave.needs(), wave.elsewhere == wave.jobs)
        for name, wave in waves.items()
    ]
    made.sort(key=lambda wave: (depth_of(wave.name), wave.name))
    if len(made) > MAX_WAVES:
        near = {wave.name for wave in made[:MAX_WAVES]}
        wave_of = {key: name for key, name in wave_of.items() if name in near}
        return Forecast(tuple(made[:MAX_WAVES]), is_cut=True), wave_of
    return Forecast(tuple(made), is_complete), wave_of


def first_of(
    kinds: Collection[str], forecast: Forecast, wave_of: Mapping[Hashable, str]
) -> dict[str, Hashable]:
    """Return for each of some kinds a job to come that is among the nearest; none: there is none.

    Parameters
    ----------
    wave_of
        The wave of each job to come, as :func:`forecast_of` returns them.
    """
    nearest: dict[str, str] = {}
    for wave in forecast.waves:
        if wave.kind in kinds:
            nearest.setdefault(wave.kind, wave.name)
    lacking, first = set(nearest.values()), {}
    for key, name in wave_of.items() if lacking else ():
        if name in lacking:
            first[kind_of(name)] = key
            lacking.remove(name)
            if not lacking:
                break
    return first


def kind_of(wave: str) -> str:
    """Return the kind of the jobs of a wave."""
    return wave.rpartition("@")[0]


def depth_of(wave: str) -> int:
    """Return how many waves come before a wave, one after the other."""
    return int(wave.rpartition("@")[2].partition(":")[0])


def wave_of_client(wave: str, client: str) -> str:
    """Return what a wave is called in a forecast of several clients; empty: it is none."""
    return f"{wave}:{client}" if wave else ""


def rows_after(forecast: Forecast) -> dict[str, int]:
    """Return how many waves follow on each wave, one after the other."""
    rows: dict[str, int] = {}
    for wave in reversed(forecast.waves):
        for need in wave.after:
            rows[need.wave] = max(rows.get(need.wave, 0), rows.get(wave.name, 0) + 1)
    return rows


def _merged(parts: Sequence[_Behind]) -> _Behind:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return _NOTHING
    before: dict[str, int] = defaultdict(int)
    for part in parts:
        for wave, jobs in part.before.items():
            before[wave] += jobs
    return _Behind(before, max(part.depth for part in parts), any(part.elsewhere for part in parts))


def _in_order(nodes: Mapping[Hashable, Node]) -> Iterable[Hashable]:
    """Yield each job after those that it reads from."""
    waiting = {key: sum(before in nodes for before in node.after) for key, node in nodes.items()}
    readers: dict[Hashable, list[Hashable]] = defaultdict(list)
    for key, node in nodes.items():
        for before in node.after:
            if before in nodes:
                readers[before].append(key)
    ready = [key for key, count in waiting.items() if not count]
    for key in ready:  # grows
        yield key
        for reader in readers.get(key, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
