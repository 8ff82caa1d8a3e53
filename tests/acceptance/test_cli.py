"""The ``gpupool`` command as a user or a rule's ``shell:`` body calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.commandline.arguments import pairs, parsed

TOOL = '''
import os, sys
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import InputError

class Shout(Tool):
    """Write lines in capitals."""
    defaults = {"model": "big", "times": 1, "fail": ""}
    def load(self, device):
        print("loading", self.params.model, "on", device)
        os.system("echo from a child")
    def read(self, job):
        with open(job.input.text) as file:
            lines = file.read().split()
        if not lines:
            raise InputError(f"{job.input.text}: is empty; give it at least one word")
        return lines
    def run(self, items):
        if self.params.fail == "crash":
            raise RuntimeError("two\\nlines")
        return [item.upper() * self.params.times for item in items]
    def write(self, job, results):
        with open(job.output[0], "w") as file:
            file.write(" ".join(results))
        if self.params.fail == "late":
            raise OSError(28, "No space left on device", job.output[0])
'''


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "shout.py").write_text(TOOL)
    (tmp_path / "words.txt").write_text("one two")
    return tmp_path


@pytest.fixture
def gpupool(workdir):
    def gpupool(*words, **options):
        command = [
            sys.executable,
            "-m",
            "snakemake_executor_gpupool.frontends.commandline.main",
            *map(str, words),
        ]
        return subprocess.run(
            command, cwd=workdir, capture_output=True, text=True, check=False, **options
        )

    return gpupool


@pytest.fixture
def shout(gpupool):
    def shout(*more, text="words.txt"):
        files = ("--input", f"text={text}", "--output", "out/shout.txt")
        return gpupool("run", "shout.py:Shout", *files, "--device", "cpu", *more)

    return shout


def one_line(done, code):
    """Check that a failure is one clear line on standard error, with that exit code."""
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("gpupool")
    assert "Traceback" not in done.stderr
    return done.stderr


class TestRun:
    def test_does_the_job(self, shout, workdir):
        done = shout("--param", "times=2", "model=small", "--json")
        assert done.returncode == 0, done.stderr
        assert (workdir / "out/shout.txt").read_text() == "ONEONE TWOTWO"
        report = json.loads(done.stdout)
        assert report["status"] == "done"
        assert report["output"] == ["out/shout.txt"]
        assert "loading small on cpu" in done.stderr, "what a tool prints must not mix with --json"

    def test_log_takes_all_that_is_printed(self, shout, workdir):
        done = shout("--log", "logs/a.log")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        log = (workdir / "logs/a.log").read_text()
        assert "loading big on cpu" in log
        assert "from a child" in log

    def test_bad_input_is_one_line(self, shout, workdir):
        (workdir / "empty.txt").write_text("")
        message = one_line(shout(text="empty.txt"), 1)
        assert "empty.txt: is empty; give it at least one word" in message
        assert not (workdir / "out/shout.txt").exists()

    def test_missing_input_is_one_line(self, shout):
        assert "missing input: absent.txt" in one_line(shout(text="absent.txt"), 1)

    def test_crash_leaves_its_traceback_in_the_log(self, shout, workdir):
        message = one_line(shout("--param", "fail=crash", "--log", "a.log"), 1)
        assert "RuntimeError: two lines (log: a.log)" in message
        assert "Traceback" in (workdir / "a.log").read_text()

    def test_crash_without_a_log_shows_its_traceback(self, shout):
        done = shout("--param", "fail=crash")
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].endswith("RuntimeError: two lines")

    def test_nothing_half_written(self, shout, workdir):
        assert "No space left on device" in one_line(
            shout("--param", "fail=late", "--log", "a.log"), 1
        )
        assert list((workdir / "out").iterdir()) == []

    def test_unwritable_output_directory(self, shout, workdir):
        (workdir / "out").write_text("a file where a directory should be")
        assert "output out/shout.txt cannot be written: File exists" in one_line(
            shout("--log", "a.log"), 1
        )

    def test_failure_as_json(self, shout, workdir):
        (workdir / "empty.txt").write_text("")
        report = json.loads(shout("--json", text="empty.txt").stdout)
        assert report["status"] == "failed"
        assert "is empty" in report["error"]


class TestMisuse:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "required: COMMAND"),
            (["rum"], "invalid choice: 'rum'"),
            (["run"], "required: tool"),
            (["run", "esm2-embde"], "no tool 'esm2-embde'. Did you mean 'esm2-embed'?"),
            (["run", "absent.py:Shout"], "there is no file"),
            (["run", "shout.py:Shuot"], "has no class 'Shuot'; its tools: Shout"),
            (["run", "shout.py", "--param", "big"], "--param takes K=V"),
            (["run", "shout.py", "--device", "cuda:"], "'cuda:' is not a device"),
            (["run", "shout.py", "--threads", "many"], "invalid int value: 'many'"),
            (["run", "shout.py", "--log", "words.txt/x.log"], "--log words.txt/x.log: "),
        ],
    )
    def test_is_one_line_and_exit_code_2(self, gpupool, words, message):
        assert message in one_line(gpupool(*words), 2)


class TestWords:
    def test_positional_then_named_and_lists(self):
        groups = [["a.fa", "k=1.fa", "more.fa"], ["dir/k=5.fa", "b=x"], ["b=y"]]
        assert pairs(groups) == [
            (None, "a.fa"),
            (None, "dir/k=5.fa"),
            ("k", ["1.fa", "more.fa"]),
            ("b", ["x", "y"]),
        ]

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("6", 6),
            ("-1", -1),
            ("1e-3", 0.001),
            ("True", True),
            ("false", False),
            ("null", None),
            ("None", None),
            ("esm2_t6_8M_UR50D", "esm2_t6_8M_UR50D"),
            ("007", "007"),
            ("NaN", "NaN"),
            ("", ""),
            ("[6, 12]", [6, 12]),
            ("[mean, 6]", ["mean", 6]),
            ("[]", []),
            ('"6"', "6"),
            ('{"a": 1}', {"a": 1}),
            (["6", "x"], [6, "x"]),
        ],
    )
    def test_values(self, text, value):
        assert parsed(text) == value


class TestListings:
    def test_tools(self, gpupool):
        tools = {tool["name"]: tool for tool in json.loads(gpupool("tools", "--json").stdout)}
        embed = tools["esm2-embed"]
        assert embed["class"] == "snakemake_executor_gpupool.tools.esm2:Esm2Embed"
        assert embed["package"].startswith("snakemake-executor-plugin-gpupool ")
        assert embed["deterministic"] is True
        assert "model" in embed["params"]

    def test_tools_as_text(self, gpupool):
        assert "esm2-embed" in gpupool("tools").stdout

    def test_devices(self, gpupool):
        done = gpupool("devices", "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)

    def test_malformed_device_settings_are_misuse(self, gpupool):
        environment = {**os.environ, "GPUPOOL_SIMULATE": "four cards"}
        assert "GPUPOOL_SIMULATE" in one_line(gpupool("devices", env=environment), 2)

    def test_help_names_the_commands(self, gpupool):
        text = gpupool("--help").stdout
        assert all(name in text for name in ("run", "devices", "tools"))

    def test_nothing_heavy_is_imported(self):
        code = (
            "import sys; from snakemake_executor_gpupool.frontends.commandline import main; "
            "main.build_parser(); print(*sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        heavy = {"torch", "numpy", "pandas", "pynvml", "snakemake"}
        assert not heavy & set(done.stdout.split())


def test_the_installed_command_is_there():
    command = Path(sys.executable).with_name("gpupool")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gpupool ")
