"""``gpupool check --rule``: the jobs of a rule, taken from a Snakefile (T1, S2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.frontends.commandline.main import main

SNAKEFILE = """
configfile: "config.yaml"

rule all:
    input: expand("scores/{sample}.txt", sample=config["samples"])

rule score:
    input: words="words/{sample}.txt"
    output: scores="scores/{sample}.txt", parts=directory("parts/{sample}")
    log: "logs/{sample}.log"
    params: model="m", digits=lambda wildcards: 1 if wildcards.sample == "a" else 3,
        checkpoint=lambda wildcards: f"fold-{wildcards.sample}"
    threads: 2
    resources: gpupool_tool="scripts/score.py", mem_mb=123
    script: "scripts/score.py"

rule later:
    output: "words/c.txt"
    shell: "echo elk > {output}"

rule elsewhere:
    input: "words/{sample}.txt"
    output: "elsewhere/{sample}.{kind}"
    resources: gpupool_tool="scripts/score.py"
    script: "scripts/score.py"

rule plain:
    input: "words/a.txt"
    output: "plain.txt"
    shell: "cp {input} {output}"
"""
TOOL = """
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Score(Tool):
    defaults = {"model": "m", "digits": 2, "checkpoint": "x"}
    write_params = ("digits",)
    reload_on = ("model", "checkpoint")

    def load(self, device):
        self.offset = len(self.params.model)

    def read(self, job):
        Path(job.log[0]).write_text("reading")
        assert job.threads <= 2 and job.resources.mem_mb == 123, job.resources
        return Path(job.input.words).read_text().split()

    def run(self, items):
        # once per batch, so that the largest item of the batch decides
        SCALE
        return [(len(item) + self.offset) / scale for item in items]

    def write(self, job, results):
        text = job.wildcards.sample + "".join(f" {r:.{job.params.digits}f}" for r in results)
        Path(job.output.scores).write_text(text)
        Path(job.output.parts).mkdir()


Score.main(snakemake)
"""


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("words", "scripts", "logs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "config.yaml").write_text("samples: [a, b, c]")
    (tmp_path / "other.yaml").write_text("samples: [a]")
    (tmp_path / "words/a.txt").write_text("ant")
    (tmp_path / "words/b.txt").write_text("bumblebee")
    (tmp_path / "scripts/score.py").write_text(TOOL.replace("SCALE", "scale = 1"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(capfd: Any, *words: str) -> tuple[int, Any]:
    code = main(["check", *words, "--json"])
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else err


def status(report: Any) -> dict[str, str]:
    return {probe["probe"]: probe["status"] for probe in report["checks"]}


def test_all_comes_from_the_rule(workflow: Path, capfd: Any) -> None:
    code, report = check(capfd, "--rule", "score")
    assert (code, report["ok"]) == (0, True), report
    assert report["jobs"] == ["rule score (sample=a)", "rule score (sample=b)"]
    assert report["notes"][0].startswith("1 of the 3 jobs of rule score left out: their inputs")
    asked = status(report)
    assert (asked["write"], asked["write-elsewhere"], asked["two-models"]) == ("ok",) * 3
    assert asked["other-jobs"] == "not tested"
    reason = next(p["reason"] for p in report["checks"] if p["probe"] == "other-jobs")
    assert "use the same model (model, checkpoint)" in reason
    assert not list((workflow / "logs").iterdir()), "a log of the check is not the job's"
    written = [path.name for path in workflow.iterdir() if path.name != ".snakemake"]
    assert sorted(written) == sorted(
        ["Snakefile", "config.yaml", "logs", "other.yaml", "scripts", "words"]
    )


def test_jobs_of_one_item_each_are_tried_together(workflow: Path, capfd: Any) -> None:
    tool = TOOL.replace("SCALE", "scale = max(map(len, items))")
    tool = tool.replace('    reload_on = ("model", "checkpoint")\n', "").replace(
        ', "checkpoint": "x"}', "}"
    )
    (workflow / "scripts/score.py").write_text(tool)
    code, report = check(capfd, "--rule", "score", "--config", "samples=[a,b]")
    wrong = [probe for probe, how in status(report).items() if how == "wrong"]
    assert (code, wrong) == (1, ["other-jobs"]), report
    asked = {probe["probe"]: probe["check"] for probe in report["checks"]}
    assert "fold-b' (another job's)" in asked["param:checkpoint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rule", "scoer"), "there is no rule 'scoer'. Did you mean 'score'? Rules: all, "),
        (("--rule", "score", "--wildcard", "sample=c"), "no job of rule score has its inputs yet"),
        (("--rule", "elsewhere"), "the workflow's first rule needs no job of rule elsewhere; name"),
        (("--rule", "elsewhere", "--wildcard", "sample=a"), "also has the wildcard kind: add it"),
        (("--rule", "score", "--wildcard", "x=a"), "rule score has no wildcard x; its wildcards"),
        (("--rule", "plain"), "rule plain names no gpupool_tool; name the tool to check: gpupool"),
        (("--rule", "score", "--input", "words/a.txt"), "--input and --output are not for a job"),
        (("--rule", "score", "--snakefile", "absent"), 'Snakefile "absent" not found'),
        (("--rule", "score", "--wildcard", "sample=z"), "words/z.txt is missing, and no rule ma"),
    ],
)
def test_what_a_rule_lacks_is_misuse(workflow: Path, capfd: Any, words: Any, message: str) -> None:
    code, error = check(capfd, *words)
    assert (code, error.count("\n")) == (2, 1), error
    assert message in error


def test_other_configuration_directory_and_wildcards(
    workflow: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    place = ("--snakefile", str(workflow / "Snakefile"), "--directory", str(workflow))
    other = ("--configfile", str(workflow / "other.yaml"))
    code, report = check(capfd, "--rule", "score", *place, *other)
    assert (code, report["jobs"]) == (0, ["rule score (sample=a)"]), report
    assert Path.cwd() == Path("/")
    code, report = check(
        capfd, "--rule", "score", *place, "--wildcard", "sample=b", "a", "--param", "checkpoint=q"
    )
    assert (code, len(report["jobs"])) == (0, 2), report
    assert status(report)["other-jobs"] == "ok"


def test_a_directory_is_no_file(workflow: Path, capfd: Any) -> None:
    (workflow / "scripts/score.py").write_text(
        TOOL.replace("SCALE", "scale = 1").replace(".mkdir()", ".touch()")
    )
    code, report = check(capfd, "--rule", "score", "--wildcard", "sample=a")
    problems = [problem for probe in report["checks"] for problem in probe["problems"]]
    made = "write() made a file of parts/a, which the rule declares as a directory()"
    assert (code, problems) == (1, [made])
