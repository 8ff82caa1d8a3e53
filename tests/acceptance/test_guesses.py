"""What runs ahead of Snakemake gives what the local executor gives, to the byte (M1, M5).

The tool makes something of all that it is told: of the text of paths, of files that lie there from
an earlier run, of resources. The local executor says what is right.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.running import LOCAL, TOOLS, Workflow

SNAKEFILE = """
ROWS = ["plain", "asks_read", "asks_write", "x=1, y=2", "folder", "flags", "local", "book", "out"]
localrules: here

rule all:
    input:
        expand("end/{row}/deep/result.txt", row=[r for r in ROWS if r not in ("local", "book")]),
        "end/local.txt", "book.txt", "pair/1, y=2/3.txt", "pair/1/2, y=3.txt",
        "tree", "eert", "books", "from_pipe.txt",

def asks(wildcards):
    return wildcards.row.removeprefix("asks_") if wildcards.row.startswith("asks_") else ""

rule first:
    input: "in/{row}.txt"
    output: "mid/{row}/one.txt", touch("mid/{row}/first.flag")
    log: "logs/{row}/first.log"
    params: model="m1"
    resources: gpupool_tool="script", mem_mb=123
    script: "telling.py"

rule second:
    input: "mid/{row}/one.txt", "in/{row}.txt"
    output: "mid/{row}/two.txt", "mid/{row}/two.more", touch("mid/{row}/second.flag")
    log: "logs/{row}/second.log", by_hand="logs/{row}/second.hand.log"
    params: model="m2", asks=asks, paths=lambda wildcards, input, output: [input[0], output[1]]
    threads: 2
    resources: gpupool_tool="script", mem_mb=lambda wildcards, input: 100 + len(input)
    script: "telling.py"

rule third:
    input: a="mid/{row}/two.txt", b="in/{row}.txt"
    output: "end/{row}/deep/result.txt"
    params: model="m3", asks=asks
    resources: gpupool_tool="script", mem_mb=123
    script: "telling.py"

rule here:
    input: "mid/local/two.txt"
    output: "end/local.txt"
    resources: gpupool_tool="script"
    shell: "cp {input} {output}"

rule book:
    input: "mid/book/two.txt"
    output: update("book.txt")
    params: model="m3"
    resources: gpupool_tool="script"
    script: "telling.py"

rule pair_first:
    input: "in/pair.txt"
    output: "pair_first/{x}/{y}.txt"
    params: model="m1"
    resources: gpupool_tool="script"
    script: "telling.py"

rule pair:
    input: "pair_first/{x}/{y}.txt"
    output: "pair/{x}/{y}.txt"
    params: model="m2"
    resources: gpupool_tool="script"
    script: "telling.py"

rule tree:
    input: "in/plain.txt"
    output: "tree/deep/one.txt", directory("tree"), "tree/two.txt"
    resources: gpupool_tool="script"
    script: "telling.py"

rule eert:
    input: "in/plain.txt"
    output: "eert/deep/one.txt", "eert/two.txt", directory("eert")
    resources: gpupool_tool="script"
    script: "telling.py"

rule books:
    input: "in/plain.txt"
    output: "index.txt", update(directory("books"))
    resources: gpupool_tool="script"
    script: "telling.py"

rule into_pipe:
    input: "in/plain.txt"
    output: pipe("pipe")
    resources: gpupool_tool="telling.py:Telling"
    script: "telling.py"

rule from_pipe:
    input: "pipe"
    output: "from_pipe.txt"
    shell: "sort {input} > {output}"
"""

ROWS = ("plain", "asks_read", "asks_write", "x=1, y=2", "folder", "flags", "local", "book", "out")
FILES = {
    **{f"in/{row}.txt": f"line of {row}\n" for row in (*ROWS, "pair")},
    "telling.py": (TOOLS / "telling.py").read_text(),
    # Of an earlier run: to be made anew, and not to be met meanwhile.
    **{f"mid/{row}/two.txt": "old\n" for row in ROWS},
    **{f"end/{row}/deep/result.txt": "old\n" for row in ROWS if row not in ("local", "book")},
    "book.txt": "old\n",
    "books/old.txt": "old\n",
}


def contents(directory: Path) -> dict[str, str]:
    """All files but Snakemake's own and logs that our worker writes to."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".snakemake" not in path.parts and not path.match("*t.log")
        if not path.match("logs/*/second.log")
    }


@pytest.mark.timeout(300)
def test_what_ran_ahead_is_what_the_local_executor_makes(tmp_path: Path) -> None:  # M1 M5 S4
    ours = Workflow(tmp_path / "ours", SNAKEFILE, FILES)
    local = Workflow(tmp_path / "local", SNAKEFILE, FILES)
    run = ours.run("--cores", "2", "--forceall", "--gpupool-devices", "cpu:1")
    expected = local.run(*LOCAL, "--forceall", timeout_s=280)
    assert (run.code, expected.code) == (0, 0), run.text + expected.text
    found, wanted = contents(ours.directory), contents(local.directory)
    assert found.keys() == wanted.keys()
    for path in wanted:
        assert found[path] == wanted[path], path
    assert wanted["book.txt"].startswith("old\n")
    assert {"books/new", "books/old.txt"} <= set(wanted)
    assert "rule into_pipe reads or writes a pipe" in run.text

    done = [event["job"] for event in run.events("job_done")]
    assert len(done) == 33
    told = run.events("stage_done")
    # Those that asked went on the ordinary way; so did what follows to be updated, or is local.
    assert {e["job"] for e in told if e["stage"] == 2} == {
        f"rule third (row={row})"
        for row in ROWS
        if row in ("plain", "x=1, y=2", "folder", "flags", "out")
    }
    assert not [e for e in told if "rule book" in e["job"] or "rule here" in e["job"]]
    saved = run.summary["dispatches_saved"]
    assert saved == sum(e["stage"] > 0 for e in told), "what ran ahead is used, all of it"
    assert run.summary["guesses_unclaimed"] == 0
