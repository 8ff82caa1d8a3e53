"""Events of simulated runs, as the pool would have written them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.events import FORMAT
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.testing.simulation import World

EPOCH_S = 1.7e9


def events_of(world: World, ends: Sequence[tuple[int, float, str]] = ()) -> list[dict[str, Any]]:
    """Return the events of a world that has been run, the run's start and end among them.

    ``ends``: after how many effects, when and which process ended.
    """
    first = {
        "event": "run_started",
        "format": FORMAT,
        "devices": [device.name for device in world.devices],
        "device_info": [
            {"name": device.name, "kind": device.kind, "model": "A100"} for device in world.devices
        ],
        "simulated": False,
        "frontend": "snakemake",
        "options": {"--gpupool-devices": "all"},
        "versions": {"gpupool": "0.1.0"},
    }
    events = [{"time_s": EPOCH_S, **first}]
    waiting = list(ends)
    for number, (time_s, effect) in enumerate(world.log):
        while waiting and waiting[0][0] <= number:
            events.append(_ended(*waiting.pop(0)))
        event_fields = _event_of(effect)
        if event_fields is not None:
            events.append({"time_s": EPOCH_S + time_s, **event_fields})
    events += [_ended(*each) for each in waiting]
    last = {"event": "run_ended", "wall_s": world.now_s}
    return [*events, {"time_s": EPOCH_S + world.now_s, **last}]


def _ended(number: int, time_s: float, worker: str) -> dict[str, Any]:
    ended = {"event": "worker_ended", "worker": worker, "reason": "gone", "expected": True}
    return {"time_s": EPOCH_S + time_s, **ended}


def _event_of(effect: fx.Effect) -> dict[str, Any] | None:  # noqa: PLR0911 - one case an effect
    match effect:
        case fx.Note(event=event, fields=fields):
            return {"event": event, **fields}
        case fx.StartWorker(worker_id=worker, tool=tool, devices=devices):
            names = [device.name for device in devices]
            event_fields = {"event": "worker_started", "worker": worker, "tool": str(tool)}
            return {**event_fields, "devices": names, "node": "", "pid": 1}
        case fx.StopWorker(worker_id=worker, why=why):
            return {"event": "worker_stopping", "worker": worker, "why": why}
        case fx.LoadModel(worker_id=worker):
            return {"event": "load_sent", "worker": worker}
        case fx.MoveModel(worker_id=worker, devices=devices):
            to = [device.name for device in devices] or ["cpu"]
            return {"event": "move_sent", "worker": worker, "to": to}
        case fx.ReadJob(worker_id=worker, request=request):
            return {"event": "read_sent", "worker": worker, "job_id": request.job_id}
        case fx.WriteJob(worker_id=worker, request=request):
            return {"event": "write_sent", "worker": worker, "job_id": request.job_id}
        case fx.PublishJob(worker_id=worker, request=request):
            return {"event": "publish_sent", "worker": worker, "job_id": request.job_id}
    return None


def lines_of(events: list[dict[str, Any]]) -> bytes:
    """Return events as a file has them."""
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def leave(directory: Path, events: list[dict[str, Any]]) -> Path:
    """Make a run's directory with these events."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "events.jsonl").write_bytes(lines_of(events))
    return directory
