"""``gpupool serve`` and its clients, with real processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess

import pytest

from tests.serving import Workplace
from tests.waiting import eventually


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


def test_a_model_that_was_preloaded_is_there_for_the_first_job(work: Workplace) -> None:  # G1
    preload = "serve", "--preload", str(work.tool), "--param"
    server = subprocess.Popen(
        work.command(*preload, "model=a"), cwd=work.directory, env=work.env, stderr=subprocess.PIPE
    )
    assert eventually(lambda: work.n_loads() == 1, 30.0)
    second = work.gpupool(*preload, "model=b")
    assert second.returncode == 0 and "is loaded, after" in second.stdout, second.stderr
    refused = work.gpupool(*preload, "nosuch=1", "--json")
    assert refused.returncode == 1 and "no param 'nosuch'" in refused.stderr
    assert json.loads(refused.stdout)["status"] == "failed"
    for model in "ab":
        done = work.run(model, "word", "--param", f"model={model}", server="on")
        assert done.returncode == 0, done.stderr
        assert work.out(model) == "WORD loud!\n"
    assert work.n_loads() == 2
    assert work.gpupool("serve", "--stop").returncode == 0
    assert b"is loaded, after" in server.communicate(timeout=30)[1]
    assert work.gpupool(*preload, "model=[a").returncode == 2
    assert work.gpupool("serve", "--param", "model=a").returncode == 2


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


def test_many_clients_at_once_start_one_server(work: Workplace) -> None:
    clients = [work.start(f"c{n}", f"word{n}") for n in range(12)]
    for number, client in enumerate(clients):
        _, words = client.communicate(timeout=120)
        assert (client.returncode, words) == (0, "")
        assert work.out(f"c{number}") == f"WORD{number} loud!\n"
    log = (work.server_directory() / "serve.log").read_text()
    assert log.count("serves on") == 1
    assert work.n_loads() <= 2
