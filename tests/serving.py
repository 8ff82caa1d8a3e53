"""A server of a test's own, and clients of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.waiting import eventually

#: Says what it computed, under which variable; each load leaves a file.
TOOL = """
import os
import time

from snakemake_executor_gpupool import Tool

WORD = "loud"


class Shout(Tool):
    version = "1"
    devices = ("cpu",)
    defaults = {"model": "m", "suffix": "!"}
    reload_on = ("model",)

    def read(self, job):
        with open(job.input[0]) as lines:
            yield from lines.read().split()

    def load(self, device):
        with open(os.path.join(os.environ["LOADS"], str(os.getpid())), "w"):
            pass
        self.mode = os.environ.get("MODE", "")

    def run(self, items):
        for item in items:
            if item.startswith("sleep"):
                time.sleep(float(item[5:]))
            if item == "bad":
                raise ValueError("a bad item")
        return [f"{item.upper()} {WORD}{self.mode}" for item in items]

    def write(self, job, results):
        with open(job.output[0], "w") as out:
            out.write("".join(f"{result}{self.params['suffix']}\\n" for result in results))
"""


class Workplace:
    """A directory with a tool, a server that only its clients find, and what they print."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loads = directory / "loads"
        self.loads.mkdir()
        self.tool = directory / "shout.py"
        self.tool.write_text(TOOL)
        # Part of the key, so that no other server is found.
        mine = {"GPUPOOL_PROFILE": str(directory / "profile.json"), "LOADS": str(self.loads)}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("GPUPOOL_")} | mine

    def command(self, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "snakemake_executor_gpupool.frontends.commandline.main",
            *words,
        ]

    def gpupool(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=cwd or self.directory,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=120,
            check=False,
        )

    def words_of(self, name: str, content: str, *more: str, cwd: Path | None = None) -> list[str]:
        """Return the command line of a job; its input is made."""
        place = cwd or self.directory
        (place / f"{name}.txt").write_text(content)
        files = "--input", f"{name}.txt", "--output", f"{name}.out"
        return ["run", str(self.tool), *files, *more]

    def run(
        self,
        name: str,
        content: str,
        *more: str,
        server: str = "auto",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        words = self.words_of(name, content, *more, cwd=cwd)
        return self.gpupool(*words, "--server", server, cwd=cwd, env=env)

    def start(
        self, name: str, content: str, *more: str, server: str = "auto", **options: Any
    ) -> subprocess.Popen[str]:
        """Start a client, and do not wait for it."""
        words = self.words_of(name, content, *more)
        return subprocess.Popen(
            self.command(*words, "--server", server),
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            **options,
        )

    def out(self, name: str) -> str:
        return (self.directory / f"{name}.out").read_text()

    def out_exists(self, name: str) -> bool:
        return (self.directory / f"{name}.out").exists()

    def n_loads(self) -> int:
        return len(list(self.loads.iterdir()))

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.gpupool("serve", "--status", "--json").stdout)
        return status

    def server_directory(self) -> Path:
        return Path(self.status()["directory"])

    def end(self) -> None:
        """Have the server end, and see that it does."""
        status = self.status()
        if status["type"] == "none":
            return
        os.kill(status["pid"], signal.SIGTERM)
        assert eventually(lambda: not Path(f"/proc/{status['pid']}").exists(), 30.0)


def processes_of(directory: Path) -> list[int]:
    """Return the processes whose environment or command line names a directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            text = place.joinpath("environ").read_bytes() + place.joinpath("cmdline").read_bytes()
            is_over = place.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if os.fsencode(directory) in text and int(place.name) != os.getpid() and not is_over:
            found.append(int(place.name))
    return found
