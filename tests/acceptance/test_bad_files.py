"""Files that are not what they should be, through the real Snakemake (W9).

Many bad jobs and some good ones share one run. Each bad job fails alone, with its rule, its
wildcards, the file and what to do; nothing half-written is left; after the fix, another run
does just what is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.acceptance.running import TOOLS, Finished, Workflow

SNAKEFILE = """
import json
UP, EMBED = json.load(open("up.json")), json.load(open("embed.json"))

rule all:
    input: [f"out/{name}.up" for name in UP], "-dash.here", [f"out/{name}" for name in EMBED]

rule up:
    input: "in/{name}.txt"
    output: "out/{name}.up"
    log: "logs/{name}.log"
    wildcard_constraints: name=r"(?s:.+)"
    params:
        more_bytes=lambda wildcards: (2 << 20) * wildcards.name.startswith("full/"),
        most_bytes=lambda wildcards: 4 if wildcards.name == "limit" else -1,
    resources: gpupool_tool="mishap.py:Lines"
    shell: "exit 1"

rule here:
    input: "in/good.txt"
    output: "-{name}.here"
    resources: gpupool_tool="mishap.py:Lines"
    shell: "exit 1"

rule embed:
    input: fasta="in/{name}.fasta"
    output: embeddings="out/{name}.{suffix}"
    wildcard_constraints: suffix="npz|pt|parquet", name=r"(?s:.+)"
    params: model="CHECKPOINT", pool="per_token"
    resources: gpupool_tool="mishap.py:Embed"
    shell: "exit 1"
"""
#: Names that a file may have. The last is long, and so is that of its hidden staging directory.
ODD = [
    "two words",
    "quo'te\"s",
    "new\nline",
    "蛋白 é",
    "$HOME `x` %s",
    "".join(f"{n:04}" for n in range(50)),
]
#: What happens to files between submission and reading.
SPOIL = """
for kind in txt fasta; do
    rm in/deleted.$kind in/fifo.$kind in/dangling.$kind in/directory.$kind
    mkfifo in/fifo.$kind
    ln -s nowhere in/dangling.$kind
    mkdir in/directory.$kind
done
mkfifo out/fifo-out.up logs/log.log
ln -s nowhere out/dangling-out.up
mkdir -p out/directory-out.up/x
rmdir out/blocked; echo > out/blocked
"""
SPOIL_MOUNTED = "mount -o remount,ro out/readonly\n"
#: Each bad job's wildcard, and what its message must say.
BAD_UP = {
    "deleted": "input in/deleted.txt is not there: was it removed after the run had started?",
    "fifo": "input in/fifo.txt is a pipe or a socket",
    "dangling": "input in/dangling.txt is a link to nowhere, which does not exist",
    "directory": "input in/directory.txt cannot be read: Is a directory",
    "directory-out": "output out/directory-out.up cannot be written: Is a directory; remove",
    "blocked/x": "output out/blocked/x.up cannot be written",
    "limit": "output out/limit.up cannot be written: File too large; raise the limit",
    "log": "log logs/log.log cannot be written",
}
BAD_UP_MOUNTED = {
    "readonly/x": "output out/readonly/x.up cannot be written: Read-only file system",
    "full/x": "output out/full/x.up cannot be written: No space left on device; make room",
}
BAD_EMBED = {
    "deleted.npz": "in/deleted.fasta is not there: was it removed",
    "fifo.npz": "in/fifo.fasta is a pipe",
    "dangling.npz": "in/dangling.fasta is a link to nowhere, which does not exist",
    "directory.npz": "in/directory.fasta is a directory; expected a FASTA file",
}
BAD_EMBED_MOUNTED = {
    f"{place}/x.{suffix}": f"output out/{place}/x.{suffix} cannot be written: {why}"
    for place, why in (
        ("readonly", "Read-only file system"),
        ("full", "No space left on device; make room"),
    )
    for suffix in ("npz", "pt", "parquet")
}
GOOD_UP = ["good", "fifo-out", "dangling-out", *ODD]
GOOD_EMBED = [f"{name}.npz" for name in ("good", *ODD)] + ["good.pt", "good.parquet"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[bool]:
    """A full and a read-only file system among the outputs, where mounting is allowed."""
    points = {"full": "size=64k", "readonly": "size=1m"}
    done = []
    for name, options in points.items():
        point = tmp_path / "out" / name
        point.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "gpupool-test", str(point)]
        is_there = shutil.which("mount") is not None
        if is_there and not subprocess.run(command, check=False, capture_output=True).returncode:
            done.append(point)
            # Snakemake removes empty directories at the end, which a mount point refuses.
            (point / ".keep").touch()
    yield len(done) == len(points)
    for point in done:
        subprocess.run(["umount", "--lazy", str(point)], check=False)


def make_inputs(directory: Path, up: list[str], embed: list[str]) -> None:
    for name in up:
        path = directory / f"in/{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name!r}\n")
    for name in embed:
        path = directory / f"in/{name.rpartition('.')[0]}.fasta"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(">a\n" + "MKTAYIAKQR" * 90 + "\n>b\nGAVLIPFW\n")


def leftovers(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob(".gpupool-*")]


def check_good(done: Finished, up: list[str], embed: list[str]) -> None:
    for name in up:
        assert (done.directory / f"out/{name}.up").read_text().startswith("THE TEXT OF"), name
    assert (done.directory / "-dash.here").read_text() == "THE TEXT OF 'GOOD'.plain\n"
    for name in embed:
        path = done.directory / "out" / name
        assert path.stat().st_size > 100_000, name
        if name.endswith(".npz"):
            with np.load(path) as arrays:
                assert arrays["a"].shape == (900, 40)
    assert leftovers(done.directory) == []


def test_bad_files_fail_their_own_jobs_and_a_second_run_does_the_rest(
    tmp_path: Path, mounted: bool
) -> None:  # W9 P9
    bad_up = BAD_UP | (BAD_UP_MOUNTED if mounted else {})
    bad_embed = BAD_EMBED | (BAD_EMBED_MOUNTED if mounted else {})
    up, embed = [*bad_up, *GOOD_UP], [*bad_embed, *GOOD_EMBED]
    checkpoint = write_seeded_checkpoint(tmp_path, layers=2, width=40, heads=20, seed=7)
    files = {
        "up.json": json.dumps(up),
        "embed.json": json.dumps(embed),
        "spoil.sh": SPOIL + SPOIL_MOUNTED * mounted,
        "jobs.txt": str(len(up) + len(embed) + 1),
    }
    workflow = Workflow(tmp_path, SNAKEFILE.replace("CHECKPOINT", str(checkpoint)), files)
    shutil.copy(TOOLS / "mishap.py", tmp_path)
    make_inputs(tmp_path, up, embed)

    done = workflow.run("--keep-going", "--gpupool-devices", "cpu:1")

    assert done.code == 1
    failed = {event["job"]: event["error"] for event in done.events("job_failed")}
    expected = {f"rule up (name={name})": said for name, said in bad_up.items()}
    for name, said in bad_embed.items():
        stem, _, suffix = name.rpartition(".")
        expected[f"rule embed (name={stem}, suffix={suffix})"] = said
    assert set(failed) == set(expected), done.text
    for title, said in expected.items():
        assert failed[title].startswith(f"{title}: ") and said in failed[title]
        assert failed[title] in done.text
        assert "Traceback" not in failed[title]
    check_good(done, GOOD_UP, GOOD_EMBED)
    for name in bad_up:
        assert name == "directory-out" or not (tmp_path / f"out/{name}.up").exists()
    for name in bad_embed:
        assert not (tmp_path / f"out/{name}").exists()

    repair(tmp_path, mounted)
    make_inputs(tmp_path, list(bad_up), list(bad_embed))
    again = workflow.run("--gpupool-devices", "cpu:1")
    assert again.code == 0, again.text
    assert again.summary["jobs_served"] == len(expected)
    check_good(again, up, embed)
    if not mounted:
        pytest.skip("mounting is not allowed: a full and a read-only disk were left out")


def repair(directory: Path, mounted: bool) -> None:
    """Put right what was wrong."""
    (directory / "spoil.sh").unlink()
    for kind in ("txt", "fasta"):
        (directory / f"in/directory.{kind}").rmdir()
        for name in ("fifo", "dangling"):
            (directory / f"in/{name}.{kind}").unlink()
    (directory / "logs/log.log").unlink()
    (directory / "out/blocked").unlink()
    shutil.rmtree(directory / "out/directory-out.up", ignore_errors=True)
    snakefile = directory / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("4 if wildcards", "-1 if wildcards"))
    if mounted:
        for name in ("full", "readonly"):
            subprocess.run(["umount", str(directory / "out" / name)], check=True)
