"""Reproducible runs of a real model: the same bits in any order, in any company (R5)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import JobFailed, ToolPool
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.tool_api.reproducible import NUMERIC_VARIABLES
from tests.tools.permutations import words

TOOLS = Path(__file__).resolve().parents[1] / "tools"
TOOL = f"{TOOLS / 'attending.py'}:Attending"
PARAMS = {"model": 1}


def permuted(name: str, rounds: int, *, reproducible: bool = True) -> dict[str, Any]:
    """What random selections in random order come to, in a process of its own."""
    mode = Mode(is_reproducible=reproducible)
    done = subprocess.run(
        [sys.executable, str(TOOLS / "permutations.py"), name, str(rounds)],
        env={**os.environ, **NUMERIC_VARIABLES, **mode.variables()},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_more_than_a_thousand_orders_and_companies_change_no_bit() -> None:  # R5
    found = permuted("Attending", 1200)
    assert found["error"] is None and found["results"] > 7000
    assert found["differing"] == 0


def test_without_the_option_they_do() -> None:
    """So the test above can fail: this is the model whose bits the option keeps."""
    assert permuted("Attending", 200, reproducible=False)["differing"] > 20


def test_items_one_at_a_time_change_no_bit_either() -> None:
    assert permuted("Alone", 200)["differing"] == 0


def test_a_model_that_only_says_so_is_found_out() -> None:
    assert "failed the self-test" in permuted("Careless", 200)["error"]


def bits(pool: ToolPool, items: list[str], params: dict[str, Any]) -> dict[str, bytes]:
    results = pool.run(TOOL, items, params)
    return {item: result.tobytes() for item, result in zip(items, results, strict=True)}


def test_pools_of_any_size_agree_also_after_deaths_and_from_what_was_kept(tmp_path: Path) -> None:
    rng = random.Random(1)
    items = words(80, rng)
    kept, die = str(tmp_path / "kept"), tmp_path / "die"
    with ToolPool(devices="cpu:1", reproducible=True) as pool:
        expected = bits(pool, items, PARAMS)
    rng.shuffle(items)
    die.touch()
    with ToolPool(devices="cpu:4", reproducible=True, cache=kept) as pool:
        params = {**PARAMS, "die": str(die)}  # one worker dies on the way
        assert bits(pool, items, params) == expected
        assert pool.summary["worker_crashes"] == 1 and not die.exists()
        assert bits(pool, items[:20], PARAMS) == {item: expected[item] for item in items[:20]}
    rng.shuffle(items)
    with ToolPool(devices="cpu:2", reproducible=True, cache=kept) as pool:
        assert bits(pool, items, PARAMS) == expected
        assert pool.summary["items_reused"] == 20
    with ToolPool(devices="cpu:2", cache=kept) as pool:  # what was kept is the other mode's
        usual = bits(pool, items, PARAMS)
        assert pool.summary["items_reused"] == 0
    assert usual != expected  # without the option bits do depend on it


def test_tools_that_do_not_follow_are_refused_and_others_go_on() -> None:
    with ToolPool(devices="cpu:1", reproducible=True) as pool:
        with pytest.raises(JobFailed, match='Add reproducible = "alone"'):
            pool.run(f"{TOOLS / 'attending.py'}:Unsaid", ["abc"], PARAMS)
        with pytest.raises(JobFailed, match="failed the self-test") as error:
            pool.run(TOOL.replace("Attending", "Careless"), words(20, random.Random(2)), PARAMS)
        assert error.value.message.count("self-test") == 1  # for all items once
        assert len(pool.run(TOOL, ["abc"], PARAMS)) == 1


def test_torch_is_told_to_compute_in_one_way() -> None:
    code = """
import os, sys
from snakemake_executor_gpupool.worker import numerics
assert not numerics.prepare() and numerics.settle("cpu") is None and "torch" not in sys.modules
import torch
torch.set_num_threads(2)
torch.set_float32_matmul_precision("medium")
numerics.settle("cuda:0")
print(torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(),
      torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled(),
      torch.backends.cuda.math_sdp_enabled(), torch.backends.cudnn.allow_tf32,
      torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic,
      torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
      os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = "True 1 highest False True False False True False :4096:8"
    assert done.stdout.strip() == expected
