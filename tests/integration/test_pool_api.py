"""The Python API over real worker processes (T4, T5, P5, P9, W2)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import ConfigError, GpupoolError, JobFailed, UnknownTool

TOOLS = Path(__file__).parent.parent / "tools"
TEXTUAL = f"{TOOLS / 'textual.py'}:Textual"
ARRAYS = f"{TOOLS / 'arrays.py'}:Doubled"
IN_PLACE = f"{TOOLS / 'inplace.py'}:InPlace"


def test_results_come_in_order_and_duplicates_once() -> None:  # P5 P6 T5
    with ToolPool(devices="cpu:2") as pool:
        words = [f"w{n % 40}" for n in range(200)]
        assert pool.run(TEXTUAL, words) == [f"{word.upper()}.plain" for word in words]
        assert pool.run(TEXTUAL, ["w1", "new"]) == ["W1.plain", "NEW.plain"]
        assert pool.run(TEXTUAL, []) == []
        summary = pool.summary
    assert (summary["items"], summary["items_unique"]) == (202, 41)
    assert summary["model_loads"] <= 2


def test_one_bad_item_is_named_and_the_pool_goes_on() -> None:  # P9 W3
    with ToolPool(devices="cpu:1") as pool:
        with pytest.raises(JobFailed, match="item bad: ValueError: this line is bad") as failed:
            pool.run(TEXTUAL, ["good", "bad"])
        assert (failed.value.tool, failed.value.message) == (TEXTUAL, str(failed.value))
        assert pool.run(TEXTUAL, ["good"]) == ["GOOD.plain"]


def test_nested_pools_are_refused() -> None:
    with ToolPool(devices="cpu:1"), pytest.raises(GpupoolError, match="open already"):
        ToolPool().__enter__()


def test_bad_arguments_are_refused() -> None:  # D1 S9
    with pytest.raises(ConfigError, match="cuda:99"):
        ToolPool(devices=["cuda:99"]).__enter__()
    with ToolPool(devices="cpu:1") as pool:
        with pytest.raises(UnknownTool, match="esm2-embed"):
            pool.run("esm2-embedd", [])
        with pytest.raises(UnknownTool, match="no file"):
            pool.run("nowhere/tool.py:T", [])


def test_large_arrays_cross_unchanged(tmp_path: Path) -> None:  # W2
    arrays = [np.arange(n, dtype=np.float32) for n in (3, 300_000, 3_000_000)]
    with ToolPool(devices="cpu:1") as pool:
        doubled = pool.run(ARRAYS, [*arrays, arrays[2]])
        again = pool.run(ARRAYS, [arrays[2]])
    for before, after in zip([*arrays, arrays[2], arrays[2]], [*doubled, *again], strict=True):
        np.testing.assert_array_equal(after, before * 2)


def test_a_job_from_files_to_files(tmp_path: Path) -> None:  # T5
    source, target = tmp_path / "in.txt", tmp_path / "deep/out.txt"
    source.write_text("a\nb\n")
    with ToolPool(devices="cpu:1") as pool:
        pool.run_job(TEXTUAL, input=[str(source)], output=[str(target)])
        with pytest.raises(JobFailed, match="absent"):
            pool.run_job(TEXTUAL, input=[str(tmp_path / "absent")], output=[str(target) + "2"])
    assert target.read_text() == "A.plain\nB.plain\n"
    assert sorted(path.name for path in target.parent.iterdir()) == ["out.txt"]


def test_results_are_kept_across_pools(tmp_path: Path) -> None:  # P5
    cache = str(tmp_path / "cache")
    with ToolPool(devices="cpu:1", cache=cache) as pool:
        first = pool.run(TEXTUAL, ["a", "b", "a"])
        assert pool.summary["items_unique"] == 2
    with ToolPool(devices="cpu:1", cache=cache) as pool:
        assert pool.run(TEXTUAL, ["a", "b", "c"])[:2] == first[:2]
        assert (pool.summary["items_unique"], pool.summary["items_reused"]) == (1, 2)
        assert pool.run(TEXTUAL, ["a"], {"suffix": "!"}) == ["A!.plain"]
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(ConfigError, match="open to everybody"):
        ToolPool(devices="cpu:1", cache=cache).__enter__()


def test_a_worker_that_dies_is_replaced() -> None:  # W4
    with ToolPool(devices="cpu:1") as pool:
        with pytest.raises(JobFailed, match=r"2 workers died.*exit code 7"):
            pool.run(TEXTUAL, ["a", "die", "b"])
        assert pool.run(TEXTUAL, ["a", "b"]) == ["A.plain", "B.plain"]
        assert pool.summary["worker_crashes"] <= 3


def test_nothing_is_left_open() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    with ToolPool(devices="cpu:1") as first:
        first.run(TEXTUAL, ["a", "b"])
    before = descriptors()
    for _ in range(3):
        with ToolPool(devices="cpu:1") as again:
            again.run(TEXTUAL, ["a", "b"])
    assert descriptors() <= before


@pytest.mark.parametrize("size", [3, 300_000])
def test_results_that_are_changed_in_place_harm_no_other_place(tmp_path: Path, size: int) -> None:
    """Neither a duplicate in the same job, nor a later job, nor another call."""
    params, words = {"size": size}, ["ab", "abc", "ab", "ab"]
    (tmp_path / "in.txt").write_text(" ".join(words))
    with ToolPool(devices="cpu:1") as pool:
        for name in ("one", "two"):
            job = {"input": [str(tmp_path / "in.txt")], "output": [str(tmp_path / name)]}
            pool.run_job(IN_PLACE, **job, params=params)
            assert (tmp_path / name).read_text().split("\n") == ["4 2 2", "6 2 2", "4 2 2", "4 2 2"]
        for _ in range(2):
            results = pool.run(IN_PLACE, words, params)
            for result, word in zip(results, words, strict=True):
                result["n"] -= 1
                result["more"][0] -= 1
                result["more"].append("mine")
                assert np.array_equal(result["n"], np.full(size, len(word) - 1))
                assert result["more"][0].tolist() == [0, 0] and len(result["more"]) == 2
