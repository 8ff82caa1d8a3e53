"""What people read names nothing: two jobs, workers or models may be called the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake_executor_gpupool.frontends.snakemake.translate import identity, title
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.progress import ModelState, Progress
from snakemake_executor_gpupool.scheduling.effects import Outbox
from snakemake_executor_gpupool.scheduling.files.scheduler import FileScheduler
from snakemake_executor_gpupool.wire.requests import ToolRef


def job(**wildcards: str) -> Any:
    rule = SimpleNamespace(name="pair")
    return SimpleNamespace(rule=rule, wildcards_dict=wildcards, is_group=lambda: False)


def test_jobs_with_one_title_have_identities_of_their_own() -> None:
    one, other = job(x="1, y=2", y="3"), job(x="1", y="2, y=3")
    assert title(one) == title(other)
    assert identity(one) != identity(other)
    assert identity(one) == identity(job(y="3", x="1, y=2"))


def test_workers_whose_names_differ_in_odd_letters_have_logs_of_their_own(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    names = ["a b.py.1", "a_b.py.1", "a+b.py.1", "Tool.1"]
    logs = [paths.worker_log(name) for name in names]
    assert len(set(logs)) == len(names)
    assert logs[-1].name == "Tool.1.log"
    assert all(log.parent == paths.workers for log in logs)


def test_tools_of_one_name_have_names_of_their_own() -> None:
    files = FileScheduler(None, Outbox(), None, None)  # type: ignore[arg-type]
    refs = [ToolRef(f"{directory}/t.py~2", "", "python") for directory in "ab"]
    refs += [ToolRef(f"{directory}/t.py", "", "python") for directory in "abc"]
    names = [files.tool(ref).name for ref in refs]
    assert len(set(names)) == len(names)


def test_models_of_one_name_have_rates_of_their_own() -> None:
    def model(key: str, done: int) -> ModelState:
        return ModelState(key, "t", done, 9, 9, is_active=True, remaining_s=None, devices=())

    progress = Progress(0.0)
    progress.lines([model("a", 100), model("b", 10)], 10.0)
    lines = progress.lines([model("a", 200), model("b", 10)], 20.0)
    assert [line.split(", ")[1] for line in lines] == ["10.0 items/s", "0.0 items/s"]
