"""``gpupool serve`` and its clients, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import snakemake_executor_gpupool
from tests.serving import Workplace, processes_of
from tests.waiting import eventually


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    directory = place.server_directory()
    place.end()
    shutil.rmtree(directory, ignore_errors=True)


def test_a_second_run_finds_the_model_loaded_and_its_output_is_as_cold(  # G1 G3
    work: Workplace,
) -> None:
    cold = work.gpupool(*work.words_of("cold", "some words"))
    assert cold.returncode == 0, cold.stderr
    before = work.n_loads()
    for name in ("first", "second"):
        done = work.run(name, "some words")
        assert (done.returncode, done.stderr) == (0, "")
        assert work.out(name) == work.out("cold")
    assert work.n_loads() == before + 1
    assert work.status()["jobs"] == {"running": 0, "done": 2, "failed": 0}


def test_a_server_is_for_its_user_alone(work: Workplace) -> None:
    work.run("a", "one")
    directory = work.server_directory()
    for path in (directory, directory.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "socket").stat().st_mode) == 0o600
    directory.chmod(0o755)
    refused = work.run("b", "two", server="on")
    assert refused.returncode == 2 and "not safe" in refused.stderr
    directory.chmod(0o700)


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("bad", []),
        ("fine", ["--param", "nosuch=1"]),
        ("fine", ["--device", "gpu7"]),
        ("fine", ["--param", "model=[a"]),
    ],
)
def test_a_failure_has_the_code_and_the_words_of_a_cold_one(
    work: Workplace, content: str, more: list[str]
) -> None:
    cold = work.gpupool(*work.words_of("cold", content, *more))
    warm = work.run("warm", content, *more)
    assert warm.returncode == cold.returncode != 0
    last = cold.stderr.strip().splitlines()[-1].replace("gpupool: ", "").rpartition(".py: ")[2]
    assert last in warm.stderr
    assert not (work.directory / "warm.out").exists()


def test_a_client_has_its_own_directory_variables_and_umask(work: Workplace) -> None:
    other = work.directory / "other"
    other.mkdir()
    umask = os.umask(0o027)
    try:
        here = work.run("a", "word", env={"MODE": " one"})
    finally:
        os.umask(umask)
    there = work.run("a", "word", cwd=other, env={"MODE": " two"})
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    assert work.run("b", "word", env={"MODE": " three"}).returncode == 0
    assert work.out("b") == "WORD loud three!\n", "nothing differs but a variable"
    assert work.out("a") == "WORD loud one!\n"
    assert (other / "a.out").read_text() == "WORD loud two!\n"
    assert stat.S_IMODE((work.directory / "a.out").stat().st_mode) == 0o640
    assert stat.S_IMODE((other / "a.out").stat().st_mode) == 0o666 & ~umask


def test_edited_code_is_never_answered_by_a_worker_of_before(work: Workplace) -> None:  # G4
    helper = work.directory / "helper.py"
    helper.write_text("MARK = 'a'\n")
    text = work.tool.read_text().replace(
        "import time\n", "import time\n\nfrom helper import MARK\n"
    )
    work.tool.write_text(text.replace("{WORD}", "{WORD}{MARK}"))
    for step, mark in enumerate("abacab"):
        helper.write_text(f"MARK = '{mark}'\n")  # as long, and within a second
        done = work.run(f"out{step}", "word")
        assert done.returncode == 0, done.stderr
        assert work.out(f"out{step}") == f"WORD loud{mark}!\n"


def test_what_is_imported_late_counts_too(work: Workplace) -> None:
    helper = work.directory / "helper.py"
    text = work.tool.read_text().replace(
        "    def run(self, items):\n",
        "    def run(self, items):\n        from helper import MARK\n",
    )
    work.tool.write_text(text.replace("{WORD}", "{WORD}{MARK}"))
    for step, mark in enumerate("abab"):
        helper.write_text(f"MARK = '{mark}'\n")
        work.run(f"out{step}", "word")
        assert work.out(f"out{step}") == f"WORD loud{mark}!\n"


def test_weights_that_change_are_loaded_anew(work: Workplace) -> None:
    text = work.tool.read_text().replace(
        'self.mode = os.environ.get("MODE", "")',
        'self.mode = open(self.params["model"]).read()',
    )
    work.tool.write_text(text)
    weights = work.directory / "weights.bin"
    for step, mark in enumerate("abba"):
        weights.write_text(mark)
        for model in ("weights.bin", str(weights)):
            done = work.run(f"out{step}", "word", "--param", f"model={model}")
            assert done.returncode == 0, done.stderr
            assert work.out(f"out{step}") == f"WORD loud{mark}!\n"


def test_weights_that_change_while_they_are_loaded_are_no_one_else_s(  # G4
    work: Workplace,
) -> None:
    """A worker that has loaded other weights than its jobs were read for must not serve."""
    text = work.tool.read_text().replace(
        'self.mode = os.environ.get("MODE", "")',
        """open(os.path.join(os.environ["LOADS"], "loading"), "w").close()
        while not os.path.exists(os.path.join(os.environ["LOADS"], "go")):
            time.sleep(0.01)
        self.mode = open(self.params["model"]).read()""",
    )
    work.tool.write_text(text)
    weights = work.directory / "weights.bin"
    weights.write_text("a")
    model = "--param", f"model={weights}"
    client = work.start("first", "word", *model)
    assert eventually((work.loads / "loading").exists)
    weights.write_text("b")
    (work.loads / "go").touch()
    assert client.communicate(timeout=60)[1] == ""
    assert work.out("first") == "WORD loudb!\n"
    weights.write_text("a")
    work.run("second", "word", *model)
    assert work.out("second") == "WORD louda!\n"


def test_a_worker_that_imports_an_edit_gives_no_result(work: Workplace) -> None:  # G4
    """The tool was described, and is edited before its worker imports it; then edited back."""
    helper = work.directory / "helper.py"
    gate = "import pathlib\nGO = pathlib.Path(os.environ['LOADS'])\n"
    gate += "(GO / f'here{os.getpid()}').touch()\n"
    gate += "while len(list(GO.glob('here*'))) > 1 and not (GO / 'go').exists():\n"
    gate += "    time.sleep(0.01)\nfrom helper import MARK\n"
    text = work.tool.read_text().replace("import time\n", f"import time\n\n{gate}", 1)
    work.tool.write_text(text.replace("{WORD}", "{WORD}{MARK}"))
    helper.write_text("MARK = 'a'\n")
    before = helper.stat()
    client = work.start("first", "word")
    assert eventually(lambda: len(list(work.loads.glob("here*"))) > 1)
    helper.write_text("MARK = 'b'\n")
    (work.loads / "go").touch()
    assert client.communicate(timeout=60)[1] == ""
    assert work.out("first") == "WORD loudb!\n"
    helper.write_text("MARK = 'a'\n")
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))
    work.run("second", "word")
    assert work.out("second") == "WORD louda!\n"


def test_a_data_file_beside_the_tool_is_part_of_it(work: Workplace) -> None:  # G4
    text = work.tool.read_text().replace(
        'self.mode = os.environ.get("MODE", "")',
        'self.mode = open(os.path.join(os.path.dirname(__file__), "vocabulary.txt")).read()',
    )
    work.tool.write_text(text)
    for step, mark in enumerate("aba"):
        (work.directory / "vocabulary.txt").write_text(mark)
        work.run(f"out{step}", "word")
        assert work.out(f"out{step}") == f"WORD loud{mark}!\n"


def test_a_tool_that_could_not_be_imported_is_asked_again(work: Workplace) -> None:
    whole = work.tool.read_text()
    work.tool.write_text(whole + "\nraise RuntimeError('not yet')\n")
    failed = work.run("a", "word")
    assert failed.returncode == 2 and "not yet" in failed.stderr
    work.tool.write_text(whole)
    assert work.run("a", "word").returncode == 0
    # The second import is the one of the process that reads and writes.
    gate = "import pathlib\nHERE = pathlib.Path(os.environ['LOADS'])\n"
    gate += "(HERE / f'here{os.getpid()}').touch()\n"
    gate += "if len(list(HERE.glob('here*'))) == 2:\n    raise RuntimeError('out of luck')\n"
    work.tool.write_text(whole.replace("import time\n", f"import time\n\n{gate}", 1))
    failed = work.run("b", "word")
    assert failed.returncode == 2 and "out of luck" in failed.stderr
    assert work.run("b", "word").returncode == 0


def test_modules_are_found_where_the_client_is(work: Workplace) -> None:
    package = work.directory / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "shout.py").write_text(work.tool.read_text())
    (work.directory / "a.txt").write_text("word")
    files = "--input", "a.txt", "--output", "a.out"
    done = work.gpupool("run", "mine.shout:Shout", *files, "--server", env={"PYTHONPATH": "."})
    assert (done.returncode, done.stderr) == (0, "")
    assert work.out("a") == "WORD loud!\n"


def test_a_relative_name_means_the_client_s_directory(work: Workplace) -> None:
    """Both of a file that a param names and of one that only the code does."""
    text = work.tool.read_text().replace(
        'self.mode = os.environ.get("MODE", "")',
        'self.mode = open("labels.txt").read() if os.path.exists("labels.txt") else "none"',
    )
    work.tool.write_text(text)
    for name in ("x", "y"):
        place = work.directory / name
        place.mkdir()
        (place / "labels.txt").write_text(name)
        work.run("a", "word", cwd=place)
        assert (place / "a.out").read_text() == f"WORD loud{name}!\n"
    work.run("b", "word")
    assert work.out("b") == "WORD loudnone!\n"


def test_a_file_found_by_a_made_up_name_is_looked_for_where_the_job_is(work: Workplace) -> None:
    text = work.tool.read_text().replace(
        'self.mode = os.environ.get("MODE", "")',
        'self.mode = open("".join(["lab", "els"]) + ".bin").read()',
    )
    work.tool.write_text(text)
    (work.directory / "labels.bin").write_text("z")
    assert work.run("a", "word").returncode == 0
    assert work.out("a") == "WORD loudz!\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_client_that_is_killed_takes_its_job_along(work: Workplace, number: int) -> None:
    work.run("warm", "up")
    client = work.start("a", "sleep30")
    assert eventually(lambda: work.status()["jobs"]["running"] == 1, 20.0)
    client.send_signal(number)
    client.communicate(timeout=20)
    assert eventually(lambda: work.status()["jobs"]["running"] == 0, 20.0)
    assert not (work.directory / "a.out").exists()
    assert client.returncode == (130 if number == signal.SIGINT else -number)


def test_a_server_that_is_killed_is_started_again_once(work: Workplace) -> None:
    work.run("warm", "up")
    directory = work.server_directory()
    client = work.start("a", "sleep2 word")
    assert eventually(lambda: work.status()["jobs"]["running"] == 1, 20.0)
    os.kill(work.status()["pid"], signal.SIGKILL)
    _, words = client.communicate(timeout=60)
    assert client.returncode == 0, words
    assert "the server has ended while it had the job" in words
    assert work.out("a") == "SLEEP2 loud!\nWORD loud!\n"
    assert work.status()["jobs"]["done"] == 1 and work.server_directory() == directory


def test_without_a_server_on_fails_and_off_is_cold(work: Workplace) -> None:
    refused = work.run("a", "word", server="on")
    assert refused.returncode == 2 and "gpupool serve starts one" in refused.stderr
    assert work.run("a", "word", server="off").returncode == 0
    assert work.status()["type"] == "none"
    refused = work.run("a", "word", server="sometimes")
    assert refused.returncode == 2 and "'sometimes'" in refused.stderr
    silent = work.run("b", "word", env={"GPUPOOL_LEASE": "x"})
    assert (silent.returncode, silent.stderr) == (0, "") and work.status()["type"] == "none"


def test_many_clients_at_once_start_one_server(work: Workplace) -> None:
    clients = [work.start(f"c{n}", f"word{n}") for n in range(12)]
    for number, client in enumerate(clients):
        _, words = client.communicate(timeout=120)
        assert (client.returncode, words) == (0, "")
        assert work.out(f"c{number}") == f"WORD{number} loud!\n"
    log = (work.server_directory() / "serve.log").read_text()
    assert log.count("serves on") == 1
    assert work.n_loads() <= 2


def test_a_socket_that_is_removed_is_made_again(work: Workplace) -> None:
    work.run("a", "word")
    pid, socket_path = work.status()["pid"], work.server_directory() / "socket"
    socket_path.unlink()
    assert eventually(socket_path.exists, 10.0)
    assert work.run("b", "word", server="on").returncode == 0
    assert work.status()["pid"] == pid


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
    feeder.wait(timeout=10)
    assert done.returncode == 0 and "computed here" in done.stderr
    assert work.out("a") == "WORD loud!\n"


def test_nobody_lives_past_its_idle_time(work: Workplace) -> None:
    words = "serve", "--idle-timeout", "0.5", "--server-idle-timeout", "2"
    server = subprocess.Popen(work.command(*words), env=work.env, cwd=work.directory)
    try:
        assert eventually(lambda: work.status()["type"] == "status", 20.0)
        started_s = time.monotonic()
        assert work.run("a", "word", server="on").returncode == 0
        directory = work.server_directory()
        assert server.wait(timeout=30) == 0
        assert time.monotonic() - started_s < 20
        assert eventually(lambda: not processes_of(work.loads), 10.0)
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
