"""Logger plugins (``--logger``) hear of jobs what they hear under the local executor."""

from __future__ import annotations

import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.running import LOCAL, Workflow

#: Writes each record that has an event as a line of JSON.
PLUGIN = """
import json, os, time
from snakemake_interface_logger_plugins.base import LogHandlerBase

NAMES = "jobs jobid job_id rule_name rule_msg threads input output log benchmark wildcards".split()
NAMES += "shellcmd printshellcmd priority is_checkpoint is_handover".split()

class LogHandler(LogHandlerBase):
    def __post_init__(self):
        self.file = open(os.environ["RECORDED"], "w", buffering=1)

    def emit(self, record):
        if getattr(record, "event", None) is None:
            return
        fields = {name: getattr(record, name) for name in NAMES if hasattr(record, name)}
        fields.update(event=record.event.value, text=record.getMessage(), time_s=record.created)
        if hasattr(record, "resources"):
            fields["resources"] = dict(record.resources.items())
        self.file.write(json.dumps(fields, default=str) + chr(10))

    writes_to_stream = writes_to_file = needs_rulegraph = property(lambda self: False)
    has_filter = has_formatter = property(lambda self: True)
"""
SNAKEFILE = """
rule all:
    input:
        "out/a.txt", "out/bad.txt", "gpu/a.txt", "gpu/bad.txt", "plain.txt", "last.txt", "end.txt"

rule served:
    input: "in/{name}.txt"
    output: "out/{name}.txt"
    benchmark: "bench/{name}.tsv"
    message: "Serves {wildcards.name} of {output} by {threads}"
    threads: 2
    resources: gpupool_tool="textual.py"
    shell: "gpupool run textual.py --input {input} --output {output}"

rule gpu:
    output: "gpu/{name}.txt"
    log: "logs/{name}.log"
    resources: gpu=1
    shell: "sleep 0.5; [ {wildcards.name} != bad ] && touch {output} 2> {log}"

rule plain:
    output: "plain.txt"
    shell: "touch {output}"

rule first:
    output: "first.txt"
    group: "good"
    resources: gpu=1
    shell: "touch {output}"

rule last:
    input: "first.txt"
    output: "last.txt"
    group: "good"
    shell: "touch {output}"

rule begin:
    output: "begin.txt"
    group: "bad"
    resources: gpu=1
    shell: "touch {output}"

rule end:
    input: "begin.txt"
    output: "end.txt"
    group: "bad"
    shell: "exit 3"
"""


def records(workflow: Workflow, name: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a workflow, and return what a logger plugin was given."""
    path = workflow.directory / f"{name}.jsonl"
    environment = {"PYTHONPATH": str(workflow.directory / "plugin"), "RECORDED": str(path)}
    asked = "--logger", "recording", "--keep-going", "--printshellcmds"
    done = workflow.run(*asked, *arguments, **environment, GPUPOOL_SIMULATE="1")
    assert done.code == 1, done.text
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_job(recorded: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each job, those of its being handed out left aside."""
    titles: dict[Any, str] = {}
    of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in recorded:
        if record["event"] == "job_info":
            titles[record["jobid"]] = f"{record['rule_name']} {record['wildcards']}"
        numbers = record.get("jobs") or [record.get("jobid", record.get("job_id"))]
        for number in numbers if isinstance(numbers, list) else ():
            if number in titles and record["event"] != "shellcmd":
                of[titles[number]].append(record)
    return of


def commands(recorded: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the shell commands that are told by themselves, in order."""
    told = [record for record in recorded if record["event"] == "shellcmd"]
    return sorted((record["text"], record["shellcmd"]) for record in told)


def test_plugins_hear_what_they_hear_under_the_local_executor(tmp_path: Path) -> None:
    files = {"plugin/snakemake_logger_plugin_recording/__init__.py": PLUGIN}
    inputs = {"in/a.txt": "one\ntwo\n", "in/bad.txt": "fine\nbad\n"}
    local = Workflow(tmp_path / "local", SNAKEFILE, files | inputs)
    pool = Workflow(tmp_path / "pool", SNAKEFILE, files | inputs)
    told_locally = records(local, "local", *LOCAL)
    expected = by_job(told_locally)
    if not expected and int(version("snakemake-interface-logger-plugins").partition(".")[0]) < 2:
        pytest.skip("under this interface the plugin hears nothing from the local executor either")
    recorded = records(pool, "pool")
    seen = by_job(recorded)

    assert seen.keys() == expected.keys() and len(seen) == 9
    for title, there in seen.items():
        here, described = expected[title][0], there[0]
        assert [record["event"] for record in there[:2]] == ["job_info", "job_started"], title
        passing = "text", "time_s", "jobid"
        assert {n: described[n] for n in described if n not in passing} == {
            n: here[n] for n in here if n not in passing
        }
        ends = [record["event"] for record in there[2:]]
        # A group fails as a whole: its members' outputs are removed.
        wanted = ["job_error"] if title == "begin {}" else [expected[title][-1]["event"]]
        assert ends == wanted, title

    assert commands(recorded) == commands(told_locally) and len(commands(recorded)) == 9

    # The second GPU job waits for the first one, and its duration does not have that wait in it.
    spans = [(j[1]["time_s"], j[-1]["time_s"]) for t, j in seen.items() if t.startswith("gpu ")]
    (_, first_end_s), (second_start_s, _) = sorted(spans)
    assert second_start_s > first_end_s - 0.4
    errors = [record["text"] for record in recorded if record["event"] == "error"]
    assert sum("this line is bad" in text for text in errors) == 1
    assert any("exit status 3" in text for text in errors)
    assert any("ended with exit code 1" in text for text in errors)
