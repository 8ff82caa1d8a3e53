"""A package of somebody else's adds a tool, without a change to ours (S2, T6)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.running import Workflow
from tests.pages import printed_files
from tests.tools.textual import __file__ as textual

DESCRIPTION = printed_files("your-own-tool.md")["pyproject.toml"]
NAMES = {"dna-score": "line-case", "dna_score:Score": "line_case:Textual"}


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Build and install a package of the page's description; return what makes it importable."""
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    description = DESCRIPTION
    for printed, ours in NAMES.items():
        assert printed in description
        description = description.replace(printed, ours)
    (source / "pyproject.toml").write_text(description)
    (source / "line_case.py").write_text(Path(textual).read_text())
    options = ("--no-index", "--no-build-isolation", "--no-deps", "--target", str(target))
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return {"PYTHONPATH": str(target)}


SNAKEFILE = """
rule up:
    input: "in.txt"
    output: "out.txt"
    params: model="m1"
    resources: gpupool_tool="line-case"
    shell: "gpupool run line-case --input {input} --output {output} --param model={params.model}"
"""


def test_it_is_listed_and_served_by_name(tmp_path: Path, installed: dict[str, str]) -> None:
    def tools(*options: str) -> str:
        command = [
            sys.executable,
            "-m",
            "snakemake_executor_gpupool.frontends.commandline.main",
            "tools",
            *options,
        ]
        environment = {**os.environ, **installed}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    listed = {tool["name"]: tool for tool in json.loads(tools("--json"))}
    assert set(listed) >= {"esm2-embed", "line-case"}
    assert listed["line-case"] == {
        "name": "line-case",
        "package": "line-case 1.2",
        "class": "line_case:Textual",
        "version": "0",
        "summary": "Turns each line of a text file into capitals, with a suffix that the model's "
        "name gives.",
        "devices": ["cuda", "cpu"],
        "deterministic": True,
        "params": {"model": "plain", "suffix": "", "sleep_s": 0.0, "pid": False},
    }
    table = tools()
    assert "line-case" in table and "line-case 1.2" in table and 'model="plain"' in table

    workflow = Workflow(tmp_path / "workflow", SNAKEFILE, {"in.txt": "alpha\n"})
    (workflow.directory / "textual.py").unlink()
    served = workflow.run("out.txt", **installed)
    assert served.code == 0, served.text
    assert served.summary["jobs_served"] == 1
    text = served.read("out.txt")
    cold = workflow.run("out.txt", "--forceall", "--executor", "local", "--cores", "1", **installed)
    assert cold.code == 0, cold.text
    assert cold.read("out.txt") == text == "ALPHA.m1\n"

    without = workflow.run("out.txt", "--forceall")
    assert without.code == 1
    assert "rule up: there is no tool 'line-case'." in without.text
    assert "Installed tools: esm2-embed" in without.text
