"""What a run's last forecast still says, should its server be lost. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from snakemake_executor_gpupool.scheduling.forecast import Forecast
from snakemake_executor_gpupool.wire.requests import Request


class StillToCome:
    """Counts the jobs that have come since the last forecast."""

    def __init__(self) -> None:
        self._forecast = Forecast()
        self._come: Counter[str] = Counter()

    def foresee(self, forecast: Forecast) -> None:
        """Take in a new forecast."""
        self._forecast = forecast
        self._come.clear()

    def handed_over(self, requests: Iterable[Request]) -> None:
        """Note jobs that have come."""
        self._come.update(each.wave for each in requests if each.wave and each.attempt == 1)

    def forecast(self, again: Iterable[Request]) -> Forecast:
        """Return what is still to come, for a pool that gets these jobs once more."""
        twice = Counter(each.wave for each in again if each.attempt == 1)
        waves = [
            replace(wave, jobs=max(wave.jobs - self._come[wave.name] + twice[wave.name], 0))
            for wave in self._forecast.waves
        ]
        return replace(self._forecast, waves=tuple(waves))
