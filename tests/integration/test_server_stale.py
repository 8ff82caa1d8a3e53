"""A server against whatever a tool's results may depend on: an edit is seen by the next job (G4).

The cases are those of kept results. Here a process stays that has read what is edited afterwards.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_stale import CASES, DRIVER, HERE, LOADED, Case, complete, tool, write
from tests.serving import Workplace

NO_FILES = "def read(self, job): return []", "def write(self, job, results): pass"
FILES = (
    "def read(self, job): return open(job.input[0]).read().split()",
    "def write(self, job, results): open(job.output[0], 'w').write(' '.join(results))",
)
#: The server counts.
COUNTS = "open('loads', 'a').write('x')"
TABLE = "self.x=open(os.path.join(HERE, '..', 'tables', 'one' + '.txt')).read()"
LOOKS = "\n        ".join(["try: self.x=open('op' + 'tion').read()", "except OSError: self.x=''"])
MORE = {
    "a table elsewhere": Case(
        {"code/t.py": tool(LOADED, TABLE, HERE), "tables/one.txt": "1"},
        lambda: write({"tables/one.txt": "2"}),
        spec="code/t.py:T",
    ),
    "a table elsewhere that is replaced": Case(
        {"code/t.py": tool(LOADED, TABLE, HERE), "tables/one.txt": "1"},
        lambda: (write({"tables/new": "2"}), Path("tables/new").replace("tables/one.txt")),
        spec="code/t.py:T",
    ),
    "an option that is looked for": Case(
        {"t.py": tool(LOADED, LOOKS)}, lambda: write({"option": "2"})
    ),
    "a helper called as libraries call theirs": Case(
        {
            "t.py": tool("return [i + X for i in items]", imports="from triton_helper import X"),
            "triton_helper.py": "X='1'",
        },
        lambda: write({"triton_helper.py": "X='2'"}),
    ),
    "an option that is gone": Case(
        {"t.py": tool(LOADED, LOOKS), "option": "1"}, lambda: Path("option").unlink()
    ),
}
EVERY = {**CASES, **MORE}
#: Of the others static ones are seen in the source; tried by hand, all of them.
OF_JOBS = (
    *MORE,
    *("data in run", "a database", "a new file in a directory", "data of a local package"),
    *("data beside the tool, at import", "a link's target", "sitecustomize"),
)
OF_CALLS = "a table elsewhere", "an option that is looked for", "data in run", "a database"


def have_files_read(place: Path) -> None:
    """Have the tools in a directory read files, and write them."""
    for path in place.rglob("*.py"):
        before = text = path.read_text()
        for old, new in zip((*NO_FILES, COUNTS), (*FILES, "pass"), strict=True):
            text = text.replace(old, new)
        if text != before:
            path.write_text(text)


def laid_out(case: Case, place: Path) -> None:
    """Put a case's files into a directory, which is the current one afterwards."""
    place.mkdir()
    os.chdir(place)
    write(case.files)
    have_files_read(place)
    Path("in.txt").write_text("a")
    complete(case)


class Clients:
    """A client for each case, in a directory of its own, all of one server."""

    def __init__(self, work: Workplace, cases: dict[str, Case]) -> None:
        self.work, self.cases = work, cases
        self.settings = dict.fromkeys(cases, "1")
        self.places = {name: work.directory / f"c{n}" for n, name in enumerate(cases)}

    def commands(self, server: str) -> dict[str, list[str]]:
        def command(case: Case) -> list[str]:
            params = [word for pair in case.params.items() for word in ("--param", "=".join(pair))]
            files = "--input", "in.txt", "--output", "out.txt"
            return self.work.command("run", case.spec, *files, *params, "--server", server)

        return self.results({name: command(case) for name, case in self.cases.items()}, "out.txt")

    def calls(self, way: str) -> dict[str, str]:
        driver = DRIVER.replace('devices="cpu:1", cache="cache"', 'server="auto"')

        def command(case: Case) -> list[str]:
            words = [json.dumps(each) for each in (case.spec, ["a"], case.params)]
            return [sys.executable, "-c", driver, way, *words]

        return self.results({name: command(case) for name, case in self.cases.items()}, "")

    def results(self, commands: dict[str, list[str]], output: str) -> dict[str, str]:
        """Run a command for each case, a few at a time; return what each has computed."""
        found = {}
        names = list(commands)
        for some in (names[n : n + 8] for n in range(0, len(names), 8)):
            processes = {}
            for name in some:
                place = self.places[name]
                variables = {"PYTHONPATH": str(place), "MY_SETTING": self.settings[name]}
                processes[name] = subprocess.Popen(
                    commands[name],
                    cwd=place,
                    env={**self.work.env, **variables},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            for name, process in processes.items():
                out, words = process.communicate(timeout=120)
                assert process.returncode == 0, (name, words)
                assert "cold" not in words, (name, words)
                found[name] = (self.places[name] / output).read_text() if output else out
        return found


@pytest.mark.parametrize("is_call", [False, True], ids=["jobs", "calls"])
def test_an_edit_of_anything_that_a_tool_reads_is_seen_by_the_next_job(
    work: Workplace, monkeypatch: pytest.MonkeyPatch, is_call: bool
) -> None:  # G4
    monkeypatch.chdir(work.directory)
    monkeypatch.setenv("MY_SETTING", "1")
    cases = {name: EVERY[name] for name in (OF_CALLS if is_call else OF_JOBS)}
    clients = Clients(work, cases)
    for name, case in cases.items():
        laid_out(case, clients.places[name])
    ways = (clients.calls, "pool", "cold") if is_call else (clients.commands, "auto", "off")
    run, warm, cold = ways
    first = run(warm)
    loads = work.status()["loads"]
    assert run(warm) == first
    assert work.status()["loads"] == loads, "nothing is kept warm"
    for name, case in cases.items():
        os.chdir(clients.places[name])
        monkeypatch.setenv("MY_SETTING", "1")  # one of them sets it, for itself
        case.edit()
        have_files_read(Path())
        clients.settings[name] = os.environ["MY_SETTING"]
    now, right = run(warm), run(cold)
    assert {name for name in cases if right[name] == first[name]} == set(), "edits change nothing"
    assert now == right
