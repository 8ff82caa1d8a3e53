"""Where a tool's words go, served and cold (S4)."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance.running import LOCAL, Workflow

TOOL = """
import os
import sys
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Wordy(Tool):
    defaults = {"model": "m"}

    def load(self, device):
        print("load", self.params.model)

    def read(self, job):
        print("read", job.wildcards.name, file=sys.stderr)
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        os.system(f"echo run {len(items)}")
        return [item.upper() for item in items]

    def write(self, job, results):
        print("write", job.wildcards.name)
        Path(job.output[0]).write_text(" ".join(results))


Wordy.main(snakemake)
"""

SNAKEFILE = """
rule all:
    input: expand("out/{i}.txt", i=range(6))

rule wordy:
    input: "in/{name}.txt"
    output: "out/{name}.txt"
    log: "logs/{name}.log"
    resources: gpupool_tool="script"
    script: "wordy.py"
"""


def test_what_a_tool_prints_is_where_its_jobs_log_says(tmp_path: Path) -> None:  # S4 P11
    files = {"wordy.py": TOOL, **{f"in/{i}.txt": f"word{i}\n" for i in range(6)}}
    ours = Workflow(tmp_path / "ours", SNAKEFILE, files)
    run = ours.run("--jobs", "2", "--cores", "2", "--gpupool-devices", "cpu:1")
    assert run.code == 0, run.text
    printed = ""
    for number in range(6):
        read, line, write = run.read(f"logs/{number}.log").splitlines()
        assert (read, write) == (f"read {number}", f"write {number}")
        found = re.fullmatch(
            r"gpupool: 1 items, 1 distinct, computed by \S+ \(what load and run print is in (.+)\)",
            line,
        )
        assert found is not None, line
        printed = run.read(found[1])
    assert printed.count("load m") == 1 and "run 1" in printed and "write" not in printed
    assert run.text.count("--jobs 2 lets Snakemake hand out only 2 jobs at a time") == 1

    local = Workflow(tmp_path / "local", SNAKEFILE, files)
    cold = local.run(*LOCAL, "out/3.txt")
    assert cold.code == 0, cold.text
    assert cold.read("logs/3.log").splitlines() == ["read 3", "load m", "run 1", "write 3"]
