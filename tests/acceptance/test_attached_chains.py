"""Chains of models, and what is to come, of runs whose served jobs a server does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import Finished, Workflow
from tests.acceptance.test_attached import Place
from tests.waiting import eventually

TOOLS = """
from pathlib import Path
import os, time
from snakemake_executor_gpupool import Tool

class Words(Tool):
    defaults = {"model": "m", "sleep_s": 0.0}

    def load(self, device):
        (Path(__file__).parent / "beside").read_text()
        with open(os.environ["SEEN"] + "/loads", "a") as loads:
            loads.write(f"{type(self).__name__}\\n")

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        time.sleep(self.params.sleep_s)
        while type(self) is Turn and os.path.exists(os.environ["SEEN"] + "/held"):
            time.sleep(0.02)
        with open(os.environ["SEEN"] + "/items", "a") as computed:
            computed.write("".join(f"{type(self).__name__}:{item}\\n" for item in items))
        if any("bad" in item.lower() for item in items) and type(self) is Turn:
            raise ValueError("a bad word")
        return [self.of(item) for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results) + "\\n")

class Shout(Words):
    def of(self, word):
        return word.upper()

class Turn(Words):
    def of(self, word):
        return word[::-1]

class Mark(Words):
    def of(self, word):
        return word + os.environ.get("MARK", "!")
"""
SNAKEFILE = """
N = int(config.get("n", 4))
rule all:
    input: expand("marked/{{i}}.txt", i=range(N))
rule shout:
    input: "in/{{i}}.txt"
    output: "loud/{{i}}.txt"
    params: sleep_s={sleep_s}
    resources: gpupool_tool="{tools}:Shout"
    shell: "false"
rule turn:
    input: "loud/{{i}}.txt"
    output: temp("turned/{{i}}.txt")
    resources: gpupool_tool="{turn}:Turn"
    shell: "false"
rule mark:
    input: "turned/{{i}}.txt"
    output: "marked/{{i}}.txt"
    resources: gpupool_tool="{tools}:Mark"
    shell: "false"
"""


class Chains(Place):
    """Workflows of three models in a row."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.tools = directory / "words.py"
        self.tools.write_text(TOOLS)
        self.turn = directory / "turn.py"
        self.turn.write_text(TOOLS)
        (directory / "beside").write_text("read by a path that starts at the tool")
        self.env["GPUPOOL_MANAGED_DEVICES"] = "cpu:1"

    def chains(self, name: str, words: str = "a b", sleep_s: float = 0.0) -> Workflow:
        inputs = {f"in/{i}.txt": f"{words} {name}{i}" for i in range(4)}
        snakefile = SNAKEFILE.format(tools=self.tools, turn=self.turn, sleep_s=sleep_s)
        return Workflow(self.directory / name, snakefile, inputs)


def outputs(run: Workflow | Finished) -> dict[str, bytes]:
    """All that a run has made, but for records."""
    found = [*run.directory.glob("*/*.txt"), *run.directory.glob("*/.gpupool*")]
    return {
        str(path.relative_to(run.directory)): path.read_bytes() if path.is_file() else b"directory"
        for path in found
    }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Chains]:
    there = Chains(tmp_path)
    yield there
    there.end_server()


def test_chains_of_an_attached_run_are_those_of_a_run_of_its_own(place: Chains) -> None:  # M1 G2
    own = place.run(place.chains("same"), "off")
    assert own.code == 0, own.text
    expected = outputs(own)
    figures = {name: own.summary[name] for name in ("chains_merged", "dispatches_saved")}
    assert figures["chains_merged"] and figures["dispatches_saved"], "or this shows nothing"
    own.directory.rename(own.directory.with_name("own"))

    first = place.run(place.chains("same"), "auto")
    assert first.code == 0, first.text
    assert outputs(first) == expected
    assert {name: first.summary[name] for name in figures} == figures
    assert first.summary["items_computed"] == own.summary["items_computed"]
    assert first.summary["model_loads"] == own.summary["model_loads"]
    assert len(first.events("job_read")) == len(own.events("job_read")), "others are published"
    paid_s = sum(event["device_s"] for event in first.events("job_done"))
    assert first.summary["costs"]["jobs_s"] == pytest.approx(paid_s, rel=0.01)
    told = {event["job_id"] for event in first.events("stage_done")}
    assert told == {event["job_id"] for event in own.events("stage_done")}
    assert all(e["worker"].startswith("server.") for e in first.events("stage_done"))
    run = (first.directory / ".snakemake/gpupool/latest").resolve()
    assert not list(run.glob("staged-*")), "nothing is left of what was staged"

    other = place.chains("other", "c d")
    second = place.run(other, "auto")
    assert second.code == 0, second.text
    assert second.read("marked/1.txt") == "C! D! 1REHTO!\n"
    assert second.summary["model_loads"] == 0 and second.summary["chains_merged"]
    why = place.ask(other, "why", "marked/1.txt")
    assert why.returncode == 0 and "turned/1.txt" in why.stdout, why.stderr

    # The code of the middle model is edited; the first one's was imported together with it.
    place.turn.write_text(TOOLS.replace("word[::-1]", "word[::-1].title()"))
    edited = place.run(place.chains("other", "c d"), "auto", "--forceall")
    assert edited.code == 0, edited.text
    assert edited.read("marked/1.txt") == "C! D! 1Rehto!\n"
    again = place.run(place.chains("other", "c d e"), "auto", "--forceall")
    assert again.read("marked/1.txt") == "C! D! E! 1Rehto!\n"
    assert again.summary["chains_merged"], "by a process that knows the new code"


def test_a_middle_step_that_fails_fails_alone_and_runs_find_each_others_results(  # C2
    place: Chains,
) -> None:
    made, computed = [], []
    for name, server in (("one", "off"), ("two", "auto"), ("again", "off")):
        workflow = place.chains(name, "a b" if name == "one" else "a b more")
        for path in workflow.directory.glob("in/*.txt"):
            path.write_text(path.read_text().replace(name, "w"))
        (workflow.directory / "in/2.txt").write_text("x bad y")
        (place.seen / "items").unlink(missing_ok=True)
        cache = str(place.directory / "kept")
        done = place.run(workflow, server, "--keep-going", "--gpupool-cache", cache)
        assert done.code == 1 and "a bad word" in done.text, done.text
        made.append(set(outputs(done)))
        computed.append(set(place.computed()))
    assert made[0] == made[1] == made[2]
    assert "loud/2.txt" in made[1] and "marked/2.txt" not in made[1]
    # In a row of models only the first one's results are looked up.
    shouted = {each for each in computed[1] if each.startswith("Shout")}
    assert shouted == {"Shout:more"}, "what the run without a server has left is found"
    failed = {f"Turn:{word}" for word in ("X", "BAD", "Y")}
    assert computed[2] <= failed, "and what the server has"


def test_the_server_dies_in_the_middle_of_a_chain(place: Chains) -> None:
    workflow = place.chains("here")
    held = place.seen / "held"
    held.touch()
    run = place.start(workflow, "auto")
    assert eventually(lambda: "Shout:a" in place.computed(), 60.0)
    os.kill(place.serve("--status")["pid"], signal.SIGKILL)
    held.unlink()
    text = run.communicate(timeout=120)[0]
    assert run.returncode == 0, text
    assert "served by workers of this run" in text
    assert (workflow.directory / "marked/1.txt").read_text() == "A! B! 1EREH!\n"
    assert set(outputs(workflow)) == {
        *(f"{kind}/{i}.txt" for kind in ("in", "loud", "marked") for i in range(4))
    }


def test_one_of_two_runs_with_the_same_items_is_cancelled(place: Chains) -> None:
    kept, gone = (place.chains(name, sleep_s=0.5) for name in ("kept", "gone"))
    doomed, other = place.start(gone, "auto"), place.start(kept, "auto")
    assert eventually(lambda: "Shout:a" in place.computed(), 60.0)
    doomed.send_signal(signal.SIGTERM)
    texts = [doomed.communicate(timeout=120)[0]]
    left = outputs(gone)
    texts.append(other.communicate(timeout=120)[0])
    assert doomed.returncode != 0 and other.returncode == 0, texts
    assert (kept.directory / "marked/3.txt").read_text() == "A! B! 3TPEK!\n"
    assert outputs(gone) == left, "nothing appears once it has ended"
    assert not list((gone.directory / ".snakemake/gpupool").glob("*/staged-*"))
