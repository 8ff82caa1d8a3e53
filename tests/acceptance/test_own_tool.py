"""The tool that docs/your-own-tool.md shows, exactly as printed there (S2, T1, T5)."""

from __future__ import annotations

import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.main import main
from tests.acceptance.running import LOCAL, Finished, Workflow
from tests.pages import code_blocks, printed_files, printed_members

PAGE = "your-own-tool.md"
DNA = {
    "dna/a.txt": "ACGTTTGACAGGATATAATGCC\nACGT\nTATAATTATAATTATAATTATAAT\n",
    "dna/b.txt": "tatAATtataattataattataat\nGGGGGGGGGGGG\n",
}
LAST_LINE = "\n\nScore.main(snakemake)"


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Workflow]:
    """Make a workflow of the page's files, with weights."""
    files = printed_files(PAGE)

    def make(name: str, more_members: str = "") -> Workflow:
        script = files["scripts/score.py"].replace(LAST_LINE, f"\n{more_members}{LAST_LINE}")
        given = {**DNA, **files, "scripts/score.py": script}
        workflow = Workflow(tmp_path / name, files["Snakefile"], given)
        monkeypatch.chdir(workflow.directory)
        runpy.run_path("make_weights.py")
        return workflow

    return make


def scores(run: Finished) -> list[float]:
    assert run.code == 0, run.text
    return [float(line) for name in "ab" for line in run.read(f"scores/{name}.txt").split()]


def test_the_tool_is_short() -> None:
    assert len(printed_files(PAGE)["scripts/score.py"].splitlines()) < 40


def test_as_printed_it_is_served_and_runs_cold(printed) -> None:  # S2 T1 T5
    ours, local = printed("ours").run(), printed("local").run(*LOCAL)
    assert scores(ours) == pytest.approx(scores(local), abs=2e-3)
    assert len(set(scores(ours))) == 4, "the weights make no difference"
    assert (ours.summary["jobs_served"], ours.summary["model_loads"]) == (2, 1)
    assert (ours.summary["items"], ours.summary["items_unique"]) == (5, 5)


def test_it_passes_its_check(printed, capfd) -> None:  # T1
    printed("checked", printed_members(PAGE))
    commands = [block for block in code_blocks(PAGE) if block.startswith("gpupool check")]
    assert len(commands) == 2
    for command in commands:
        code, said = main(shlex.split(command)[1:]), capfd.readouterr().out
        assert (code, "5 items, 4 computed (1 duplicates)" in said) == (0, True), said
        untested = [line.split()[0] for line in said.splitlines() if " not tested: " in line]
        assert untested == ["two-models"], said


def decimals(text: str) -> int:
    return len(text.split(maxsplit=1)[0].partition(".")[2])


TWO_MODELS = """
rule all:
    input: expand("{model}/{sample}.txt", model=["model", "other"], sample=["a", "b"])

rule score:
    input: "dna/{sample}.txt"
    output: "{model}/{sample}.txt"
    params: model="{model}.pt", digits=lambda wildcards: 2 if wildcards.sample == "a" else 4
    resources: gpupool_tool="script"
    script: "scripts/score.py"
"""


def test_with_all_that_the_page_adds(printed) -> None:  # T1 T2 D8 P5
    workflow = printed("ours", printed_members(PAGE))
    (workflow.directory / "other.pt").write_bytes((workflow.directory / "model.pt").read_bytes())
    (workflow.directory / "Snakefile").write_text(TWO_MODELS)
    run = workflow.run("--gpupool-offload-strategy", "cpu", GPUPOOL_SIMULATE="1x16GiB")
    assert run.code == 0, run.text
    # digits neither splits batches nor tells items apart; case does not either
    assert (run.summary["items"], run.summary["items_unique"]) == (10, 8)
    assert run.summary["model_loads"] == 2
    assert [decimals(run.read(f"model/{name}.txt")) for name in "ab"] == [2, 4]
    assert run.read("model/b.txt") == run.read("other/b.txt")

    (workflow.directory / "dna/a.txt").write_text("ACGTNNNNNNNN\n")
    bad = workflow.run("--keep-going", "--forcerun", "score", GPUPOOL_SIMULATE="1x16GiB")
    assert bad.code == 1
    assert "dna/a.txt: ACGTNNNNNN... has letters other than ACGT" in bad.text
    assert "Traceback" not in bad.text
    assert bad.summary["jobs_served"] == 2
