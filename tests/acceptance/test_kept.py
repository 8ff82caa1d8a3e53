"""What lies on disk between runs, attacked and without room, with real snakemake (P5, W9)."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.running import Finished, Workflow

COUNT = 8
SNAKEFILE = f"""
rule all:
    input: expand("out/{{i}}.up", i=range({COUNT}))
rule up:
    input: "in/{{i}}.txt"
    output: "out/{{i}}.up"
    params: model="m"
    resources: gpupool_tool="textual.py:Textual"
    script: "textual.py"
"""
#: What a project has beside its workflow, in folders of two letters and others.
FOREIGN = {
    "qc/report.html": "report",
    "v1/data.csv": "1,2",
    "ab/" + "ab" + "0" * 62: "as version 0.1 kept its results",
    **{f"in/{i}.txt": f"word{i}\n" for i in range(COUNT)},
}
LARGE = '''
import hashlib
from pathlib import Path
from snakemake_executor_gpupool import Tool

class Large(Tool):
    """Makes a result of a mebibyte of each item."""

    def load(self, device):
        pass

    def read(self, job):
        yield Path(job.input[0]).read_text().strip()

    def tokens(self, item):
        return 1

    def run(self, items):
        return [item.encode() * (2**20 // len(item)) for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(hashlib.sha256(results[0]).hexdigest())

if "snakemake" in globals():
    Large.main(snakemake)
'''


class Evil:
    """Its pickle, read, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "gpupool-results-v2").glob("??/*"))


def forge(path: Path, payload: bytes) -> None:
    """Put another payload into an entry, with the checksum that belongs to it."""
    data = path.read_bytes()
    (key_bytes,) = struct.unpack_from("<I", data, 8)
    key = data[52 : 52 + key_bytes]
    counts = struct.pack("<IQ", key_bytes, len(payload))
    digest = hashlib.sha256(counts + key + payload).digest()
    path.write_bytes(b"gpupoolR" + counts + digest + key + payload)


def damage(cache: Path, mark: Path) -> None:
    flipped, one, other, piped, cut, linked, hostile, _ = entries(cache)
    data = bytearray(flipped.read_bytes())
    data[-3] ^= 1
    flipped.write_bytes(data)
    aside = cache / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    piped.unlink()
    os.mkfifo(piped)
    os.truncate(cut, 60)
    linked.unlink()
    linked.symlink_to(cache / "in/0.txt")
    if os.geteuid() == 0:  # as somebody else would have put it there
        forge(hostile, pickle.dumps(Evil(mark)))
        os.chown(hostile, 12345, 12345)
    assert one.exists() and other.exists()


def right(run: Finished) -> None:
    """See that a run has ended well, with the results that there can be."""
    for i in range(COUNT):
        path = run.directory / f"out/{i}.up"
        assert not path.exists() or path.read_text() == f"WORD{i}.m\n"


def test_a_kept_directory_is_neither_believed_nor_swept(tmp_path: Path) -> None:  # P5
    project, outside, mark = tmp_path / "project", tmp_path / "outside", tmp_path / "mark"
    workflow = Workflow(project, SNAKEFILE, FOREIGN)
    outside.mkdir()
    (outside / "theirs.txt").write_text("outside")
    (project / "zz").symlink_to(outside)
    cache = ("--gpupool-cache", ".")
    first = workflow.run(*cache)
    assert first.code == 0, first.text
    assert len(entries(project)) == COUNT
    damage(project, mark)
    shutil.rmtree(project / "out")
    # Two runs of one project at a time; the one with a bound sweeps while the other reads.
    targets = [[f"out/{i}.up" for i in range(start, COUNT, 2)] for start in (0, 1)]
    bounds = ({"GPUPOOL_CACHE_GIB": "0.0000000001"}, {})
    runs = [
        workflow.start(*cache, "--nolock", *each, **bound)
        for each, bound in zip(targets, bounds, strict=True)
    ]
    texts = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    assert sorted(path.name for path in (project / "out").iterdir()) == sorted(
        f"{i}.up" for i in range(COUNT)
    )
    right(first)
    assert not mark.exists()
    told = [len(re.findall("a kept result is not as it was written", text)) for text in texts]
    assert max(told) == 1 and sum(told) >= 1, texts
    for name, text in FOREIGN.items():
        assert (project / name).read_text() == text
    assert (outside / "theirs.txt").read_text() == "outside"
    # What is kept now is right again.
    shutil.rmtree(project / "out")
    last = workflow.run(*cache)
    assert last.code == 0 and "not as it was written" not in last.text
    right(last)


def test_a_full_disk_under_the_cache_and_the_log_costs_no_result(
    tmp_path: Path, small_disk: Path
) -> None:  # W9
    texts = {f"in/{i}.txt": f"word{i}\n" for i in range(COUNT)}
    snakefile = SNAKEFILE.replace("textual.py:Textual", "large.py:Large").replace(
        "textual.py", "large.py"
    )
    workflow = Workflow(tmp_path / "project", snakefile, {**texts, "large.py": LARGE})
    run = workflow.run("--gpupool-cache", str(small_disk / "cache"))
    assert run.code == 0, run.text
    for i in range(COUNT):
        word = f"word{i}"
        expected = hashlib.sha256(word.encode() * (2**20 // len(word))).hexdigest()
        assert run.read(f"out/{i}.up") == expected
    assert run.text.count("results are not kept for later runs") == 1
    assert "No space left on device" in run.text
    left = [path for path in (small_disk / "cache").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["CACHEDIR.TAG"]


def test_without_inodes_in_memory_large_results_go_to_the_disk(tmp_path: Path) -> None:  # W9
    texts = {f"in/{i}.txt": f"word{i}\n" for i in range(COUNT)}
    snakefile = SNAKEFILE.replace("textual.py:Textual", "large.py:Large").replace(
        "textual.py", "large.py"
    )
    workflow = Workflow(tmp_path, snakefile, {**texts, "large.py": LARGE})
    mount = 'mount -t tmpfs -o size=64m,nr_inodes=3 none /dev/shm && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount of its own is not to be had here")
    done = subprocess.run(
        [*command, sys.executable, "-m", "snakemake", "--executor", "gpupool", "--jobs", "100"],
        cwd=tmp_path,
        env=workflow.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "out").iterdir())) == COUNT


@pytest.mark.parametrize("what", ["a cache for all", "locks for all"])
def test_what_others_could_change_is_said_plainly_at_start(tmp_path: Path, what: str) -> None:
    workflow = Workflow(tmp_path / "project", SNAKEFILE, FOREIGN)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o775)
    if what == "a cache for all":
        run = workflow.run("--gpupool-cache", str(open_to_all))
        expected = f"gpupool: the cache {open_to_all} is not used"
    else:
        places = {"GPUPOOL_SIMULATE": "1", "GPUPOOL_LOCK_DIR": str(open_to_all)}
        done = subprocess.run(
            workflow.command("--executor", "gpupool", "--jobs", "100"),
            cwd=workflow.directory,
            env={**workflow.environment(), **places},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        run = Finished(workflow.directory, done.returncode, done.stdout + done.stderr)
        expected = f"gpupool: the lock directory {open_to_all} is not safe"
    assert run.code == 1 and expected in run.text and "chmod" in run.text
    assert "bug" not in run.text and "Traceback" not in run.text
    assert not (workflow.directory / "out").exists()
