"""Which waves of the forecast are which model's, looked up once and not for each question. Pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

from snakemake_executor_gpupool.scheduling.forecast import Wave, kind_of
from snakemake_executor_gpupool.scheduling.job_kinds import JobKinds
from snakemake_executor_gpupool.scheduling.waves import WaveTable


class ModelWaves:
    """The waves by the models that their jobs need, as far as that is known.

    A job that comes changes what is known of one model; with hundreds of them, looking through all
    waves for each after every such job would take longer than the jobs.

    Parameters
    ----------
    table, kinds
        The waves, and the models of each kind.
    """

    def __init__(self, table: WaveTable, kinds: JobKinds) -> None:
        self._table = table
        self._kinds = kinds
        self._own: dict[Hashable, list[Wave]] = {}
        #: By tool: waves that may be any model's; None: to be looked up.
        self._anybodys: defaultdict[str, list[Wave]] | None = None

    # -- what happens ------------------------------------------------------------------
    def forecast_replaced(self) -> None:
        """There are other waves."""
        self._kinds.forget_unused(self._table.kinds())
        self._own, self._anybodys = {}, None

    def forget(self, key: Hashable) -> None:
        """Forget a model."""
        self._kinds.forget_model(key)
        self._own.pop(key, None)
        self._anybodys = None

    def needs(self, wave: str, key: Hashable) -> bool:
        """Note that a job of a wave needs a model; return whether that is new."""
        if not wave:
            return False
        guess = self._kinds.guess(kind_of(wave))
        if not self._kinds.add(kind_of(wave), key):
            return False
        for each in (key, guess):
            self._own.pop(each, None)
        self._anybodys = None
        return True

    def foretell(self, kind: str, key: Hashable) -> None:
        """Take a model to be that of a kind that has had no job yet."""
        self._kinds.foretell(kind, key)
        self._own.pop(key, None)
        self._anybodys = None

    # -- what is known -------------------------------------------------------------------
    def of(self, key: Hashable) -> Iterator[Wave]:
        """Yield the waves with jobs to come that are a model's."""
        return self._to_come(self._own_waves(key))

    def possible(self, key: Hashable, tool: str) -> Iterator[Wave]:
        """Yield those that may be; ``tool`` is the model's.

        A kind that has never come, or as several models, may be any model of its tool.
        """
        own = (wave for wave in self._own_waves(key) if len(self._kinds.models(wave.kind)) == 1)
        return self._to_come(itertools.chain(own, self._of_anybody(tool)))

    def _to_come(self, waves: Iterable[Wave]) -> Iterator[Wave]:
        counts = self._table.counts
        for wave in waves:
            count = counts[wave.name]
            if count.coming or count.unread:
                yield wave

    def _own_waves(self, key: Hashable) -> list[Wave]:
        found = self._own.get(key)
        if found is None:
            kinds = self._kinds.of(key)
            waves = [wave for kind in kinds for wave in self._table.of_kind(kind)]
            self._own[key] = found = sorted(waves, key=self._table.place_of)
        return found

    def _of_anybody(self, tool: str) -> Sequence[Wave]:
        if self._anybodys is None:
            self._anybodys = defaultdict(list)
            for wave in self._table.waves.values():
                if len(self._kinds.models(wave.kind)) != 1:
                    self._anybodys[wave.tool].append(wave)
        return self._anybodys.get(tool, ())
