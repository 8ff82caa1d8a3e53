"""What becomes of servers and clients that are killed, upgraded, cut off or forgotten."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import snakemake_executor_gpupool
from snakemake_executor_gpupool.frontends.server.address import (
    AUTO,
    Wish,
    namespace,
    root_directory,
)
from snakemake_executor_gpupool.frontends.server.client import Client, Upgraded
from snakemake_executor_gpupool.frontends.server.talk import encode, receive
from tests.serving import Workplace, processes_of
from tests.waiting import eventually


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_client_that_is_killed_takes_its_job_along(work: Workplace, number: int) -> None:
    work.run("warm", "up")
    client = work.start("a", "sleep30")
    assert eventually(lambda: work.status()["jobs"]["running"] == 1)
    client.send_signal(number)
    client.communicate(timeout=20)
    assert eventually(lambda: work.status()["jobs"]["running"] == 0)
    assert not (work.directory / "a.out").exists()
    assert client.returncode == (130 if number == signal.SIGINT else -number)


def test_a_server_that_is_killed_is_started_again_once(work: Workplace) -> None:
    work.run("warm", "up")
    directory = work.server_directory()
    client = work.start("a", "sleep2 word")
    assert eventually(lambda: work.status()["jobs"]["running"] == 1)
    os.kill(work.status()["pid"], signal.SIGKILL)
    _, words = client.communicate(timeout=60)
    assert client.returncode == 0, words
    assert "the server has ended while it had the job" in words
    assert work.out("a") == "SLEEP2 loud!\nWORD loud!\n"
    assert work.status()["jobs"]["done"] == 1 and work.server_directory() == directory


def test_after_a_second_kill_a_job_is_computed_cold(work: Workplace) -> None:  # G4
    client, killed = work.start("a", "sleep3 word"), set[int]()
    for _ in range(2):
        assert eventually(lambda: work.status().get("jobs", {}).get("running") == 1, 30.0)
        killed.add(work.status()["pid"])
        os.kill(work.status()["pid"], signal.SIGKILL)
    _, words = client.communicate(timeout=60)
    assert client.returncode == 0 and len(killed) == 2, words
    assert "ended a second time; the job is computed here, cold" in words
    assert work.out("a") == "SLEEP3 loud!\nWORD loud!\n"
    assert work.status()["type"] == "none"


def test_without_a_server_on_fails_and_off_is_cold(work: Workplace) -> None:
    refused = work.run("a", "word", server="on")
    assert refused.returncode == 2 and "gpupool serve starts one" in refused.stderr
    assert work.run("a", "word", server="off").returncode == 0
    assert work.status()["type"] == "none"
    refused = work.run("a", "word", server="sometimes")
    assert refused.returncode == 2 and "'sometimes'" in refused.stderr
    silent = work.run("b", "word", env={"GPUPOOL_LEASE": "x"})
    assert (silent.returncode, silent.stderr) == (0, "") and work.status()["type"] == "none"


def test_a_socket_that_is_removed_is_made_again(work: Workplace) -> None:
    work.run("a", "word")
    pid, socket_path = work.status()["pid"], work.server_directory() / "socket"
    socket_path.unlink()
    assert eventually(socket_path.exists)
    assert work.run("b", "word", server="on").returncode == 0
    assert work.status()["pid"] == pid
    shutil.rmtree(socket_path.parent)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert not processes_of(work.loads)


def test_what_a_reboot_leaves_is_no_server(work: Workplace) -> None:
    directory = work.server_directory()
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "socket"))
    (directory / "server.lock").write_text("1\n")
    assert work.run("a", "word", server="on").returncode == 2
    done = work.run("a", "word")
    assert (done.returncode, done.stderr) == (0, "")


def test_pipes_and_devices_are_not_for_a_server(work: Workplace) -> None:
    fifo = work.directory / "fifo"
    os.mkfifo(fifo)
    feeder = subprocess.Popen(["sh", "-c", f"echo word > {fifo}"])
    files = "--input", str(fifo), "--output", "a.out"
    done = work.gpupool("run", str(work.tool), *files, "--server")
    feeder.wait(timeout=60)
    assert done.returncode == 0 and "computed here" in done.stderr
    assert work.out("a") == "WORD loud!\n"


def test_nobody_lives_past_its_idle_time(work: Workplace) -> None:
    words = "serve", "--idle-timeout", "0.5", "--server-idle-timeout", "5"
    server = subprocess.Popen(work.command(*words), env=work.env, cwd=work.directory)
    try:
        assert eventually(lambda: work.status()["type"] == "status")
        started_s = time.monotonic()
        assert work.run("a", "word", server="on").returncode == 0
        directory = work.server_directory()
        assert server.wait(timeout=60) == 0
        assert time.monotonic() - started_s < 60
        assert eventually(lambda: not processes_of(work.loads))
        left = {path.name for path in directory.iterdir()}
        assert left <= {"empty", "expected", "serve.log", "server.lock", "start.lock"}
    finally:
        server.kill()
        server.wait()


def test_the_directory_of_a_server_that_ended_long_ago_is_removed(work: Workplace) -> None:
    old = work.server_directory().parent / "0123456789abcdef"
    old.parent.mkdir(mode=0o700, exist_ok=True)
    (old / "expected").mkdir(parents=True, exist_ok=True)
    (old / "server.lock").touch()
    os.utime(old / "server.lock", (1.0, 1.0))
    work.run("a", "word")
    assert not old.exists() and work.server_directory().is_dir()


def test_after_an_upgrade_clients_go_to_a_new_server(work: Workplace) -> None:
    """A copy of the package is upgraded while the old one's server lives, and has a job."""
    source = Path(snakemake_executor_gpupool.__file__).parent
    package = work.directory / "lib" / source.name
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    work.env["PYTHONPATH"] = str(package.parent)
    work.run("a", "word")
    before = work.server_directory()
    client = work.start("b", "sleep2 word")
    assert eventually(lambda: work.status()["jobs"]["running"] == 1)
    with (package / "worker" / "batch.py").open("a") as file:
        file.write("# upgraded\n")
    done = work.run("c", "word")
    assert (done.returncode, done.stderr) == (0, "")
    assert work.server_directory() != before
    _, words = client.communicate(timeout=60)
    assert client.returncode == 0 and "cold" not in words
    assert work.out("b").endswith("WORD loud!\n")
    assert eventually(lambda: not (before / "socket").exists())
    shutil.rmtree(before)


def test_a_server_never_starts_workers_of_another_gpupool(work: Workplace) -> None:  # G4
    """A client of before the upgrade, whose job comes after it, and before the server knows."""
    source = Path(snakemake_executor_gpupool.__file__).parent
    package = work.directory / "lib" / source.name
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    work.env["PYTHONPATH"] = str(package.parent)
    work.run("a", "word")
    directory, loads = work.server_directory(), work.n_loads()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(directory / "socket"))
        hello = receive(connection)
        assert hello is not None
        with (package / "worker" / "batch.py").open("a") as file:
            file.write("# upgraded\n")
        words = {"tool": str(work.tool), "rule": "", "param": [], "wildcard": [], "log": None}
        words |= {"input": [["a.txt"]], "output": [["b.out"]], "threads": 1, "device": None}
        there = {"cwd": str(work.directory), "umask": 0o022, "variables": work.env}
        there |= {"namespace": namespace(), "root": list(root_directory())}
        there["groups"] = [os.getegid(), *sorted(os.getgroups())]
        connection.sendall(encode({**words, **there, "type": "run", "key": hello["key"]}))
        assert receive(connection) == {"type": "renewed"}
    assert work.n_loads() == loads
    shutil.rmtree(directory)


def test_a_client_of_before_an_upgrade_starts_no_server_of_after_it(  # G4
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would find it in that directory, and the client would wait for it."""
    monkeypatch.setenv("LOADS", str(tmp_path))
    client = Client(Wish(AUTO, str(tmp_path / "s")))
    client.key = "of before"
    with pytest.raises(Upgraded):
        client.connect()
    assert eventually(lambda: not processes_of(tmp_path))


def test_a_second_server_of_a_directory_is_refused(work: Workplace) -> None:
    work.run("a", "word")
    second = work.gpupool("serve")
    assert second.returncode == 2 and "a server is there already" in second.stderr


def test_another_version_is_another_server(work: Workplace) -> None:
    work.run("a", "word")
    directory = str(work.server_directory())
    other = work.run("b", "word", server=directory, env={"GPUPOOL_MANAGED_DEVICES": "cpu:1"})
    assert other.returncode == 2 and "another version" in other.stderr


def test_where_there_is_no_server_cold_jobs_take_turns(work: Workplace) -> None:
    """All that wait would otherwise load the model at once."""
    text = work.tool.read_text().replace(
        'with open(os.path.join(os.environ["LOADS"], str(os.getpid())), "w"):\n            pass',
        """import pathlib
        here = pathlib.Path(os.environ["LOADS"])
        self.mine = here / f"now{os.getpid()}"
        self.mine.touch()
        time.sleep(0.3)
        (here / f"seen{len(list(here.glob('now*')))}").touch()""",
    )
    work.tool.write_text(
        text.replace(
            "for item in items:\n", "self.mine.unlink()\n" + " " * 8 + "for item in items:\n", 1
        )
    )
    work.env["GPUPOOL_MANAGED_DEVICES"] = "cpu:1"
    directory = work.server_directory()
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.write_text("no directory")
    try:
        clients = [work.start(f"c{n}", f"word{n}") for n in range(5)]
        words = [client.communicate(timeout=120)[1] for client in clients]
        assert [client.returncode for client in clients] == [0] * 5, words
        assert all("cold" in said for said in words)
        assert sum("waits for its turn: 1 cold at a time" in said for said in words) >= 3
        assert [path.name for path in work.loads.glob("seen*")] == ["seen1"]
        assert [work.out(f"c{n}") for n in range(5)] == [f"WORD{n} loud!\n" for n in range(5)]
    finally:
        directory.unlink()


def test_a_full_disk_costs_no_job(work: Workplace) -> None:
    """A small file system of the server's own, in a mount namespace of its own."""
    place = work.directory / "small"
    place.mkdir()
    other = work.directory / "other.py"
    other.write_text(work.tool.read_text().replace("loud", "silent"))
    for name in ("a", "b", "c", "d"):
        words = work.words_of(name, f"word{name}")
    run = " ".join(shlex.quote(word) for word in work.command(*words[:1]))
    script = f"""
        mount -t tmpfs -o size=4m none {place} || exit 77
        serve() {{ {run.removesuffix(" run")} serve --directory {place}/s "$@"; }}
        job() {{ {run} "$2" --input $1.txt --output $1.out --server {place}/s; }}
        serve 2>/dev/null & server=$!
        until serve --status >/dev/null; do sleep 0.1; done
        job a {work.tool}
        dd if=/dev/zero of={place}/filler bs=64k 2>/dev/null
        dd if=/dev/zero of={place}/filler2 bs=1 count=4000 2>/dev/null
        echo known; job b {work.tool}
        echo new; job c {other}
        rm {place}/filler
        echo again; job d {other}
        serve --stop; wait $server
    """
    shell = ["unshare", "--mount", "bash", "-c", script]
    done = subprocess.run(
        shell, cwd=work.directory, env=work.env, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    if done.returncode in (1, 77) and not work.out_exists("a"):
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr
    assert [work.out(name) for name in "abc"] == [
        *("WORDA loud!\n", "WORDB loud!\n"),
        "WORDC silent!\n",
    ]
    assert work.out("d") == "WORDD silent!\n"
    assert done.stderr.count("computed here, cold") == 1, done.stderr
    assert "No space left" in done.stderr
    assert work.n_loads() == 3  # by workers of both tools, and by the cold command
