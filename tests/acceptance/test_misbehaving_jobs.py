"""Everything a tool may do to its worker, in one run: only the guilty jobs fail (P9, W1-W7)."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from tests.acceptance.running import TOOLS, Workflow
from tests.acceptance.test_faults import worker_pids
from tests.waiting import eventually

SNAKEFILE = """
rule all:
    input: expand("out/{name}.txt", name=glob_wildcards("in/{name}.txt").name), "gpu.txt"

rule do:
    input: "in/{name}.txt"
    output: "out/{name}.txt"
    log: "log/{name}.log"
    resources: gpupool_tool="misbehaving.py:Misbehaving"
    shell: "exit 1"

rule plain:
    output: "gpu.txt"
    resources: gpu=1
    priority: -1
    shell: "echo $CUDA_VISIBLE_DEVICES > {output}"
"""
#: What an item does, and what the message about it must say.
GUILTY = {
    "raise": "ValueError: told to",
    "refuse": "x.txt: expected something else",
    "exit": "exit code 3; the end of its log",
    "system-exit": "leaving",
    "segfault": "killed by SIGSEGV",
    "kill": "killed by SIGKILL",
    "stop": "hung, killed by SIGKILL",
    "sleep": "hung, killed by SIGKILL",
    "hang": "hung, killed by SIGKILL",
    "grandchild": "exit code 4",
    "garbage": "broke the protocol (not a frame",
    "forge:unknown": "broke the protocol (there is no 'dance' frame)",
    "forge:other-batch": "broke the protocol (nothing asked for a 'done' frame",
    "forge:other-job": "broke the protocol (nothing asked for a 'written' frame",
    "forge:wrong-types": "broke the protocol ('batch' of a 'done' frame is '1')",
    "forge:load-failed": "broke the protocol (nothing asked for a 'load_failed' frame",
    "eat": "it needs more memory than cuda:0 has",
    "too-large": "it needs more memory than cuda:0 has, even alone",
    "unpicklable": "this result does not travel",
    "surrogate": "ValueError: half a letter: \\ud800",
    "wordless": "Wordless",
    "forge:seconds": "broke the protocol ('seconds' of a 'done' frame is 1e+308)",
    "announce": "broke the protocol (frame too large: 100 + 8589934592 bytes)",
    "daemon": "exit code 7",
}
#: What is found out before anything is computed.
SENSELESS = {"cost": "1e+308", "no-cost": "nan"}
INNOCENT = {f"innocent{n}": f"word{n}\nword{n + 1}\n" for n in range(8)} | {
    "chatty": "print\nword1\n",
    "deaf": "ignore-sigterm\n",
    "exhausting": "out-of-memory\nword2\n",
}


def outputs(directory: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (directory / "out").iterdir()}


def run(directory: Path, files: dict[str, str]):
    texts = {f"in/{name}.txt": text for name, text in files.items()}
    workflow = Workflow(directory, SNAKEFILE, texts)
    shutil.copy(TOOLS / "misbehaving.py", directory)
    return workflow.run("--keep-going", "--cores", "2", GPUPOOL_SIMULATE="1x16GiB", timeout_s=240)


def test_only_the_guilty_jobs_fail(tmp_path: Path) -> None:
    calm = run(tmp_path / "calm", INNOCENT)
    assert calm.code == 0, calm.text
    # A guilty item has innocent neighbours, of which another job has one, too.
    files = {item.replace(":", "-"): f"word1\n{item}\nmine {item}\n" for item in GUILTY}
    files |= {item: f"word1\n{item}\n" for item in SENSELESS}
    done = run(tmp_path / "wild", INNOCENT | files)
    assert done.code == 1
    assert outputs(done.directory) == outputs(calm.directory)
    failed = {event["job"]: event["error"] for event in done.events("job_failed")}
    assert set(failed) == {f"rule do (name={name})" for name in files}
    for item, said in GUILTY.items():
        title = f"rule do (name={item.replace(':', '-')})"
        assert failed[title].startswith(f"{title}: item {item}: "), failed[title]
        assert said in failed[title], failed[title]
    assert "/workers/Misbehaving." in failed["rule do (name=kill)"], "the tool and its log"
    assert "last words" in failed["rule do (name=exit)"]
    assert "Fatal Python error: Segmentation fault" in failed["rule do (name=segfault)"]
    for item, value in SENSELESS.items():
        said = f"ValueError: Misbehaving.cost() of item {item} is {value}; it must be a number"
        assert failed[f"rule do (name={item})"].startswith(f"rule do (name={item}): {said}")
    for name, message in {n.partition("=")[2][:-1]: m for n, m in failed.items()}.items():
        assert message in done.read(f"log/{name}.log"), "every error is in its job's log"
    assert done.read("gpu.txt").strip() == "0", "the device is there for others afterwards"
    assert eventually(lambda: not worker_pids(done.directory))
    assert not list(done.directory.rglob(".gpupool-*"))


SLOW = """
rule all:
    input: expand("out/{i}.up", i=range(3))

rule up:
    input: "in/{i}.txt"
    output: "out/{i}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: sleep_s=3.0
    script: "textual.py"
"""


def descendants(pid: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found


def network_inodes() -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/self/net/{table}")
        if path.exists():
            inodes |= {line.split()[9] for line in path.read_text().splitlines()[1:]}
    return inodes


def listening_unix_inodes() -> set[str]:
    lines = Path("/proc/self/net/unix").read_text().splitlines()[1:]
    # The flag of a socket that accepts connections (__SO_ACCEPTCON).
    return {line.split()[6] for line in lines if int(line.split()[3], 16) & 0x10000}


def test_a_run_listens_nowhere_and_its_files_are_private(tmp_path: Path) -> None:  # W1
    texts = {f"in/{i}.txt": "x" * 70 + f"{i}\n" for i in range(3)}
    workflow = Workflow(tmp_path, SLOW, texts)
    cache = tmp_path / "home/results"
    before = os.umask(0)  # what is private is so by itself
    try:
        arguments = ("--cores", "2", "--gpupool-cache", str(cache))
        run = workflow.start(*arguments, GPUPOOL_SIMULATE="1x16GiB")
    finally:
        os.umask(before)
    try:
        assert eventually(lambda: any((tmp_path / "out").glob("*.up")), 60)
        pids = descendants(run.pid)
        assert len(pids) >= 4, "Snakemake, the reaper, a file process, a worker"
        listening = network_inodes() | listening_unix_inodes()
        for pid in pids:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = str(link.readlink()) if link.is_symlink() else ""
                assert not (target.startswith("socket:[") and target[8:-1] in listening), target
        latest = (tmp_path / ".snakemake/gpupool/latest").resolve()
        spools = list(Path("/dev/shm").glob(f"gpupool-{run.pid}-*"))
        assert spools
        places = [latest, *spools, cache]
        assert_private(places)
        run.communicate(timeout=60)
        assert run.returncode == 0
        assert_private([latest, cache, tmp_path / ".snakemake/profile.json"])
        assert (latest / "summary.json").exists() and list(cache.rglob("??/*"))
        assert not any(spool.exists() for spool in spools)
    finally:
        run.kill()


def assert_private(places: list[Path]) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    for place in places:
        for path in [place, *place.rglob("*")]:
            with_type = path.lstat().st_mode
            allowed = 0o700 if stat.S_ISDIR(with_type) else 0o600
            assert stat.S_IMODE(with_type) & ~allowed == 0, f"{path}: {oct(with_type)}"
