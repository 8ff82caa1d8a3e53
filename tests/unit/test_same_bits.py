"""The batches of a reproducible run: their shapes, what fills them, and the self-test (R5)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec
from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.scheduling.merging.select import merged_ref
from snakemake_executor_gpupool.scheduling.merging.stage import MergedStage
from snakemake_executor_gpupool.tool_api.class_checks import why_unusable
from snakemake_executor_gpupool.tool_api.micro_batches import cut
from snakemake_executor_gpupool.tool_api.mode import KIND_VARIABLE, MODE_VARIABLE, Mode
from snakemake_executor_gpupool.tool_api.reproducible import (
    BatchShape,
    batch_shape,
    next_rung,
    refuse_unable,
)
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.machine import processor
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from snakemake_executor_gpupool.worker import numerics
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.cold import compute
from snakemake_executor_gpupool.worker.describe import batch_budget, describe_item
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files
from snakemake_executor_gpupool.worker.same_bits import same_bits


@pytest.fixture(autouse=True)
def reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "1")


class Shaped(Tool):
    """Sums the codes of texts; its numbers depend on the shape of the batch alone."""

    reproducible = "shape"
    calls: list[tuple[BatchShape | None, list[str]]]
    bad: frozenset[str] = frozenset()
    most_tokens = 10**9

    def read(self, job: Job) -> list[str]:
        return []

    def load(self, device: str) -> None:
        self.calls = []

    def tokens(self, item: str) -> int:
        return len(item)

    def shape_tokens(self, device: str) -> int:
        return 64

    def run(self, items: list[str]) -> list[Any]:
        shape = self.batch_shape
        self.calls.append((shape, list(items)))
        longest = max(map(len, items)) if shape is None else shape.tokens
        if len(items) * longest > self.most_tokens:
            raise MemoryError("CUDA out of memory")
        if self.bad & set(items):
            raise ValueError(f"no sum of {sorted(self.bad & set(items))}")
        # Stands for sums that a library groups by the shape of what it is given.
        return [(sum(map(ord, item)), len(items), longest) for item in items]

    def write(self, job: Job, results: list[Any]) -> None:
        pass


class Forgetful(Shaped):
    """Pads to the longest of its batch, whatever it is told."""

    def run(self, items: list[str]) -> list[Any]:
        longest = max(map(len, items))
        return [(sum(map(ord, item)), longest) for item in items]


class Placed(Shaped):
    """Gives the last row another result."""

    spoils = True

    def run(self, items: list[str]) -> list[Any]:
        results = super().run(items)
        return [*results[:-1], (*results[-1], "last")] if self.spoils else results


class OneByOne(Shaped):
    reproducible = "alone"

    def batch_tokens(self, device: str) -> int:
        return 1000


class Drawing(OneByOne):
    """Draws numbers from nowhere."""

    def run(self, items: list[str]) -> list[Any]:
        return [random.random() for _ in items]


class Steady(Shaped):
    reproducible = "always"

    def run(self, items: list[str]) -> list[Any]:
        self.calls.append((self.batch_shape, list(items)))
        return [item.upper() for item in items]


class Unsteady(Shaped):
    reproducible = "always"


def loaded(kind: type[Tool], **attributes: Any) -> tuple[LoadedTool, Any]:
    model = LoadedTool(kind, {})
    for name, value in attributes.items():
        setattr(model.tool, name, value)
    model.load("cpu")
    tool = model.show({})
    tool.calls = []
    return model, tool


def outcomes(model: LoadedTool, items: list[str]) -> list[Any]:
    return run_batch(model.show({}), items, model.same_bits)


def results(model: LoadedTool, items: list[str]) -> dict[str, Any]:
    computed = outcomes(model, items)
    assert [outcome.error for outcome in computed] == [None] * len(items)
    return dict(zip(items, (outcome.result for outcome in computed), strict=True))


TEXTS = ["a" * n for n in (1, 2, 7, 8, 9, 15, 16, 20, 21, 22, 23, 24, 40, 63, 70)]


def test_rungs_are_a_ladder_and_their_rows_follow_from_them_alone() -> None:
    rungs = [next_rung(tokens) for tokens in range(1, 5000)]
    assert all(rung >= tokens for tokens, rung in enumerate(rungs, start=1))
    assert rungs == sorted(rungs) and all(next_rung(rung) == rung for rung in rungs)
    # Little is added: a quarter at most, from 32 on.
    assert all(rung <= tokens * 1.25 for tokens, rung in enumerate(rungs, start=1) if tokens >= 32)
    assert batch_shape(24, 64) == (2, 24) and batch_shape(100, 64) == (1, 100)


def test_run_gets_full_batches_of_one_shape_for_each_rung() -> None:
    model, tool = loaded(Shaped)
    results(model, TEXTS)
    shapes: dict[int, set[BatchShape]] = {}
    for shape, items in tool.calls:
        assert shape is not None and len(items) == shape.rows
        assert max(map(len, items)) <= shape.tokens
        shapes.setdefault(shape.tokens, set()).add(shape)
    assert {tokens: len(each) for tokens, each in shapes.items()} == dict.fromkeys(shapes, 1)
    assert set(shapes) == {next_rung(len(text)) for text in TEXTS}
    assert tool.batch_shape is None  # elsewhere there is no shape to pad to


def test_a_result_depends_on_its_item_alone() -> None:  # R5
    expected: dict[str, Any] = {}
    rng = random.Random(1)
    models = [loaded(Shaped)[0] for _ in range(3)]
    for _ in range(300):
        some = rng.sample(TEXTS, rng.randint(1, len(TEXTS)))
        for text, result in results(rng.choice(models), some).items():
            assert expected.setdefault(text, result) == result
    tool = for_files(Shaped, {})
    assert compute(tool, {}, TEXTS, "cpu") == [expected[text] for text in TEXTS]


def test_a_bad_item_costs_the_others_neither_result_nor_bits() -> None:
    model, _ = loaded(Shaped)
    expected = results(model, TEXTS)
    model, tool = loaded(Shaped, bad=frozenset({"a" * 22, "a" * 7}))
    for text, outcome in zip(TEXTS, outcomes(model, TEXTS), strict=True):
        assert (outcome.result is None) == (text in tool.bad)
        assert outcome.result is None or outcome.result == expected[text]
    assert all(len(items) == shape.rows for shape, items in tool.calls)


def test_memory_that_is_not_enough_makes_no_smaller_batch() -> None:
    model, tool = loaded(Shaped, most_tokens=60)  # 64 tokens a batch
    long, short = outcomes(model, ["a" * 30, "a" * 17])
    assert long.out_of_memory and not short.error  # (1, 32) fits, (2, 24) does too
    assert long.error is None or "in a reproducible run" in long.error["message"]
    assert all(len(items) == shape.rows for shape, items in tool.calls)


def test_items_one_at_a_time_and_as_they_come() -> None:
    model, tool = loaded(OneByOne)
    results(model, TEXTS)
    assert all(shape is None and len(items) == 1 for shape, items in tool.calls)
    model, tool = loaded(Steady)
    assert results(model, TEXTS) == {text: text.upper() for text in TEXTS}
    assert (None, TEXTS) in tool.calls


@pytest.mark.parametrize("kind", [Forgetful, Placed, Unsteady, Drawing])
def test_a_tool_that_does_not_keep_its_word_is_refused(kind: type[Tool]) -> None:
    model, _ = loaded(kind)
    computed = outcomes(model, ["aaaa", "bbbbbbb", "cc"])
    assert {outcome.error["kind"] for outcome in computed} == {"contract"}
    assert "self-test of a reproducible run" in computed[0].error["message"]
    with pytest.raises(ContractError, match="self-test"):
        compute(for_files(kind, {}), {}, ["aaaa", "bbbbbbb", "cc"], "cpu")


def test_the_self_test_is_done_once_there_is_company() -> None:
    model, tool = loaded(Shaped)
    results(model, ["aaaa"])
    once = len(tool.calls)
    results(model, ["aaaa"])
    assert len(tool.calls) == once + 1  # alone it was tested before
    results(model, ["aaaa", "bbb"])
    crowd = len(tool.calls)
    assert crowd > once + 2
    results(model, ["aaaa", "bbb"])
    assert len(tool.calls) == crowd + 1


def test_rows_that_fill_a_batch_are_compared_for_each_shape() -> None:
    model, tool = loaded(Placed, spoils=False)
    results(model, ["aaaa", "bbb"])  # the self-test is over
    tool.spoils = True
    (computed,) = outcomes(model, ["c" * 20])
    assert "in another row of the same batch" in computed.error["message"]


def test_what_a_class_must_say() -> None:
    class Silent(Shaped):
        reproducible = None

    class Refusing(Shaped):
        reproducible = "never"

    class Wrong(Shaped):
        reproducible = "yes"

    for kind, words in ((Silent, 'Add reproducible = "alone"'), (Refusing, '"never"')):
        with pytest.raises(ContractError, match=words):
            refuse_unable(kind)
        with pytest.raises(ContractError, match="without --gpupool-reproducible"):
            LoadedTool(kind, {})
    assert "it must be one of" in str(why_unusable(Wrong))


def test_the_scheduler_cuts_full_batches_of_a_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = for_files(Shaped, {})
    tokens = [describe_item(tool, "a" * 21, n).tokens for n in range(6)]
    assert tokens == [24] * 6
    assert [len(batch) for batch in cut(tokens, batch_budget(tool, "cpu"), pads=True)] == [2, 2, 2]
    monkeypatch.setenv(MODE_VARIABLE, "0")
    assert describe_item(tool, "a" * 21, 0).tokens == 21


def test_equal_results_have_equal_bits() -> None:
    class Plain:
        def __init__(self, *values: Any) -> None:
            self.values = values

    text = "x" * 3
    assert same_bits(Plain(text, text), Plain(text, "".join(["x"] * 3)))
    assert not same_bits(Plain(0.1 + 0.2), Plain(0.3))
    assert not same_bits(0.0, -0.0) and not same_bits(1, 1.0)
    assert same_bits({"a": [1.5, float("nan")]}, {"a": [1.5, float("nan")]})
    assert not same_bits(Path("a"), Path("b"))


def test_workers_of_several_machines_have_to_be_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KIND_VARIABLE, processor())
    shared = [str(tmp_path)]
    numerics.claim_kind(shared, "cpu")
    numerics.claim_kind(shared, "cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["kind-cpu"]
    assert numerics.is_of_kind()
    monkeypatch.setattr(numerics, "processor", lambda: "another one")
    with pytest.raises(ContractError, match=r"this one on another one.*without --gpupool-repro"):
        numerics.claim_kind(shared, "cpu")
    numerics.claim_kind([], "cpu")  # one machine is like itself
    assert not numerics.is_of_kind()  # what it computes is not kept under the run's kind
    monkeypatch.setenv(MODE_VARIABLE, "0")
    numerics.claim_kind(shared, "cpu")
    assert numerics.is_of_kind()


def test_modes_and_seeds_keep_results_apart() -> None:
    spaces = {
        Mode().space("/env", ""),
        Mode(is_reproducible=True).space("/env", ""),
        Mode(is_reproducible=True, kind="A100").space("/env", ""),
        Mode(is_reproducible=True).space("/env", "cpux1"),
        Mode(seed=3).space("/env", ""),
        Mode(seed=4).space("/env", ""),
    }
    assert len(spaces) == 6
    assert Mode().space("/env", "cpux1") == "/env"  # as before there were modes


def test_the_mode_is_the_same_for_all_that_a_chain_s_processes_serve() -> None:
    mode = Mode(is_reproducible=True, seed=2)
    tools = [ToolRef(f"{name}.py:T", "/flow", "python", mode=mode) for name in "ab"]
    info = ToolInfo(True, True, ("cpu",), 1, True, None, 600.0, False)
    spec = DeviceSpec("cpu", 1)
    stages = tuple(
        MergedStage(Request(n, "r", tool, b"", b"", "/"), "m", "", "g", 9, info, spec)
        for n, tool in enumerate(tools)
    )
    assert merged_ref(stages).mode == mode
    assert stages[0].key_head[0] == mode.space("", "")
