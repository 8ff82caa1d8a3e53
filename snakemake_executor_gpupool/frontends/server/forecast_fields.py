"""A run's forecast as its server gets it: plain values, taken apart with care."""

from __future__ import annotations

import re
from typing import Any

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling.forecast import (
    MAX_WAVES,
    Forecast,
    Need,
    Wave,
    kind_of,
)
from snakemake_executor_gpupool.wire.bounds import shown
from snakemake_executor_gpupool.wire.fields import Fields, is_count, is_flag, is_text

#: How long the name of a wave or of a tool may be.
MAX_NAME = 4096
#: Kind, and depth; a server alone adds whose it is.
_WAVE = re.compile(r".*@[0-9]{1,9}", re.DOTALL)


def plain_forecast(forecast: Forecast) -> dict[str, Any]:
    """Return a forecast as values that JSON can hold."""
    waves = [
        {
            "name": wave.name,
            "kind": wave.kind,
            "tool": wave.tool,
            "jobs": wave.jobs,
            "after": {need.wave: need.jobs for need in wave.after},
            "waits_elsewhere": wave.waits_elsewhere,
        }
        for wave in forecast.waves
    ]
    return {"waves": waves, "is_complete": forecast.is_complete, "is_cut": forecast.is_cut}


def forecast_of_plain(values: Any) -> Forecast:
    """Return the forecast that :func:`plain_forecast` was given, whoever sends the values.

    Raises
    ------
    ProtocolError
        They are none.
    """
    fields = Fields(values, "a forecast")
    waves = fields.all_inner("waves")
    if len(waves) > MAX_WAVES:
        raise ProtocolError(f"a forecast has {len(waves)} waves")
    flags = fields.take("is_complete", is_flag), fields.take("is_cut", is_flag)
    fields.end()
    return Forecast(tuple(map(_wave, waves)), *flags)


def _wave(fields: Fields) -> Wave:
    wave = Wave(
        fields.take("name", _is_wave),
        fields.take("kind", _is_name),
        fields.take("tool", _is_name),
        fields.take("jobs", is_count),
        tuple(Need(wave, jobs) for wave, jobs in fields.take("after", _are_needs).items()),
        fields.take("waits_elsewhere", is_flag),
    )
    fields.end()
    if kind_of(wave.name) != wave.kind:
        raise ProtocolError(f"wave {shown(wave.name, 200)} is of kind {shown(wave.kind, 200)}")
    return wave


def _is_name(value: Any) -> bool:
    return is_text(value) and len(value) <= MAX_NAME


def _is_wave(value: Any) -> bool:
    return _is_name(value) and _WAVE.fullmatch(value) is not None


def _are_needs(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) > MAX_WAVES:
        return False
    return all(map(_is_wave, value)) and all(map(is_count, value.values()))
