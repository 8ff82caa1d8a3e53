"""``gpupool check`` finds each way to break a tool's contract (T1, T5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.commandline.check.compare import same
from snakemake_executor_gpupool.frontends.commandline.main import main

TOOLS = Path(__file__).resolve().parent.parent / "tools"
WORDS = "ant antelope bee bumblebee cat caterpillar dog dromedary ant elk bee"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    (tmp_path / "words.txt").write_text(WORDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TOOLS.parent.parent))

    def check(name: str, *more: str, file: str = "faulty.py") -> tuple[int, dict[str, Any]]:
        files = ("--input", "words.txt", "--output", "scores.txt", "--json")
        code = main(["check", f"{TOOLS / file}:{name}", *files, *more])
        return code, json.loads(capfd.readouterr().out)

    return check


def problems(report: dict[str, Any]) -> list[str]:
    return [problem for probe in report["checks"] for problem in probe["problems"]]


def test_a_right_tool_passes_and_its_plan_is_told(check, capfd: Any) -> None:
    code, report = check("Right", "--vary", "factor=2", "model=longer", "digits=1")
    assert (code, problems(report), report["notes"], report["ok"]) == (0, [], [], True)
    assert len(report["checks"]) == 10
    plan = report["plan"]
    assert (plan["items"], plan["items_unique"], plan["batch_tokens"]) == (11, 9, 24)
    assert (plan["batches"], plan["tokens"]) == (3, 52)
    assert 0 < plan["padding"] < 0.3
    assert not Path("scores.txt").exists()
    assert main(["check", f"{TOOLS}/faulty.py:Right", "--input", "words.txt"]) == 0
    text = capfd.readouterr().out
    assert "11 items, 9 computed (2 duplicates), in 3 batches of at most 24 tokens" in text
    assert "note: write() was not tried" in text
    assert text.count("  ok  ") == 10


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("TooFew", (), "TooFew.run() got 3 items and returned 2; it must return a list of one"),
        ("Sorted", (), "run() changes the order: together with others, item ant got the result "),
        ("Company", (), "item ant gave 324.0 alone and 108.0 together with others; a result must"),
        ("Random", (), "a tool that draws random numbers says deterministic = False"),
        ("Unseeded", (), "every load() with the same params must give the same model"),
        ("Forgetful", (), "after to() to the host and back"),
        ("CarelessKey", (), "key() is the same for item ant and item antelope, but their results"),
        ("HiddenParam", ("--param", "factor=2"), "but the param is in write_params, so items"),
        ("LoadedParam", ("--vary", "factor=2"), "a param that load() uses belongs into reload_on"),
        ("ProcessKey", (), "read() gives other items when it is called again"),
        ("StuckItem", (), "item ant cannot be pickled, so it cannot reach a worker: "),
        ("StuckResult", (), "the result of item ant cannot be pickled: cannot pickle"),
        ("Shifty", (), "the result of item ant is another one after travelling"),
        ("HalfWritten", (), "write() did not write scores.txt"),
        ("Elsewhere", (), "/elsewhere.txt; it may write job.output alone"),
        ("Beside", (), "write() left index.txt beside its outputs, which would be lost"),
        ("Refusing", (), "it refuses this input: words.txt: is no word list"),
        ("Unloadable", (), "load(), line "),
    ],
)
def test_each_violation_is_said(check, name: str, more: tuple[str, ...], message: str) -> None:
    code, report = check(name, *more)
    assert code == 1
    assert len(problems(report)) == 1, problems(report)
    assert message in problems(report)[0]
    assert report["plan"] is None


def test_heavy_imports_and_new_syntax_are_said(check) -> None:
    code, report = check("Heavy", file="heavy_import.py")
    assert code == 1
    assert "importing the tool imports pandas; import inside load()" in problems(report)[0]
    assert any("needs a newer Python than 3.9" in note for note in report["notes"])


def test_what_is_cautious_is_only_noted(check) -> None:
    code, report = check("Cautious")
    assert code == 0
    assert "gave the same results twice" in report["notes"][0]
    assert report["plan"]["items_unique"] == 11


def test_results_are_compared_within_a_tolerance() -> None:
    import numpy
    import torch

    array = numpy.array([1.0, float("nan"), 1e6, float("inf")])
    assert same(array, array * (1 + 1e-6), 1e-4)
    assert not same(array, array * (1 + 1e-3), 1e-4)
    assert not same(array, array.astype("float32"), 1e-4)
    assert same({"a": [torch.ones(2, dtype=torch.bfloat16)]}, {"a": [torch.ones(2).bfloat16()]}, 0)
    assert not same({"a": [torch.ones(2)]}, {"a": [torch.ones(3)]}, 1)
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1}, 1)
    assert same((1, "x", None), (1.00001, "x", None), 1e-4)
    assert not same("x", "y", 1.0)
