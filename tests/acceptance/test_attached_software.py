"""``conda:`` and ``container:`` rules of runs whose served jobs a server does."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests import containers
from tests.acceptance.running import Finished, Workflow
from tests.acceptance.test_attached import Place
from tests.acceptance.test_environments import WITH_CONDA, make_environment
from tests.containers import make_image, make_root, with_apptainer

pytestmark = pytest.mark.skipif(bool(containers.why_not()), reason=containers.why_not())

TOOL = """
import os
import sys
from pathlib import Path
from snakemake_executor_gpupool import Tool

class Where(Tool):
    def load(self, device):
        try:
            from onlyhere import VERSION
        except ImportError:
            VERSION = "nothing"
        self.place = f"{VERSION} in {os.environ.get('LABEL', 'no image')}"

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [f"{item}: {self.place}" for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("\\n".join(results))
"""
SNAKEFILE = """
rule all:
    input: "env.txt", "box.txt"
rule env:
    input: "in.txt"
    output: "env.txt"
    conda: config["prefix"]
    resources: gpupool_tool="where.py:Where"
    script: "where.py"
rule box:
    input: "in.txt"
    output: "box.txt"
    container: "image.sif"
    resources: gpupool_tool="where.py:Where"
    script: "where.py"
"""


def test_software_of_rules_is_kept_warm_by_the_server_and_never_taken_for_another(
    tmp_path: Path,
) -> None:  # S5 K1 G2 G4
    prefix = tmp_path / "prefixes" / "first"
    make_environment(sys.executable, prefix)
    root = make_root(tmp_path / "root")
    workflow = Workflow(tmp_path / "work", SNAKEFILE, {"in.txt": "a b", "where.py": TOOL})
    image = make_image(workflow.directory / "image.sif", root, LABEL="one")
    place = Place(tmp_path)
    path = os.pathsep.join([WITH_CONDA["PATH"].split(os.pathsep)[0], with_apptainer()["PATH"]])

    def run(name: str) -> Finished:
        done = place.run(
            workflow, "auto", "--sdm", "conda", "apptainer", "--forceall",
            "--config", f"prefix={prefix}", PATH=path,
        )  # fmt: skip
        assert done.code == 0, done.text
        workers = {e["worker"] for e in done.events() if e.get("worker")}
        assert workers and all(each.startswith("server.") for each in workers), done.text
        return done

    try:
        first = run("first")
        assert first.read("env.txt").startswith("a: package of first in no image")
        assert first.read("box.txt").startswith("a: nothing in one")
        assert first.summary["model_loads"] == 2
        assert run("second").summary["model_loads"] == 0

        shutil.rmtree(prefix)
        make_environment(sys.executable, prefix)
        package = next(prefix.glob("lib/python3*/site-packages")) / "onlyhere.py"
        package.write_text("VERSION = 'another'\n")
        make_image(image, root, LABEL="two")
        third = run("third")
        assert third.read("env.txt").startswith("a: another in no image")
        assert third.read("box.txt").startswith("a: nothing in two")
        assert third.summary["model_loads"] == 2
    finally:
        place.end_server()
