"""Served runs against the local executor's runs of the same Snakefiles (S4, S6).

Compared are files and their contents, exit codes, logs, the metadata that Snakemake keeps of every
output, what it says of them, and that a second run finds nothing to do.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, TOOLS, Finished, Workflow

HERE = Path(__file__).resolve().parent
DESCRIBING = (TOOLS / "describing.py").read_text()
INPUTS = {
    **{f"in/{i}.txt": f"alpha{i % 3}\nbeta\n" for i in range(6)},
    "in/none.txt": "",
    "describing.py": DESCRIBING,
}
OURS = ("--cores", "2")
#: What tells one run from another.
OF_A_RUN = {"starttime", "endtime", "job_hash"}
#: What the local executor's child for a shadow rule has in addition, and nothing else does.
OF_A_CHILD = {"disk", "disk_mb", "disk_mib", "mem", "mem_mb", "mem_mib"}


def contents(directory: Path) -> dict[str, object]:
    """Every file of a workflow but logs, benchmarks and Snakemake's own, and who may write it."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_dir() or name.parts[0] in (".snakemake", "logs", "bench"):
            continue
        text: object = path.read_text()
        if name.name == "shadowed.json":
            description = json.loads(str(text))
            resources = description["resources"]
            description["resources"] = {k: v for k, v in resources.items() if k not in OF_A_CHILD}
            text = description
        found[str(name)] = (path.stat().st_mode & 0o222, text)
    return found


def metadata(directory: Path) -> dict[str, dict[str, object]]:
    """What Snakemake keeps of every output, but times and numbers of the run."""
    records = {}
    for path in (directory / ".snakemake/metadata").rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text())
            records[path.name] = {k: v for k, v in record.items() if k not in OF_A_RUN}
    return records


def said(run: Finished) -> str:
    """What a report of Snakemake's says, without dates and the head that names the run."""
    text = run.text[run.text.find("output_file") :]
    return re.sub(r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}", "DATE", text)


@pytest.mark.timeout(300)
def test_every_word_of_a_served_rule(tmp_path: Path) -> None:  # S4 S6
    matrix = HERE / "matrix"
    files = {
        **INPUTS,
        "sub/in/1.txt": "deep\n",
        "other/Snakefile": (matrix / "other/Snakefile").read_text(),
        "other/tools/mine.py": DESCRIBING,
    }
    snakefile = (matrix / "Snakefile").read_text()
    ours = Workflow(tmp_path / "ours", snakefile, files)
    local = Workflow(tmp_path / "local", snakefile, files)
    run, expected = ours.run(*OURS), local.run(*LOCAL, timeout_s=280)
    assert (run.code, expected.code) == (0, 0), run.text + expected.text
    assert run.summary["jobs_served"] == 15
    assert contents(ours.directory) == contents(local.directory)
    assert metadata(ours.directory) == metadata(local.directory)
    assert "<TBD>" not in run.text
    assert not (ours.directory / "gone.json").exists()
    assert not (ours.directory / "kept.json").stat().st_mode & 0o222
    check_logs_and_benchmark(run, expected)
    assert "Nothing to be done" in ours.run("--dry-run").text
    for what in (("--summary",), ("--list-changes", "code")):
        assert said(ours.run(*what)) == said(local.run(*LOCAL, *what))


def check_logs_and_benchmark(run: Finished, expected: Finished) -> None:
    for name, rule in (("a", "named"), ("shadowed", "shadowed"), ("sp ace", "spaces")):
        lines = run.read(f"logs/{name}.log").splitlines()
        assert len(lines) == 2, "a log has its own job's lines only"
        assert lines[0].startswith("gpupool: ")
        assert lines[1].startswith(f"describing {rule} with")
    assert run.read("logs/a.hand.log") == expected.read("logs/a.hand.log")
    rows = [line.split("\t") for line in run.read("bench/twice.tsv").splitlines()]
    header, *repeats = [line.split("\t") for line in expected.read("bench/twice.tsv").splitlines()]
    assert rows[0] == header
    assert [len(row) for row in rows] == [len(header)] * 3 and len(repeats) == 2
    for row in rows[1:]:
        assert 0 <= float(row[0]) < 60
        assert re.fullmatch(r"\d+:\d\d:\d\d", row[1])


FAILING = """
rule all:
    input: "good.json", "after.txt", "late.txt", "kept.json"

rule describe:
    input: "in/{name}.txt"
    output: "{name,good|bad|0}.json"
    retries: 1
    resources: gpupool_tool="script"
    script: "describing.py"

rule short:
    input: "in/none.txt"
    output: ensure("short.json", sha256="0" * 64)
    resources: gpupool_tool="script"
    script: "describing.py"

rule kept:
    input: "in/1.txt"
    output: protected("kept.json")
    resources: gpupool_tool="script"
    script: "describing.py"

rule after:
    input: "bad.json"
    output: "after.txt"
    shell: "wc -l < {input} > {output}"

rule late:
    input: "short.json"
    output: "late.txt"
    shell: "wc -l < {input} > {output}"
"""


@pytest.mark.timeout(300)
def test_failures_and_what_follows_them(tmp_path: Path) -> None:  # S4
    files = {**INPUTS, "in/bad.txt": "alpha\nbad\n", "in/good.txt": "fine\n"}
    workflows = {
        "ours": (Workflow(tmp_path / "ours", FAILING, files), OURS),
        "local": (Workflow(tmp_path / "local", FAILING, files), LOCAL),
    }

    def both(*arguments: str) -> tuple[Finished, Finished]:
        ours, local = (w.run(*executor, *arguments) for w, executor in workflows.values())
        assert ours.code == local.code, ours.text + local.text
        assert contents(ours.directory) == contents(local.directory)
        return ours, local

    for run in both("--keep-going"):
        assert run.code == 1
        assert run.text.count("Trying to restart job") == 1
        assert not (run.directory / "bad.json").exists()
        assert (run.directory / "good.json").exists()
    for workflow, _ in workflows.values():
        (workflow.directory / "in/bad.txt").write_text("better\n")
        snakefile = (workflow.directory / "Snakefile").read_text()
        (workflow.directory / "Snakefile").write_text(
            snakefile.replace('sha256="0" * 64', "non_empty=True")
        )
    for run in both("--rerun-incomplete"):
        assert run.code == 0, run.text
    for workflow, _ in workflows.values():
        (workflow.directory / "in/good.txt").write_text("newer\n")
    for run in both("--touch"):
        assert run.code == 0, run.text
        assert "FINE" in run.read("good.json")
    for run in both("--dry-run"):
        assert "Nothing to be done" in run.text


STORED = """
storage: provider="fs"

rule up:
    input: storage.fs(config["remote"] + "/in.txt")
    output: storage.fs(config["remote"] + "/out.json"), "here.json"
    resources: gpupool_tool="script"
    script: "describing.py"
"""


def test_files_in_storage(tmp_path: Path) -> None:  # S4
    pytest.importorskip("snakemake_storage_plugin_fs")
    texts = {}
    for name, executor in (("ours", OURS), ("local", LOCAL)):
        remote = tmp_path / f"{name}-remote"
        remote.mkdir()
        (remote / "in.txt").write_text("far\n")
        workflow = Workflow(tmp_path / name, STORED, {"describing.py": DESCRIBING})
        # The plugin copies by rsync; the stand-in is used where there is none.
        path = os.pathsep.join([os.environ["PATH"], str(TOOLS / "rsync")])
        run = workflow.run(*executor, "here.json", "--config", f"remote={remote}", PATH=path)
        assert run.code == 0, run.text
        texts[name] = (remote / "out.json").read_text().replace(str(remote), "REMOTE")
        texts[name] = texts[name].replace(str(remote).lstrip("/"), "REMOTE")
        assert "FAR" in texts[name]
    assert texts["ours"] == texts["local"]
