"""Misspelt names: which is meant, and whether that is an error or a warning (C4)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.errors import UnknownParam
from snakemake_executor_gpupool.frontends.snakemake.name_checks import (
    misspelt_names,
    near_resources,
    near_variables,
)
from snakemake_executor_gpupool.frontends.snakemake.tool_checks import (
    problem_of_file,
    problem_of_module,
)
from snakemake_executor_gpupool.tool_api.known_params import (
    known_params,
    likely_misspelt,
    refuse_unknown,
)
from snakemake_executor_gpupool.tool_api.nearest import nearest
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class


class Layered(Tool):
    """Has params, and reads more of them than it names."""

    defaults: ClassVar = {"model": "m", "layers": None, "precision": "fp32"}
    write_params = ("digits",)

    def read(self, job: Any) -> Any:
        prefix = job.params.get("prefix", "")
        return [prefix + job.params["suffix"], getattr(self.params, "extra", "")]


class Open(Tool):
    """Takes any param, and knows two."""

    reload_on = ("checkpoint",)

    def run(self, items: list[Any]) -> list[Any]:
        return [self.params.scale for _ in items]


def test_the_nearest_name() -> None:
    known = ["layers", "max_length", "precision"]
    assert nearest("layer", known) == "layers"
    assert nearest("percision", known) == "precision"
    assert nearest("maxLength", known) == nearest("max-lenght", known) == "max_length"
    assert nearest("sample", known) is None


def test_what_a_tool_knows() -> None:
    named = ["model", "layers", "precision", "digits", "extra", "prefix", "suffix"]
    assert set(named) <= set(known_params(Layered))
    assert {"checkpoint", "scale"} <= set(known_params(Open))


@pytest.mark.parametrize("name", ["layer", "percision", "sample"])
def test_a_param_by_name_must_be_the_tool_s(name: str) -> None:
    with pytest.raises(UnknownParam, match=f"layered has no param '{name}'") as refused:
        refuse_unknown(Layered, "layered", ["model", name])
    assert "It takes model, layers, precision" in str(refused.value)
    meant = {"layer": "layers", "percision": "precision"}.get(name)
    assert (f"Did you mean {meant!r}?" in str(refused.value)) == bool(meant)
    assert isinstance(refused.value, TypeError)


def test_params_that_the_tool_reads_are_its_own() -> None:
    refuse_unknown(Layered, "layered", ["prefix", "suffix", "extra", "digits", "gpupool_tool"])
    refuse_unknown(Open, "open", ["scale", "anything"])
    with pytest.raises(UnknownParam, match="Did you mean 'checkpoint'"):
        refuse_unknown(Open, "open", ["chekpoint"])


def test_a_rule_s_own_params_are_its_business() -> None:
    assert likely_misspelt(Layered, ["sample", "layers", "threads_of_blast"]) == []
    (said,) = likely_misspelt(Layered, ["sample", "layer"])
    assert "'layer' means nothing to Layered; did you mean 'layers'?" in said
    assert likely_misspelt(Layered, ["layer", "layers"]) == [], "both are given"
    (said,) = likely_misspelt(Open, ["chekpoint", "sample"])
    assert "did you mean 'checkpoint'?" in said


# -- resources and variables -------------------------------------------------------
def rule(name: str, resources: dict[str, Any], **params: Any) -> Any:
    return SimpleNamespace(name=name, resources=resources, params=params)


@pytest.mark.parametrize("name", ["gpupool_tools", "gpupool_instanse", "gpupol_tool", "GPUpool_x"])
def test_a_name_that_only_gpupool_could_mean_is_an_error(name: str) -> None:
    rules = [rule("good", {"gpupool_tool": "a", "gpu": 1, "gpu_model": "a100", "mem_mb": 1})]
    assert misspelt_names(rules) == {}
    for bad in (rule("bad", {name: "script"}), rule("bad", {}, **{name: "script"})):
        (problem,) = misspelt_names([*rules, bad]).values()
        assert f"{name!r}" in problem and "gpupool_instance, gpupool_tool" in problem
    if name != "GPUpool_x":
        meant = "gpupool_tool" if "tool" in name else "gpupool_instance"
        assert f"Did you mean {meant!r}?" in problem


def test_a_resource_near_one_of_ours_is_a_warning() -> None:
    jobs = {
        "a": rule("a", {"gpus": 1, "gpu": None}),
        "b": rule("b", {"gpus": 2, "vram_gb": 3}),
        "c": rule("c", {"gpu": 1, "gpus": 1}),
    }
    said = near_resources(jobs, limited=())
    assert said == [
        "rules a, b: the resource 'gpus' means nothing to gpupool; did you mean 'gpu'?",
        "rule b: the resource 'vram_gb' means nothing to gpupool; did you mean 'vram_mb'?",
    ]
    assert len(near_resources(jobs, limited=["gpus"])) == 1, "the user's own, which has a limit"
    plain = {"mem_mb", "mem_mib", "disk_mb", "tmpdir", "runtime", "nodes", "tasks", "mpi", "_cores"}
    slurm = {"slurm_partition", "slurm_account", "slurm_extra", "gpu_model", "gres", "constraint"}
    assert near_resources({"d": rule("d", dict.fromkeys(plain | slurm, 1))}, ()) == []


def test_a_variable_near_one_of_ours_is_a_warning() -> None:
    said = near_variables({"GPUPOOL_SIMULATE": "1", "GPUPOOL_MANAGED_DEVISES": "0", "HOME": "/"})
    assert said == [
        "the environment variable GPUPOOL_MANAGED_DEVISES means nothing; did you mean "
        "GPUPOOL_MANAGED_DEVICES?"
    ]
    assert near_variables({"GPUPOOL_EARLI": "1"}) == [], "only gpupool sets GPUPOOL_EARLY"
    assert near_variables({"GPUPOOL_TEST_SLURM": "1", "GPUPOOL_FUZZ_CASES": "1"}) == []


# -- files that are to hold a tool ---------------------------------------------------
HEAD = "from snakemake_executor_gpupool import Tool\n"
#: What a file holds, which class is asked for, and what is said; nothing: it may be right.
FILES = {
    "good": (HEAD + "class Score(Tool): pass", "Score", ""),
    "only one": (HEAD + "class Score(Tool): pass", "", ""),
    "misspelt": (HEAD + "class Score(Tool): pass", "Scorre", "no class 'Scorre'. Did you mean"),
    "none": (HEAD + "x = 1", "", "defines no subclass"),
    "two": (HEAD + "class A(Tool): pass\nclass B(Tool): pass", "", "say which: f.py:A, f.py:B"),
    "base and one": (HEAD + "class A(Tool): pass\nclass B(A): pass", "", ""),
    "plain": ("class Score: pass", "Score", "'Score' of"),
    "function": ("def score(): pass", "score", "is not a tool"),
    "syntax": ("class Score(Tool)\n  pass", "Score", "is not valid Python, line 1"),
    "nul": ("x = '\0'", "Score", "is not valid Python"),
    "imported": ("from other import Score", "Score", ""),
    "star": ("from other import *", "Score", ""),
    "assigned": (HEAD + "Score = make()", "Score", ""),
    "tuple": (HEAD + "(Score, B) = make()", "Score", ""),
    "in a block": (HEAD + "try:\n  class Score(Tool): pass\nexcept E as e: pass", "Score", ""),
    "made by name": ("globals()['Score'] = 1", "Score", ""),
    "nested": (HEAD + "class A:\n  class Score(Tool): pass", "A.Score", ""),
    "decorated": ("@tool\nclass Score: pass", "Score", ""),
    "inside a function": (HEAD + "def f():\n  class Score(Tool): pass", "Score", "no class"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_looked_at_before_it_runs(tmp_path: Path, case: str) -> None:
    text, class_name, said = FILES[case]
    path = tmp_path / "f.py"
    path.write_text(text)
    problem = problem_of_file(str(path), class_name)
    assert said in problem and bool(said) == bool(problem), problem
    if case == "syntax":
        assert problem_of_file(str(path), class_name, own_python=False) == ""


def test_what_is_refused_by_its_text_is_refused_by_its_class_too(tmp_path: Path) -> None:
    """A check that reads must not refuse what would have worked."""
    (tmp_path / "other.py").write_text(HEAD + "class Score(Tool): pass\n")
    for case, (text, class_name, _) in FILES.items():
        path = tmp_path / f"{case.replace(' ', '_')}.py"
        path.write_text(textwrap.dedent(text))
        works = True
        try:
            load_tool_class(f"{path}:{class_name}" if class_name else str(path))
        except Exception:
            works = False
        refused = bool(problem_of_file(str(path), class_name))
        assert not (refused and works), case


def test_a_module_is_looked_for() -> None:
    assert "no module 'nowhere_at_all'" in problem_of_module("nowhere_at_all.tools", "Score")
    ours = "snakemake_executor_gpupool.tools.esm2"
    assert problem_of_module(ours, "Esm2Embed") == ""
    assert "Did you mean 'Esm2Embed'" in problem_of_module(ours, "Esm2Embd")
    assert problem_of_module("math", "Score") == ""
