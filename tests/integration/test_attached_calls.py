"""``ToolPool(server=...)``: calls that a server computes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import ConfigError, JobFailed
from snakemake_executor_gpupool.frontends.python import pool as python_pool
from snakemake_executor_gpupool.wire.frames import SpoolFile
from snakemake_executor_gpupool.wire.messages import ItemsRead
from tests.serving import Workplace
from tests.waiting import eventually


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    for name in [name for name in os.environ if name.startswith("GPUPOOL_")]:
        monkeypatch.delenv(name)
    for name in ("LOADS", "GPUPOOL_PROFILE"):
        monkeypatch.setenv(name, place.env[name])
    yield place
    place.end()


def test_calls_find_the_model_loaded_and_go_on_without_a_server(work: Workplace) -> None:
    tool, large = f"{work.tool}:Shout", "x" * 400_000  # by file
    with pytest.raises(ConfigError, match="there is none"), ToolPool(server="on"):
        pass
    with ToolPool(server="auto") as pool:
        words = "a", "b", "a", large
        assert pool.run(tool, words) == [f"{word.upper()} loud" for word in words]
        with pytest.raises(JobFailed, match="a bad item"):
            pool.run(tool, ["bad"])
        assert pool.summary["model_loads"] == work.n_loads() == 1
    with ToolPool(server=f"{work.server_directory()}/socket") as pool:
        assert pool.run(tool, [large]) == [f"{large.upper()} loud"]
        (work.directory / "in").write_text("c d")
        pool.run_job(tool, input=str(work.directory / "in"), output=str(work.directory / "out"))
        assert (work.directory / "out").read_text() == "C loud!\nD loud!\n"
        assert pool.summary["model_loads"] == 0 and work.n_loads() == 1
    with ToolPool(server="auto") as pool:
        pid = work.status()["pid"]
        os.kill(pid, signal.SIGSTOP)  # it has the call, and does nothing for it
        result: list[object] = []
        caller = threading.Thread(target=lambda: result.extend(pool.run(tool, [large, "e"])))
        caller.start()
        os.kill(pid, signal.SIGKILL)
        caller.join(60)
        assert result == [f"{large.upper()} loud", "E loud"]
        assert eventually(lambda: work.n_loads() == 2)


def test_a_server_that_ends_before_it_has_the_items_costs_no_call(
    work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, large = f"{work.tool}:Shout", "x" * 400_000  # by file, which goes with the server
    with ToolPool(server="auto") as pool:
        assert pool.run(tool, ["a"]) == ["A loud"]
        pid, read = work.status()["pid"], python_pool.items_read

        def late(*arguments: Any) -> Iterator[ItemsRead]:
            (items,) = read(*arguments)
            monkeypatch.setattr(python_pool, "items_read", read)
            (blob,) = items.payloads
            assert isinstance(blob, SpoolFile)
            os.kill(pid, signal.SIGKILL)
            assert eventually(lambda: pool._pool._over and not Path(blob.path).exists())  # type: ignore[attr-defined]
            yield items

        monkeypatch.setattr(python_pool, "items_read", late)
        assert pool.run(tool, [large]) == [f"{large.upper()} loud"]
