"""``gpupool check`` finds each way to break a tool's contract, by the probe that is for it (T1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.commandline.check import trial
from snakemake_executor_gpupool.frontends.commandline.main import main

TOOLS = Path(__file__).resolve().parent.parent / "tools"
FILES = {
    "words.txt": "ant antelope bee bumblebee cat caterpillar dog dromedary ant elk bee",
    "more.txt": "fox zebra",
    "one.txt": "antelope",
    "other.txt": "bee",
    "none.txt": "",
}
ONE_EACH = ("--input", "one.txt", "--input", "other.txt")
TWO_JOBS = ("--input", "words.txt", "--input", "more.txt")

Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Check:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(TOOLS.parent.parent))

    def check(name: str, *more: str, file: str = "faulty.py") -> tuple[int, dict[str, Any]]:
        inputs = () if "--input" in more else ("--input", "words.txt")
        outputs = () if "--output" in more else ("--output", "scores.txt")
        code = main(["check", f"{TOOLS / file}:{name}", *inputs, *outputs, "--json", *more])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else {"error": err}

    return check


def problems(report: dict[str, Any]) -> dict[str, list[str]]:
    return {probe["probe"]: probe["problems"] for probe in report["checks"] if probe["problems"]}


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {probe["probe"]: probe["reason"] for probe in report["checks"] if probe["reason"]}


# -- good tools ----------------------------------------------------------------------
def test_a_right_tool_passes_every_probe_and_its_plan_is_given(check: Check, capfd: Any) -> None:
    code, report = check("Right", *TWO_JOBS, "--vary", "model=longer", "digits=1")
    assert (code, problems(report), reasons(report)) == (0, {}, {})
    assert (report["notes"], report["warnings"], report["ok"]) == ([], [], True)
    plan = report["plan"]
    assert (plan["items"], plan["items_unique"], plan["batch_tokens"]) == (13, 11, 24)
    assert (plan["batches"], plan["tokens"]) == (4, 60)
    assert 0 < plan["padding"] < 0.3
    assert sorted(Path.cwd().iterdir()) == sorted(Path(name).resolve() for name in FILES)


def test_each_line_says_ok_or_not_tested_and_why(check: Check, capfd: Any) -> None:
    assert main(["check", f"{TOOLS}/faulty.py:Right", "--input", "one.txt"]) == 0
    text = capfd.readouterr().out
    lines = [line.split()[1] for line in text.splitlines()[2:-2]]
    assert (lines.count("ok"), lines.count("not"), len(lines)) == (18, 9, 27)
    assert text.count("not tested: one item; give another --input, or one with more items") == 4
    assert "not tested: one job; give another --input" in text
    assert "not tested: no outputs are named; give --output" in text
    assert "not tested: all jobs use one model; give --vary model=ANOTHER" in text
    assert "1 items, 1 computed (0 duplicates), in 1 batches of at most 24 tokens" in text
    assert "differ by at most 0.0001" in text, "the tolerance is stated"


def test_what_a_tool_says_it_is_not_is_not_tested(check: Check) -> None:
    code, report = check("Cautious")
    assert code == 0
    assert "gave the same results twice" in report["notes"][0]
    assert report["plan"]["items_unique"] == 11
    assert "deterministic = False" in reasons(report)["company"]


# -- bad tools -----------------------------------------------------------------------
FAULTY = [
    ("TooFew", (), "count", "TooFew.run() got 3 items and returned 2"),
    ("Sorted", (), "order", "run() changes the order: in a batch of 3, item ant got the result of"),
    ("Company", (), "company", "item ant gave 324.0 alone and 108.0 together with others of its"),
    ("Random", (), "repeat", "a tool that draws random numbers says deterministic = False"),
    ("Unseeded", (), "load-again", "every load() with the same params must give the same model"),
    ("Forgetful", (), "move", "after to() to the host and back"),
    ("CarelessKey", (), "keys", "key() is the same for item ant and item antelope, but their"),
    ("HiddenParam", (), "run", "run() of HiddenParam reads the param 'factor', which is in"),
    ("LoadedParam", (), "run", 'reload_on = ("model", "factor")'),
    ("ProcessKey", (), "read", "read() gives other items of the job when it is called again"),
    ("StuckItem", (), "items", "item ant cannot be pickled, so it cannot reach a worker: "),
    ("StuckResult", (), "results", "the result of item ant cannot be pickled, so it cannot leave"),
    ("Shifty", (), "results", "the result of item ant is another one after travelling"),
    ("HalfWritten", (), "write", "write() did not write scores.txt"),
    ("Elsewhere", (), "write", "/elsewhere.txt; it may write job.output alone"),
    ("Beside", (), "write", "write() left index.txt beside its outputs, which would be lost"),
    ("Refusing", (), "read", "the tool refuses this input: words.txt: is no word list"),
    ("Unloadable", (), "run", "load(), line "),
]
OTHER_MODEL = ("--vary", "model=longer")
LEAKING = [
    ("BatchMaximum", ONE_EACH, "other-jobs", "item bee of job 2 gave 1.0 alone and 0.35"),
    ("PairPadding", (), "padding", "beside an item of another length"),
    ("EightAtMost", (), "company", " 0.0 in a batch of all items of its job; a result must not"),
    ("FailsBeyondEight", (), "count", "got 11 items and returned 8"),
    ("OneEach", (), "twice", "but fails for item ant twice in one batch: run(), line "),
    ("Deduplicating", (), "count", "got 2 items and returned 1"),
    ("Stacking", (), "company", "run() computes items alone, but fails for item ant together with"),
    ("Counting", (), "repeat", "run() keeps state from call to call"),
    ("SeededOnce", (), "repeat", "run() keeps state from call to call"),
    ("ShortCache", (), "run-elsewhere", "when other items had been computed before it"),
    ("HashedResult", (), "run-elsewhere", "in another process; a result must not depend on"),
    ("HashedKey", (), "read-elsewhere", "item ant has another key in another process"),
    ("Unordered", (), "read-elsewhere", "or another order, in another process"),
    ("SharedModel", OTHER_MODEL, "two-models", "keep a model on self"),
    ("LatestModel", OTHER_MODEL, "two-models", "once another model was loaded"),
    ("ReadsIntoGlobal", (), "state", "run() uses LAST, which read() sets"),
    ("ReadsIntoHelper", (), "run-elsewhere", "what read() or another job has left in a global"),
    ("ReadsIntoSelf", (), "state", "run() uses self.words, which read() sets"),
    ("WritesFromSelf", (), "state", "write() uses self.head, which load() sets"),
    ("WritesFromGlobal", (), "state", "write() uses LAST, which run() sets"),
    ("WritesFromHelper", (), "write-elsewhere", "than in one that has loaded and computed"),
    ("WritesLastRead", TWO_JOBS, "state", "write() uses LAST, which read() sets"),
    ("WritesLastOfHelper", TWO_JOBS, "write-elsewhere", "than in one that has read other jobs"),
    ("WritesItsPlace", (), "write-elsewhere", "they lie in a temporary place while it runs"),
    ("WritesByProgram", (), "write", "/stray.txt; it may write job.output alone"),
    ("WritesItsFolder", (), "write-elsewhere", "they lie in a temporary place while it runs"),
    ("WritesFirst", ("--input", "none.txt", *TWO_JOBS), "write", "write(), line "),
    ("ChangesItems", (), "items-kept", "run() changes item ant"),
    ("ReusesBuffer", (), "results-kept", "the result of item ant was [324.0], and [857.0] once"),
    ("LoadsUndeclared", (), "run", 'reload_on = ("model", "checkpoint")'),
    ("RunsUndeclared", (), "run", 'defaults = {..., "scale": 1}'),
    ("Mapped", (), "read", "Mapped.read() returned a dict, whose keys alone would count; it must"),
    ("Nothing", (), "read", "Nothing.read() returned None; it must return or yield the items"),
    ("Letters", (), "class", "Letters: devices is the text 'cpu', taken letter by letter"),
    ("Later", (), "class", "Later: run is async; write def run(self, items), without async"),
    ("Leaving", (), "run", "SystemExit: enough"),
]


@pytest.mark.parametrize(
    ("name", "more", "probe", "message", "file"),
    [(*case, "faulty.py") for case in FAULTY] + [(*case, "leaking.py") for case in LEAKING],
    ids=[case[0] for case in [*FAULTY, *LEAKING]],
)
def test_each_violation_is_found_by_its_probe_alone(
    check: Check, name: str, more: tuple[str, ...], probe: str, message: str, file: str
) -> None:
    code, report = check(name, *more, file=file)
    found = problems(report)
    assert (code, list(found)) == (1, [probe]), found
    assert len(found[probe]) == 1, found
    assert message in found[probe][0]
    assert report["plan"] is None
    assert set(reasons(report)) == {p["probe"] for p in report["checks"] if p["ok"] is None}


def test_heavy_imports_and_new_syntax_are_said(check: Check) -> None:
    code, report = check("Heavy", file="heavy_import.py")
    assert code == 1
    assert "importing the tool imports pandas; import inside" in problems(report)["import"][0]
    assert any("needs a newer Python than 3.9" in note for note in report["notes"])


def test_what_may_be_wrong_is_warned_of(check: Check) -> None:
    code, report = check("PathItems", file="leaking.py")
    assert (code, problems(report)) == (0, {})
    assert (
        "item words.txt holds the path words.txt; it counts by what is in that file"
        in report["warnings"][0]
    )
    code, report = check("NotFinite", file="leaking.py")
    assert (code, problems(report)) == (0, {})
    assert "the result of item ant holds NaN or infinite numbers" in report["warnings"][0]


def test_a_process_that_hangs_is_given_up(check: Check, monkeypatch: Any) -> None:
    monkeypatch.setattr(trial, "MIN_LIMIT_S", 2.0)
    monkeypatch.setattr(trial, "LIMIT_FACTOR", 0.0)
    code, report = check("Waiting", file="leaking.py")
    found = problems(report)
    assert (code, list(found)) == (1, ["run-elsewhere"])
    assert "the process did not end within 2 s" in found["run-elsewhere"][0]


def test_files_that_differ_each_time_are_not_compared(check: Check) -> None:
    code, report = check("WritesTheTime", file="leaking.py")
    assert (code, problems(report)) == (0, {})
    assert "write() writes other bytes each time (scores.txt)" in report["notes"][0]


@pytest.mark.parametrize("name", ["none.txt", "one.txt"])
def test_inputs_without_items(check: Check, name: str) -> None:
    """A job without items neither is computed nor keeps others from being so."""
    code, report = check("Right", "--input", "none.txt", "--input", name, "--vary", "model=longer")
    assert (code, problems(report)) == (0, {})
    untested = reasons(report)
    assert "write" not in untested and "write-elsewhere" not in untested
    is_empty = name == "none.txt"
    assert (untested.get("run", "") == "the input holds no items; give another --input") is is_empty


# -- several jobs, and what the command line lacks -----------------------------------
def test_a_param_is_varied_unasked_where_another_value_can_be_guessed(check: Check) -> None:
    _, report = check("Noted", file="leaking.py")
    why = "no other value of note is known; give --vary note=VALUE"
    assert reasons(report)["param:note"] == why
    _, report = check("Right", "--param", "factor=0", "--vary", "digits=[1, 2]")
    asked = {p["probe"]: p["check"] for p in report["checks"]}
    assert asked["param:factor"] == "factor=1.0 (the default) changes results, and is declared"
    assert asked["param:digits"] == "digits=[1, 2] (as given) changes no result"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            (),
            "the tool asks for the wildcard 'sample' (job.wildcards.sample), which is not given: ",
        ),
        (("--wildcard", "sample=a"), "asks for the input 'words' (job.input.words), which is not"),
        (
            ("--wildcard", "sample=a", "--input", "words=words.txt"),
            "asks for the param 'prefix' (job.params.prefix), which is not given: add --param",
        ),
    ],
)
def test_what_is_missing_is_misuse_in_its_own_words(check: Check, more: Any, message: str) -> None:
    code, report = check("Asking", *more, file="leaking.py")
    assert (code, report["error"].count("\n")) == (2, 1)
    assert message in report["error"]


def test_what_is_asked_by_key_or_number_is_told_too(check: Check) -> None:
    code, report = check("AskingByKey", file="leaking.py")
    assert (code, "add --wildcard sample=VALUE" in report["error"]) == (2, True)
    code, report = check("AskingSecond", file="leaking.py")
    assert (code, "job.input[1], and 1 is given: add --input PATH" in report["error"]) == (2, True)
    for name, param in {"": "model", "InRun": "factor", "InRead": "most"}.items():
        code, report = check(f"AskingItself{name}", file="leaking.py")
        assert (code, f"(self.params.{param}), which is not given" in report["error"]) == (2, True)
    code, report = check("Asking", "--wildcard", "sample=a", "b", *ONE_EACH, file="leaking.py")
    assert "the input 'words'" in report["error"], "each job has its own wildcard"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "absent.txt"), "there is no file absent.txt: --input takes files that are"),
        (("--input", "a=one.txt", "--input", "b=more.txt"), "each --input is one job, and jobs of"),
        ((*ONE_EACH, "--output", "1", "--output", "2", "--output", "3"), "--output is given 3 ti"),
        (
            (*ONE_EACH, "--wildcard", "sample=a", "b", "c"),
            "--wildcard sample is given 3 times, and the",
        ),
        (("--snakefile", "Snakefile"), "--snakefile is for a job of a workflow: name its rule"),
        (("--param", "x=[a, b"), "--param x: '[a, b' is not a list or mapping"),
        (("--vary", "big"), "--vary takes K=V"),
    ],
)
def test_misuse_is_one_line(check: Check, words: tuple[str, ...], message: str) -> None:
    code, report = check("Right", *words)
    assert (code, report["error"].count("\n")) == (2, 1)
    assert message in report["error"]


def test_no_tool_and_no_rule_is_misuse(capfd: Any) -> None:
    assert main(["check"]) == 2
    assert "name a tool, or a rule of a workflow: --rule NAME" in capfd.readouterr().err
