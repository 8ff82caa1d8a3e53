"""What a tool prints, and how it ends, is the client's as it would be the cold command's: G3."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.serving import Workplace

TOOL = """
import ctypes
import os
import subprocess
import sys
import time

from snakemake_executor_gpupool import Tool

print("importing")


class Talk(Tool):
    version = "1"
    devices = ("cpu",)
    defaults = {"model": "m"}
    reload_on = ("model",)

    def read(self, job):
        print("reading", *job.input)
        print("to standard error", file=sys.stderr)
        with open(job.input[0]) as lines:
            yield from lines.read().split()

    def load(self, device):
        print("loading")
        os.write(2, b"no text: \\xff\\xfe\\n")
        if self.params["model"] == "none":
            raise RuntimeError("no such model")

    def run(self, items):
        print("running", *items)
        ctypes.CDLL(None).printf(b"from C\\n")
        subprocess.run(["echo", "from a child"])
        for item in items:
            if item == "bad":
                raise ValueError("a bad item")
            if item.startswith("sleep"):
                time.sleep(float(item[5:]))
            if item.startswith("exit"):
                sys.exit(int(item[4:]))
            if item.startswith("kill"):
                os.kill(os.getpid(), int(item[4:]))
        return [item.upper() for item in items]

    def write(self, job, results):
        print("writing")
        with open(job.output[0], "w") as out:
            out.write("\\n".join(results))
"""


@pytest.fixture
def talk(work: Workplace) -> Workplace:
    work.tool.write_text(TOOL)
    return work


def ran(work: Workplace, server: str, content: str, *more: str) -> tuple[int, str, str, str]:
    """Return a job's exit code, what its command prints, and its log."""
    words = work.words_of("job", content, *more)
    log = work.directory / "job.log"
    log.unlink(missing_ok=True)
    command = work.command(*words, "--server", server)
    done = subprocess.run(
        command, cwd=work.directory, env=work.env, capture_output=True, timeout=120, check=False
    )
    kept = log.read_bytes() if log.exists() else b""
    texts = (_comparable(text) for text in (done.stdout, done.stderr, kept))
    out, err, log_text = texts
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return code, out, err, log_text


def _comparable(data: bytes) -> str:
    """Return what is printed without gpupool's own frames of tracebacks."""
    text = data.decode("utf-8", "backslashreplace")
    ours = r'  File "[^"]*/snakemake_executor_gpupool/[^"]*".*\n(    .*\n)*'
    return re.sub("item #0: |model .*?: (?=RuntimeError)", "", re.sub(ours, "", text))


@pytest.mark.parametrize(
    ("content", "more"),
    [
        ("first job", ()),
        ("second", ("--log", "job.log")),
        ("bad", ()),
        ("third", ("--param", "model=none")),
    ],
)
def test_a_client_prints_what_the_cold_command_does(
    talk: Workplace, content: str, more: tuple[str, ...]
) -> None:
    assert ran(talk, "auto", content, *more) == ran(talk, "off", content, *more)


def test_a_job_that_ends_its_process_ends_the_client_with_the_same_code(talk: Workplace) -> None:
    for content in ("exit3", "kill9"):
        served, cold = ran(talk, "auto", content), ran(talk, "off", content)
        assert served[0] == cold[0]
        assert served[2].startswith(cold[2])  # and a line that says which process has died
        assert served[2].removeprefix(cold[2]).count("\n") == 1


def test_jobs_of_one_batch_and_those_that_come_later_are_shown_it(talk: Workplace) -> None:
    assert talk.run("warm", "warm").returncode == 0
    clients = [talk.start(f"{number}", f"sleep1 word{number}") for number in range(4)]
    texts = [client.communicate(timeout=60)[1] for client in clients]
    again = talk.run("again", "sleep1").stderr
    for number, text in enumerate(texts):
        lines = text.splitlines()
        assert lines[0] == "importing"
        assert lines.count("loading") == 1
        assert f"reading {number}.txt" in lines
        assert f"word{number}" in text
        assert not any(f"reading {other}.txt" in lines for other in range(4) if other != number)
    assert sum("printed once for" in text for text in texts) >= 3, "those of one batch"
    assert "sleep1" in again
    assert "printed once for" in again


def test_a_client_whose_streams_are_closed_does_its_job(talk: Workplace) -> None:
    for content, code in (("ok", 0), ("bad", 1)):
        command = talk.command(*talk.words_of("job", content, "--json"), "--server", "auto")
        for streams in (">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"):
            (talk.directory / "job.out").unlink(missing_ok=True)
            line = ["bash", "-c", f'"$@" {streams}', "bash", *command]
            done = subprocess.run(line, cwd=talk.directory, env=talk.env, timeout=60, check=False)
            assert done.returncode == code, streams
            assert Path(talk.directory / "job.out").exists() == (code == 0)
        broken = subprocess.Popen(
            command,
            cwd=talk.directory,
            env=talk.env,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert broken.stderr is not None
        broken.stderr.close()
        out, _ = broken.communicate(timeout=60)
        assert broken.returncode == code
        assert b'"status"' in out
