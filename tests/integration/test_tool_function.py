"""A tool as a function, in a pool and without one (T5)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool import InputError, ToolPool, tool_function
from snakemake_executor_gpupool.errors import JobFailed, UnknownParam, UnknownTool
from snakemake_executor_gpupool.tools import functions
from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint

TEXTUAL = f"{Path(__file__).parent.parent / 'tools' / 'textual.py'}:Textual"


def test_a_call_is_the_same_in_a_pool_and_cold() -> None:  # T5 P5 P6
    shout = tool_function(TEXTUAL, suffix="!")
    words = [f"w{n % 7}" for n in range(30)]
    cold = shout(words)
    assert cold == [f"{word.upper()}!.plain" for word in words]
    with ToolPool(devices="cpu:2") as pool:
        assert shout(words) == cold
        assert shout(iter(words), suffix="?")[0] == "W0?.plain"
        assert shout([]) == [] and shout(["one"]) == ["ONE!.plain"]
        assert pool.summary["items_unique"] == 7 + 7 + 1
        assert pool.summary["model_loads"] <= 2
    assert shout(["one"]) == ["ONE!.plain"]


def test_the_model_stays_for_later_calls_and_the_work_is_divided() -> None:  # T2 T5
    where = tool_function(TEXTUAL, pid=True, sleep_s=0.05)
    with ToolPool(devices="cpu:2") as pool:
        calls = [where([f"{call}-{n}" for n in range(60)]) for call in range(3)]
        assert pool.summary["model_loads"] == 2
    pids = {line.rpartition(".")[2] for lines in calls for line in lines}
    assert len(pids) == 2 and str(os.getpid()) not in pids
    assert where(["x"])[0].endswith(f".{os.getpid()}")


def test_errors_say_what_is_wrong() -> None:  # P9
    shout = tool_function(TEXTUAL)
    with pytest.raises(TypeError, match="one text, whose letters"):
        shout("letters")
    with pytest.raises(TypeError, match=r"got a dict, whose keys alone.*Give it list"):
        shout({"a": "b"})
    with pytest.raises(ValueError, match="this line is bad"):
        shout(["good", "bad"])
    with ToolPool(devices="cpu:1"), pytest.raises(JobFailed, match="item bad: ValueError"):
        shout(["good", "bad"])
    with pytest.raises(UnknownTool, match="esm2-embed"):
        tool_function("esm2-embedd")
    assert repr(tool_function(TEXTUAL, suffix="!")) == f"tool_function({TEXTUAL!r}, suffix='!')"


def test_a_param_that_the_tool_does_not_have_is_an_error(tmp_path: Path) -> None:  # C4
    said = r"no param 'sufix'. Did you mean 'suffix'\? It takes model, suffix, sleep_s, pid"
    source = tmp_path / "in.txt"
    source.write_text("a\n")
    files = {"input": str(source), "output": [str(tmp_path / "out.txt")]}
    with pytest.raises(UnknownParam, match=said) as refused:
        tool_function(TEXTUAL, sufix="!")(["a"])
    assert isinstance(refused.value, TypeError)
    with pytest.raises(UnknownParam, match=r"Write tool_function\(.*, device=\.\.\.\)"):
        tool_function(TEXTUAL)(["a"], device="cpu")
    with ToolPool(devices="cpu:1") as pool:
        for call in (
            lambda: tool_function(TEXTUAL)(["a"], sufix="!"),
            lambda: pool.run(TEXTUAL, ["a"], {"sufix": "!"}),
            lambda: pool.run_job(TEXTUAL, **files, params={"sufix": "!"}),
        ):
            with pytest.raises(UnknownParam, match=said):
                call()
        assert pool.summary["model_loads"] == 0
        pool.run_job(TEXTUAL, **files, params={"suffix": "!"})
    assert (tmp_path / "out.txt").read_text() == "A!.plain\n"


def test_a_forked_process_does_not_use_its_parents_pool() -> None:
    with ToolPool(devices="cpu:1"):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if ToolPool.current() is None else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert ToolPool.current() is not None
    assert ToolPool.current() is None


def test_installed_tools_are_functions_and_import_nothing_heavy() -> None:
    assert "esm2_embed" in dir(functions)
    assert repr(functions.esm2_embed) == "tool_function('esm2-embed')"
    with pytest.raises(AttributeError, match="no such tool"):
        _ = functions.nothing_of_the_kind
    code = (
        "import sys; from snakemake_executor_gpupool.tools.functions import esm2_embed; "
        "sys.exit(bool({'torch', 'numpy', 'esm'} & set(sys.modules)))"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_esm2_takes_plain_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # T5 T6 P1
    monkeypatch.setenv("GPUPOOL_SIMULATE", "4")
    model = write_seeded_checkpoint(str(tmp_path), 3, 24, 2, seed=7)
    embed = tool_function("esm2-embed", model=model)
    sequences = ["MKTAYIAKQR", "madqlteeqi", "MKTAYIAKQR", "M" * 90]
    cold = embed(sequences)
    with ToolPool(devices=2) as pool:
        assert [device.name for device in pool.devices if device.kind == "cuda"] == [
            "cuda:0",
            "cuda:1",
        ]
        served = embed([("a", sequences[0]), ("b", "MADQLTEEQI"), *sequences[2:]])
        assert pool.summary["items_unique"] == 3
        with pytest.raises(InputError, match="'b' has '1' at position 2"):
            embed([("a", "MKT"), ("b", "M1T")])
        per_residue = embed(sequences[:1], pool="per_token")[0]
    for one, other in zip(cold, served, strict=True):
        np.testing.assert_allclose(one["layer3"], other["layer3"], atol=1e-5)
    assert per_residue["layer3"].shape == (10, 24)
    with pytest.raises(InputError, match=r"sequences or \(id, sequence\) pairs; got 3"):
        embed([3])


def test_what_is_cut_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = write_seeded_checkpoint(str(tmp_path), 3, 24, 2, seed=7)
    embed = tool_function("esm2-embed", model=model, max_length=3, long_sequences="truncate")
    one, other, _ = embed([("a", "MKTAYI"), "MKTGG", "MK"])
    np.testing.assert_array_equal(one["layer3"], other["layer3"])
    message = "esm2-embed: truncated to 3 residues: 2 of 3 sequences (a, MKTGG)"
    assert caplog.messages == [message]
    with ToolPool(devices="cpu:1"):
        embed([("a", "MKTAYI"), "MKTGG", "MK"])
        assert caplog.messages == [message] * 2
        embed(["MKT"])
    assert caplog.messages == [message] * 2


def test_other_tools_take_plain_values_too() -> None:  # T5
    from snakemake_executor_gpupool.tools.esmfold import EsmFold
    from snakemake_executor_gpupool.tools.sentence import SentenceEmbed

    assert EsmFold().item("mktayiakqrqi") == ("mktayiakqr", "MKTAYIAKQRQI")
    assert EsmFold().item(("p1", "MKT")) == ("p1", "MKT")
    assert SentenceEmbed().item("A short text.") == ("A short te", "A short text.")
    with pytest.raises(InputError, match="the text 'a' is empty"):
        SentenceEmbed().item(("a", " "))
    with pytest.raises(InputError, match=r"texts or \(id, text\) pairs; got b'x'"):
        SentenceEmbed().item(b"x")


def test_each_place_of_a_duplicate_has_its_own_arrays() -> None:  # T5
    count = tool_function(f"{Path(__file__).parent.parent / 'tools' / 'inplace.py'}:InPlace")
    results = count(["ab", "abc", "ab"])
    for result, letters in zip(results, (2, 3, 2), strict=True):
        result["n"] -= 1
        result["more"][0] += 1
        result["more"].append("mine")
        assert result["n"].tolist() == [letters - 1] * 3
        assert result["more"][0].tolist() == [2, 2] and len(result["more"]) == 2
