"""A run that a server works for has the progress lines of its own jobs: R1."""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.records.progress import Progress
from snakemake_executor_gpupool.runtime.models_elsewhere import ModelsElsewhere

MODEL = {"worker": "server.w", "model": "Shout (m)"}


def told(models: ModelsElsewhere, now_s: float, event: str, **fields: Any) -> None:
    models.take(event, fields, now_s)


def lines(models: ModelsElsewhere, now_s: float) -> list[str]:
    return Progress(0.0).lines(models.states(now_s), now_s)


def test_a_model_that_loads_is_said_to_be_loading() -> None:
    models = ModelsElsewhere()
    told(models, 1.0, "job_read", job_id=1, items=9, duplicates=2, reused=1, model="Shout (m)")
    waiting = "gpupool: Shout (m): 0/6 unique items (of 9), 0.0 items/s, ETA unknown, waiting for"
    assert lines(models, 10.0) == [f"{waiting} a device"]
    told(models, 10.0, "device_granted", **MODEL, devices=["cuda:0"])
    told(models, 10.0, "worker_started", worker="server.w", devices=["cuda:0"])
    loading = "gpupool: loading Shout (m) (20 s so far) on cuda:0, 0/6 unique items (of 9)"
    assert lines(models, 30.0) == [loading]
    told(models, 31.0, "model_loaded", **MODEL, seconds=21.0)
    assert "loading" not in lines(models, 32.0)[0]


def test_items_of_this_run_s_jobs_are_counted_and_no_others() -> None:
    models = ModelsElsewhere()
    told(models, 0.0, "worker_attached", **MODEL, devices=["cpu:0"], seconds=3.0)
    for job_id in (1, 2):
        told(models, 0.0, "job_read", job_id=job_id, items=10, model="Shout (m)")
    told(models, 0.0, "batch_sent", worker="server.w", batch=1, jobs=[1, 2])
    # Half of the batch is of another run.
    shared = {"worker": "server.w", "items": 16, "own_items": 8, "jobs": [1, 2]}
    told(models, 8.0, "batch_done", batch=1, **shared, device_s=[1.0, 1.0])
    [line] = lines(models, 8.0)
    assert line.startswith("gpupool: Shout (m): 8/20 unique items (of 20), 1.0 items/s, ETA 12 s")
    assert line.endswith("on cpu:0")
    told(models, 9.0, "job_failed", job_id=1)
    assert "14/20" in lines(models, 9.0)[0]
    told(models, 9.0, "job_done", job_id=2)
    told(models, 9.0, "worker_ended", worker="server.w")
    assert lines(models, 20.0) == []
    assert not models._jobs


def test_jobs_that_are_handed_back_are_not_waited_for() -> None:
    models = ModelsElsewhere()
    told(models, 0.0, "worker_attached", **MODEL, devices=["cpu:0"], seconds=3.0)
    for job_id in (1, 2):
        told(models, 0.0, "job_read", job_id=job_id, items=10, model="Shout (m)")
    models.forget([2, 3])
    assert "0/10" in lines(models, 9.0)[0]
    models.forget([1])
    assert lines(models, 9.0) == []


def test_a_second_process_may_load_while_one_is_there() -> None:
    models = ModelsElsewhere()
    told(models, 0.0, "worker_attached", **MODEL, devices=["cpu:0"], seconds=3.0)
    told(models, 1.0, "job_read", job_id=1, items=9, model="Shout (m)")
    second = {"worker": "server.v", "devices": ["cpu:1"]}
    told(models, 2.0, "device_granted", **second, model="Shout (m)")
    told(models, 2.0, "worker_started", **second)
    [line] = lines(models, 9.0)
    assert "loading" not in line
