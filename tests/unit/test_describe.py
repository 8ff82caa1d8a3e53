"""What a tool's author says of a tool and of items: believed within bounds, else a clear error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.errors import ContractError, InputError
from snakemake_executor_gpupool.wire.bounds import (
    MAX_NAME,
    MAX_TEXT,
    MAX_TOKENS,
    MAX_WORKER_META_BYTES,
    printable,
    shown,
)
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields, are_costs, are_texts, are_tokens
from snakemake_executor_gpupool.wire.frames import SPOOL_BYTES, Blob, SpoolFile, encode
from snakemake_executor_gpupool.wire.payload import load_payloads
from snakemake_executor_gpupool.wire.spool import Spool
from snakemake_executor_gpupool.worker.batch import ERRORS_BYTES, outcome_fields, within_bounds
from snakemake_executor_gpupool.worker.describe import (
    batch_budget,
    columns_of,
    describe_item,
    describe_items,
    describe_model,
    tool_info,
)
from snakemake_executor_gpupool.worker.output_capture import tell_error
from snakemake_executor_gpupool.worker.server import FRAME_TEXT
from snakemake_executor_gpupool.worker.travel import pack_items, packed_item
from tests.unit.fuzzing import cases


class Mute:
    """Nobody can say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def saying(**values: Any) -> Tool:
    """A tool whose methods return, and whose attributes are, what is given."""
    methods = {name: lambda self, *rest, v=value: v for name, value in values.items()}
    return type("Odd", (Tool,), methods)()


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.sampled_from([10**400, -(10**400), 5e-324])
)
ODD = st.one_of(NUMBERS, st.text(max_size=3), st.none(), st.just(Mute()), st.just([1]))


@cases(by_default=200)
@given(ODD, ODD, st.text(max_size=3), st.text(max_size=3) | st.binary(max_size=3) | NUMBERS)
def test_what_is_sent_of_an_item_is_believed(
    cost: Any, tokens: Any, name: Any, key: Any
) -> None:  # W5
    tool = saying(cost=cost, tokens=tokens, name=name, key=key)
    try:
        told = describe_item(tool, "x", 0)
    except ValueError as error:
        assert str(error).startswith("Odd.") and "; it must be a" in str(error)
        return
    items = json.loads(json.dumps(columns_of([told])))
    assert are_texts(items["keys"]) and are_texts(items["names"])
    assert are_costs([items["costs"]]) and are_tokens([items["tokens"]]), "one says it for all"
    # A text of digits is a number, too.
    assert told.tokens >= float(tokens) or float(tokens) > MAX_TOKENS
    assert math.isclose(told.cost, float(cost), abs_tol=1e-18)


@pytest.mark.parametrize(("column", "sent"), [([2.0, 2.0], 2.0), ([2.0, 1.0], [2.0, 1.0])])
def test_what_all_items_have_in_common_is_said_once(column: list[float], sent: Any) -> None:
    items = [describe_item(saying(cost=cost, tokens=3), "x", 0) for cost in column]
    columns = columns_of(items)
    assert columns["costs"] == sent and columns["tokens"] == 3
    assert len(columns["keys"]) == len(columns["names"]) == 2
    assert columns_of([]) == {"keys": [], "costs": [], "tokens": [], "names": []}


@pytest.mark.parametrize("cost", [1e308, math.inf, math.nan, -1, -math.inf, "much", None, 10**400])
def test_a_senseless_cost_is_an_error_of_the_tool(cost: Any) -> None:
    with pytest.raises(ValueError, match=r"Odd\.cost\(\) of item #3 is .*; it must be a number"):
        describe_item(saying(cost=cost), "x", 3)


@pytest.mark.parametrize("tokens", [1e308, math.inf, math.nan, -1, 10**13, "many", None])
def test_senseless_tokens_are_an_error_of_the_tool(tokens: Any) -> None:
    with pytest.raises(ValueError, match=r"Odd\.tokens\(\) of item #3 is .*; it must be a whole"):
        describe_item(saying(tokens=tokens), "x", 3)


def test_fractions_of_a_token_count_as_one() -> None:
    assert describe_item(saying(tokens=12.25), "x", 0).tokens == 13


def test_a_cost_that_is_nearly_nothing_is_nothing() -> None:
    assert describe_item(saying(cost=5e-324), "x", 0).cost == 0.0


def test_keys_that_differ_stay_different() -> None:
    """Also those that JSON would make equal: two surrogates, and the letter that they spell."""
    keys = ["\ud83d\ude00", "\U0001f600", "\ud83d", "\\ud83d", "a" * 200_000, "a" * 200_001]
    told = [describe_item(saying(key=key), "x", 0) for key in keys]
    assert len({json.loads(json.dumps(each.key)) for each in told}) == len(keys)
    assert max(len(each.key) for each in told) <= MAX_TEXT
    assert describe_item(saying(key="plain"), "x", 0).key == "plain"


def test_a_name_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="a name has at most"):
        describe_item(saying(name="x" * (MAX_NAME + 1)), "x", 0)
    assert describe_item(saying(name=7), "x", 0).name == "7"
    # The longest, in letters that take most, with all that a frame may have before it.
    longest = describe_item(saying(name="\U0001f600" * MAX_NAME), "x", 0)
    other = longest._replace(name="\U0001f600" * FRAME_TEXT)
    assert len(encode(columns_of([other, longest]))[0]) < MAX_WORKER_META_BYTES


@pytest.mark.parametrize("budget", [0, -5, math.nan, "many", None])
def test_a_senseless_budget_is_an_error_of_the_tool(budget: Any) -> None:
    with pytest.raises(ValueError, match=r"Odd\.batch_tokens\(\) is .*; it must be a whole"):
        batch_budget(saying(batch_tokens=budget), "cpu")


@pytest.mark.parametrize("budget", [math.inf, 1e308, 10**400, 2**63])
def test_a_budget_without_end_is_the_largest(budget: Any) -> None:
    assert batch_budget(saying(batch_tokens=budget), "cpu") == MAX_TOKENS


@cases(by_default=100)
@given(ODD, ODD, ODD)
def test_what_is_sent_of_a_tool_is_believed(limit_s: Any, vram_mb: Any, gpus: Any) -> None:
    values = {"batch_limit_s": limit_s, "vram_mb": vram_mb, "gpus_per_instance": gpus}
    try:
        told = tool_info(type("Odd", (Tool,), values))
    except ValueError as error:
        assert str(error).startswith("Odd.") and "must be" in str(error)
        return
    info = ToolInfo.from_fields(Fields(json.loads(json.dumps(told)), "a tool"))
    assert (info.batch_limit_s, info.vram_mib) == (told["batch_limit_s"], told["vram_mib"])


def test_a_model_with_an_odd_name_has_one() -> None:
    tool = type("Odd", (Tool,), {"reload_on": ("model",)})({"model": "\udc80" + "x" * 5000})
    told = describe_model(tool)
    assert ModelInfo.from_fields(Fields(told, "a model")).label == told["model_label"]
    assert told["model_label"].startswith("\\udc80x") and len(told["model_label"]) < 600


class Wordless(ValueError):
    """Does not even say what is wrong."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_is_told_whatever_it_is() -> None:  # W5
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    odd = [ValueError("\ud800"), ValueError("x" * 10**6), Wordless(), one]
    for error in odd:
        told = tell_error(error)
        assert all(isinstance(value, str) for value in told.values())
        assert "".join(told.values()).encode()
        assert len(told["message"]) < 21_000
    assert tell_error(odd[0])["message"] == "\\ud800"


def test_the_errors_of_a_batch_fit_into_a_frame() -> None:
    error = {"kind": "tool", "type": "E", "message": "\u00e4" * 20_000, "traceback": "t" * 8000}
    told = within_bounds([{"error": error, "oom": False}] * 6000 + [{"error": None, "oom": True}])
    assert told[0]["error"] == error and told[-1] == {"error": None, "oom": True}
    assert told[-2]["error"]["message"].startswith("\u00e4\u00e4")
    assert sum(note["error"] == error for note in told) == ERRORS_BYTES // len(json.dumps(error))
    assert len(encode({"type": "done", **outcome_fields(told)})[0]) < MAX_WORKER_META_BYTES


def test_text_is_printable() -> None:
    assert printable("caf\u00e9 \U0001f600") == "caf\u00e9 \U0001f600"
    assert printable("\ud800x\udcff") == "\\ud800x\\udcff"
    assert shown(Mute()) == "a Mute without a representation"
    assert len(shown("x" * 10**6)) == 100


class Plain(Tool):
    """Says nothing of its items."""


class Keyed(Tool):
    """Of which item it is, its key says."""

    def key(self, item: Any) -> str:
        return f"key of {item}"


class Weighed(Tool):
    """Items are as heavy as they are long."""

    max_batch_tokens = 40

    def tokens(self, item: Any) -> int:
        return len(str(item))


class Asked(Plain):
    """Whose instance has a method of its own."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.name = lambda item: f"my {item}"


class Small(Plain):
    """No item has room in a batch."""

    max_batch_tokens = 0


ITEMS = st.lists(
    st.one_of(
        st.text("ab\n\0é", max_size=5),
        st.sampled_from(["here.txt", "d/inner.txt", "./here.txt", "x" * 300, "x" * 300 + "/y"]),
        st.sampled_from(["d" + "/." * 200, "/." * 150 + "/bin/sh", "x" * 5000]),
        st.integers(0, 9),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files that items may name."""
    path = tmp_path_factory.mktemp("items")
    (path / "d").mkdir()
    (path / "here.txt").write_text("content")
    (path / "d/inner.txt").write_text("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        yield


@cases(by_default=100)
@given(ITEMS, st.integers(0, 3), st.sampled_from([Plain, Keyed, Weighed, Asked, Small]))
def test_items_are_described_together_as_each_is_alone(
    folder: None, items: list[Any], first: int, kind: type[Tool]
) -> None:  # W1
    tool = kind()
    try:
        expected = [describe_item(tool, item, place) for place, item in enumerate(items, first)]
    except InputError as error:
        with pytest.raises(InputError) as raised:
            describe_items(tool, items, first)
        assert str(raised.value) == str(error)
        return
    columns = describe_items(tool, items, first)
    assert [list(column) for column in columns] == [
        list(c) for c in zip(*expected, strict=True)
    ] or not items
    assert len(columns) == 4 and {len(column) for column in columns} == {len(items)}


def packed(items: list[Any], spool: Spool, first: int = 0) -> list[Blob]:
    blobs: list[Blob] = []
    pack_items(Plain(), items, first, spool, blobs)
    return blobs


@given(st.lists(st.one_of(st.text(), st.integers(), st.just(b"x"), st.just([1])), max_size=5))
def test_items_are_packed_together_as_each_is_alone(items: list[Any]) -> None:  # W1
    tool, spool = Plain(), Spool(["/nowhere"])
    alone = [spool.put(packed_item(tool, item, place)) for place, item in enumerate(items)]
    assert packed(items, spool) == alone
    assert load_payloads(packed(items, spool)) == items


def test_large_items_are_packed_into_files(tmp_path: Path) -> None:
    items = ["small", "x" * (SPOOL_BYTES + 1)]
    small, large = packed(items, Spool([str(tmp_path)]))
    assert isinstance(small, bytes) and isinstance(large, SpoolFile)
    assert load_payloads([small, large]) == items


def test_an_item_that_cannot_be_sent_is_named_by_its_position() -> None:
    with pytest.raises(ContractError, match="item #8 "):
        packed(["a", lambda: 0], Spool(["/nowhere"]), 7)
