"""``gpupool replay``: decide on the events of a recorded run again, and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED
from snakemake_executor_gpupool.records.runs.files import ROOT, is_run
from snakemake_executor_gpupool.runtime.replay import Recording, Step

#: Values longer than this are shown in part.
MAX_SHOWN = 200


def replay(path: Path, *, show: bool = False) -> int:
    """Replay a recording; with ``show`` print every event and effect. Return the exit code.

    Raises
    ------
    RecordingError
        It cannot be read.
    """
    # A run's name, too, as for the other commands that read one.
    run = ROOT / path
    recording = Recording(run if is_run(run) and not path.exists() else path)
    if recording.version != __version__:
        print(f"recorded by gpupool {recording.version}, which may have decided otherwise")
    events = effects = 0
    different: Step | None = None
    for step in recording.replay():
        events, effects = events + 1, effects + len(step.replayed)
        if show:
            _print_step(step)
        if not step.is_same:
            different = different or step
            if not show:
                break
    if recording.is_cut_off:
        print("the last line is cut off, as the run was killed; it is left out")
    if different is not None:
        _print_difference(different)
        return EXIT_FAILED
    print(f"{events} events, {effects} effects: the same as recorded")
    return EXIT_DONE


def _print_step(step: Step) -> None:
    print(f"{step.now_s:.6f}  {step.event}  {_shown(step.fields)}")
    for effect in step.replayed:
        print(f"    -> {_named(effect)}")
    if not step.is_same:
        for effect in step.recorded:
            print(f"    recorded -> {_named(effect)}")


def _print_difference(step: Step) -> None:
    pairs = enumerate(zip(step.recorded, step.replayed, strict=False))
    shared = min(len(step.recorded), len(step.replayed))
    place = next((number for number, (one, two) in pairs if one != two), shared)
    print(f"line {step.line}: {step.event} at {step.now_s:.6f} s leads to something else")
    print(f"    event     {_shown(step.fields)}")
    for name, effects in (("recorded", step.recorded), ("now", step.replayed)):
        effect = effects[place] if place < len(effects) else None
        print(f"    {name:<9} {'nothing more' if effect is None else _named(effect)}")


def _named(effect: dict[str, Any]) -> str:
    if "error" in effect and "effect" not in effect:
        return f"it fails: {effect['error']}"
    fields = {name: value for name, value in effect.items() if name != "effect"}
    return f"{effect.get('effect')}  {_shown(fields)}"


def _shown(fields: dict[str, Any]) -> str:
    return "  ".join(f"{name}={_short(value)}" for name, value in fields.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
