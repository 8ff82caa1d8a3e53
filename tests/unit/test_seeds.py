"""Seeds of items: the same wherever an item is computed, for tools that draw numbers (R8)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.tool_api.mode import SEED_VARIABLE, Mode, parse_seed
from snakemake_executor_gpupool.tool_api.reproducible import seed_from
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.cold import compute
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files


class Sampling(Tool):
    """Draws a number for each item, from the item's seed."""

    deterministic = False

    def run(self, items: list[Any]) -> list[float]:
        return [random.Random(self.seed_of(item)).random() for item in items]

    def key(self, item: Any) -> str:
        return str(item).lower()


class BySize(Sampling):
    """Its items are files."""

    key = Tool.key


def drawn(items: list[Any], kind: type[Tool] = Sampling) -> list[float]:
    loaded = LoadedTool(kind, {})
    loaded.load("cpu")
    return [outcome.result for outcome in run_batch(loaded.show({}), items)]


def test_an_item_draws_the_same_in_any_company_and_cold() -> None:  # R8
    alone = [drawn([item])[0] for item in ("a", "b", "c")]
    assert len(set(alone)) == 3
    assert drawn(["c", "a", "b"]) == [alone[2], alone[0], alone[1]]
    assert compute(for_files(Sampling, {}), {}, ["a", "b", "c"], "cpu") == alone
    assert drawn(["A"]) == alone[:1]  # by its key


def test_another_seed_of_the_run_is_another_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = drawn(["a"])
    monkeypatch.setenv(SEED_VARIABLE, "0")
    assert drawn(["a"]) == usual
    monkeypatch.setenv(SEED_VARIABLE, "1")
    assert drawn(["a"]) != usual


def test_a_file_counts_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        Path(name).write_text(text)
    assert drawn(["a"], BySize) != drawn(["b"], BySize)  # the name counts, too
    before = drawn(["c"], BySize)
    Path("c").write_text("another")
    assert drawn(["c"], BySize) != before


def test_seeds_are_spread_over_all_that_generators_take() -> None:
    seeds = [seed_from(0, f"item {number}") for number in range(2000)]
    assert len(set(seeds)) == 2000 and min(seeds) >= 0 and max(seeds) < 2**63
    assert 0.4 < sum(seed >> 62 for seed in seeds) / 2000 < 0.6
    assert seed_from(0, "a") == seed_from(0, b"a") != seed_from(1, "a")
    # Fixed for good: results of today are to come out again tomorrow.
    assert seed_from(0, "MKTAYIAK") == 2398317806824622239


@pytest.mark.parametrize("text", ["-1", "1.5", "x", str(2**63)])
def test_a_seed_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        parse_seed(text, "the seed")
    with pytest.raises(ConfigError, match="GPUPOOL_SEED"):
        Mode.of({SEED_VARIABLE: text})


def test_a_mode_travels_by_its_variables() -> None:
    for mode in (Mode(), Mode(is_reproducible=True, seed=7, kind="A100; x86_64")):
        assert Mode.of(mode.variables()) == mode
    with pytest.raises(ConfigError, match="GPUPOOL_REPRODUCIBLE"):
        Mode.of({"GPUPOOL_REPRODUCIBLE": "yes"})
