"""Runs whose served jobs a server does: warm, shared, and each with records of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.running import Finished, Workflow
from tests.waiting import eventually

TOOL = """
from pathlib import Path
import os, time
from snakemake_executor_gpupool import Tool

class Shout(Tool):
    defaults = {"model": "m", "sleep_s": 0.0, "mark": "!"}
    devices = ("cuda", "cpu")

    def load(self, device):
        with open(os.environ["SEEN"] + "/loads", "a") as loads:
            loads.write(f"{os.getpid()}\\n")

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def batch_tokens(self, device):
        return 4

    def tokens(self, item):
        return 1

    def run(self, items):
        time.sleep(self.params.sleep_s)
        with open(os.environ["SEEN"] + "/items", "a") as computed:
            computed.write("".join(f"{item}\\n" for item in items))
        if "bad" in items:
            raise ValueError("a bad word")
        return [item.upper() for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results) + job.params.mark + "\\n")
"""
SNAKEFILE = """
N = int(config.get("n", 4))
rule all:
    input: expand("out/{{i}}.txt", i=range(N))
rule shout:
    input: "in/{{i}}.txt"
    output: "out/{{i}}.txt"
    resources: gpupool_tool="{tool}"
    params: sleep_s={sleep_s}, sample=lambda wildcards: wildcards.i
    shell: "false"
"""

COMMAND = (sys.executable, "-m", "snakemake_executor_gpupool.frontends.commandline.main")


class Place:
    """Workflows with one tool, and the server that is theirs alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tool = directory / "shout.py"
        self.tool.write_text(TOOL)
        # A directory: a file that a variable of the tool's names counts as its code.
        self.seen = directory / "seen"
        self.seen.mkdir()
        profile = str(directory / "profile.json")  # part of which server is meant
        self.env = {"SEEN": str(self.seen), "GPUPOOL_PROFILE": profile}

    def workflow(
        self, name: str, words: str = "a b", sleep_s: float = 0.0, last: str = ""
    ) -> Workflow:
        """A workflow of four jobs, the last of which shares all its words with the first."""
        inputs = {f"in/{i}.txt": f"{words} {name if i == 1 else i % 3}{last}" for i in range(4)}
        snakefile = SNAKEFILE.format(tool=f"{self.tool}:Shout", sleep_s=sleep_s)
        return Workflow(self.directory / name, snakefile, inputs)

    def run(self, workflow: Workflow, server: str, *more: str, **env: str) -> Finished:
        return workflow.run("--gpupool-server", server, *more, **self.env, **env)

    def start(self, workflow: Workflow, server: str, *more: str) -> subprocess.Popen[str]:
        return workflow.start("--gpupool-server", server, *more, **self.env)

    def serve(self, *words: str, **env: str) -> dict[str, Any]:
        workflow = self.workflow("any")
        done = subprocess.run(
            [*COMMAND, "serve", *words, "--json"],
            env=workflow.environment(**self.env, **env),
            capture_output=True,
            text=True,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout or "{}")
        return answer

    def ask(self, workflow: Workflow, *words: str) -> subprocess.CompletedProcess[str]:
        """Run gpupool's command line in a workflow's directory; what it computes is not counted."""
        apart = self.directory / "apart"
        apart.mkdir(exist_ok=True)
        return subprocess.run(
            [*COMMAND, *words],
            cwd=workflow.directory,
            env=workflow.environment(**{**self.env, "SEEN": str(apart)}),
            capture_output=True,
            text=True,
            check=False,
        )

    def end_server(self) -> None:
        """End the server, if there is one, and see that it ends."""
        pid = self.serve("--status").get("pid")
        if pid:
            os.kill(pid, signal.SIGTERM)
            assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 30.0)

    def kill_server(self) -> None:
        """Kill the server that has loaded a model last, at once: to ask for it takes a second."""
        server = psutil.Process(int(self._lines("loads")[-1])).parent()
        assert server is not None
        server.kill()

    def n_loads(self) -> int:
        return len(self._lines("loads"))

    def computed(self) -> list[str]:
        return self._lines("items")

    def _lines(self, name: str) -> list[str]:
        path = self.seen / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    there = Place(tmp_path)
    yield there
    there.end_server()


def test_a_second_run_finds_all_loaded_and_edited_code_is_new(place: Place) -> None:  # G1 G4
    first, second = place.workflow("first"), place.workflow("second", "c d")
    refused = place.run(first, "on")
    assert refused.code == 1 and "there is none" in refused.text
    assert place.n_loads() == 0, "it does not go on without"
    begun = place.run(first, "auto")
    assert begun.code == 0, begun.text
    assert begun.read("out/1.txt") == "A B FIRST!\n"
    assert (begun.summary["model_loads"], begun.summary["items_computed"]) == (1, 5)

    status = place.serve("--status")
    os.umask(mask := os.umask(0o022))
    done = place.run(second, f"{status['directory']}/socket")
    assert done.code == 0, done.text
    assert done.read("out/1.txt") == "C D SECOND!\n"
    assert (second.directory / "out/1.txt").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (done.summary["model_loads"], place.n_loads()) == (0, 1)
    served = done.summary
    assert (served["jobs_served"], served["items"], served["items_computed"]) == (4, 12, 3)
    assert served["costs"]["jobs_s"] > 0
    assert {event["job_id"] for event in done.events("job_done")} == {1, 2, 3, 4}
    assert done.read(".snakemake/gpupool/latest/jobs.tsv").count("COMPLETED") == 4
    why = place.ask(second, "why", "out/1.txt")
    assert why.returncode == 0 and "shout" in why.stdout and "in/1.txt" in why.stdout, why.stderr
    for workflow in (first, second):  # the second's first file has been computed for the first's
        verified = place.ask(workflow, "verify", "out/0.txt", "out/1.txt")
        assert verified.returncode == 0 and "2 agree" in verified.stdout, verified.stdout

    place.tool.write_text(TOOL.replace("item.upper()", "item.title()"))
    edited = place.run(second, "on", "--forceall")
    assert edited.code == 0, edited.text
    assert edited.read("out/1.txt") == "C D Second!\n"
    assert (edited.summary["model_loads"], place.n_loads()) == (1, 2)


def test_two_runs_at_once_share_and_one_that_ends_takes_none_of_the_other_s(  # G2
    place: Place,
) -> None:
    place.env["GPUPOOL_MANAGED_DEVICES"] = "cpu:1"
    runs = [place.workflow(name, sleep_s=0.3) for name in ("one", "two")]
    gone = place.workflow("gone", "x y", sleep_s=0.3, last="z")
    processes = [place.start(each, "auto") for each in runs]
    doomed = place.start(gone, "auto")
    assert eventually(lambda: bool({"x", "y"} & set(place.computed())), 60.0)
    doomed.send_signal(signal.SIGTERM)
    texts = [process.communicate(timeout=120)[0] for process in (*processes, doomed)]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert doomed.returncode != 0
    computed = place.computed()
    assert len(computed) == len(set(computed)), "each distinct item once in all"
    assert place.n_loads() == 1
    summaries = [Finished(each.directory, 0, "").summary for each in runs]
    assert [each["jobs_served"] for each in summaries] == [4, 4]
    ours = {"a", "b", "0", "1", "2", "one", "two"} & set(computed)
    assert sum(each["items_computed"] for each in summaries) == len(ours) == 6
    left = {path.name for path in (gone.directory / "out").glob("*")}
    time.sleep(1.0)
    assert {path.name for path in (gone.directory / "out").glob("*")} == left
    assert not list(gone.directory.glob("out/.*"))


@pytest.mark.parametrize("server", ["auto", "on"])
def test_a_server_that_is_killed(place: Place, server: str) -> None:
    workflow = place.workflow("here", sleep_s=0.5)
    if server == "on":
        place.run(place.workflow("before", "z"), "auto")
    run = place.start(workflow, server)
    assert eventually(lambda: {"a", "b"} & set(place.computed()) != set(), 60.0)
    place.kill_server()
    text = run.communicate(timeout=120)[0]
    if server == "auto":
        assert run.returncode == 0, text
        assert "served by workers of this run" in text
        assert (workflow.directory / "out/1.txt").read_text() == "A B HERE!\n"
        assert Finished(workflow.directory, 0, text).summary["jobs_served"] == 4
    else:
        assert run.returncode == 1
        assert "--gpupool-server auto would go on without" in text
    assert not list(workflow.directory.glob("out/.*"))


def test_a_lease_does_not_wait_for_an_idle_model(place: Place) -> None:
    one = {"GPUPOOL_SIMULATE": "1x16GiB"}
    warm = place.run(place.workflow("warm"), "auto", **one)
    assert warm.code == 0 and warm.summary["devices"]["cuda:0"]["busy_s"] > 0, warm.text
    snakefile = """
    rule train:
        output: "out/trained"
        resources: gpu=1
        shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
    """
    leased = place.run(Workflow(place.directory / "lease", snakefile), "auto", **one)
    assert leased.code == 0, leased.text
    (wanted,), (granted,) = leased.events("lease_requested"), leased.events("lease_granted")
    assert granted["time_s"] - wanted["time_s"] < 10


MARKED = """
from pathlib import Path
from snakemake_executor_gpupool import Tool

class Mark(Tool):
    def load(self, device):
        path = Path(self.params.model)
        self.mark = path.read_text() if path.exists() else " has no mark"

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [item + self.mark for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results))
"""


def test_weights_are_those_of_the_run_whose_rule_names_them_by_a_relative_path(  # G1
    place: Place,
) -> None:
    place.tool.write_text(MARKED)
    snakefile = f"""
    from pathlib import Path
    rule mark:
        input: "in"
        output: "out"
        params: model=Path("marks/mine")
        resources: gpupool_tool="{place.tool}:Mark"
        shell: "false"
    """
    for mark in "?!":
        files = {"in": "a b", "marks/mine": mark}
        done = place.run(Workflow(place.directory / f"run{ord(mark)}", snakefile, files), "auto")
        assert done.code == 0, done.text
        assert done.read("out") == f"a{mark} b{mark}"
