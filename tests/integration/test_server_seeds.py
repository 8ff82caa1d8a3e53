"""Never a wrong worker: whatever changes or dies at random, under clients at work.

Tool code, what it imports, data, weights, variables, its software environment and gpupool itself
change; clients, workers and servers are killed. What a client writes must be what all of these
were at some moment between the client's start and its end. ``make seeds`` tries a hundred.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import snakemake_executor_gpupool
from tests.serving import Workplace, processes_of
from tests.waiting import eventually

SEEDS = int(os.environ.get("GPUPOOL_SEEDS", "2"))
STEPS = 14
TOOL = """
import os
import time

from snakemake_executor_gpupool import Tool

import dep
from helper import MARK
from snakemake_executor_gpupool.tool_api import values

WORD = "w0"


class Say(Tool):
    devices = ("cpu",)
    defaults = {"model": "m"}
    reload_on = ("model",)

    def read(self, job):
        with open(job.input[0]) as lines:
            yield from lines.read().split()

    def load(self, device):
        with open(self.params["model"]) as weights:
            self.weights = weights.read()
        with open(os.path.join(os.path.dirname(__file__), "data.txt")) as data:
            self.data = data.read()

    def run(self, items):
        import late

        time.sleep(0.05)
        mode = os.environ.get("MODE", "")
        now = f"{WORD} {MARK} {late.LATE} {self.weights} {self.data} {dep.VALUE} {values.GPUPOOL}"
        return [f"{item} {now} {mode}" for item in items]

    def write(self, job, results):
        with open(job.output[0], "w") as out:
            out.write("\\\\n".join(results) + "\\\\n")
""".replace("\\\\", "\\")


@dataclass
class Client:
    """A client at work, and what it may write."""

    name: str
    process: subprocess.Popen[str]
    mode: str
    items: list[str]
    allowed: list[tuple[str, ...]]
    is_killed: bool = False


@dataclass
class Story:
    """One seed: what the tool is made of, and who is at work."""

    work: Workplace
    chance: random.Random
    state: dict[str, str] = field(default_factory=dict)
    clients: list[Client] = field(default_factory=list)
    number: int = 0
    directories: set[Path] = field(default_factory=set)
    environments: int = 0

    FILES = ("word", "mark", "late", "weights", "data", "environment", "gpupool")

    def begin(self) -> None:
        source, place = Path(snakemake_executor_gpupool.__file__).parent, self.work.directory
        self.package = place / "lib" / source.name
        shutil.copytree(source, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.values = (self.package / "tool_api" / "values.py").read_text()
        self.work.env["PYTHONPATH"] = f"{self.package.parent}:{place / 'environment'}"
        for name in self.FILES:
            self.state[name] = f"{name[0]}0"
            self.write(name)

    def write(self, name: str) -> None:
        value, place = self.state[name], self.work.directory
        if name == "environment":
            self.make_environment(value)
            return
        content = {
            "word": ("say.py", TOOL.replace('"w0"', f'"{value}"')),
            "mark": ("helper.py", f"MARK = '{value}'\n"),
            "late": ("late.py", f"LATE = '{value}'\n"),
            "weights": ("weights.bin", value),
            "data": ("data.txt", value),
            "gpupool": (
                "lib/snakemake_executor_gpupool/tool_api/values.py",
                f"{self.values}\n\nGPUPOOL = '{value}'\n",
            ),
        }[name]
        target = place / content[0]
        if target.exists() and name != "gpupool" and self.chance.random() < 0.5:
            with target.open("r+") as file:  # the same file, as long as before
                file.write(content[1])
        else:
            staged = target.with_name(f".{target.name}.tmp")
            staged.write_text(content[1])
            staged.replace(target)
        if name == "gpupool":
            self.directories.add(self.work.server_directory())

    def make_environment(self, value: str) -> None:
        """Make the software environment anew: same place, same versions, other content."""
        self.environments += 1
        place = self.work.directory / f"environment-{self.environments}"
        (place / "dep").mkdir(parents=True)
        (place / "dep" / "__init__.py").write_text(f"VALUE = '{value}'\n")
        (place / "dep-1.0.dist-info").mkdir()
        (place / "dep-1.0.dist-info" / "METADATA").write_text("Name: dep\nVersion: 1.0\n")
        (place / "dep-1.0.dist-info" / "RECORD").write_text("dep/__init__.py,,\n")
        link = self.work.directory / "environment.tmp"
        link.symlink_to(place)
        link.replace(self.work.directory / "environment")

    def now(self) -> tuple[str, ...]:
        return tuple(self.state[name] for name in self.FILES)

    def edit(self) -> None:
        name = self.chance.choice(self.FILES)
        # While the file is written, either value is right.
        values = [f"{name[0]}{n}" for n in range(3)]
        self.state[name] = self.chance.choice(values)
        for client in self.clients:
            client.allowed.append(self.now())
        self.write(name)

    def start(self) -> None:
        self.number += 1
        name = f"job{self.number}"
        items = [f"item{self.chance.randrange(6)}" for _ in range(self.chance.randint(1, 3))]
        mode = self.chance.choice(["x", "y"])
        place = self.work.directory
        (place / f"{name}.txt").write_text(" ".join(items))
        model = self.chance.choice(["weights.bin", str(place / "weights.bin")])
        files = "--input", f"{name}.txt", "--output", f"{name}.out", "--param", f"model={model}"
        process = subprocess.Popen(
            self.work.command("run", "say.py", *files, "--server", "auto"),
            cwd=place,
            env={**self.work.env, "MODE": mode},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.clients.append(Client(name, process, mode, items, [self.now()]))

    def kill_client(self) -> None:
        if self.clients:
            client = self.chance.choice(self.clients)
            number = self.chance.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
            client.process.send_signal(number)
            client.is_killed = True

    def kill_server(self) -> None:
        status = self.work.status()
        if status["type"] == "status":
            os.kill(status["pid"], signal.SIGKILL)

    def kill_worker(self) -> None:
        workers = [
            pid
            for pid in processes_of(self.work.loads)
            if b"worker/main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        if workers:
            os.kill(self.chance.choice(workers), signal.SIGKILL)

    def own_server(self) -> subprocess.Popen[bytes]:
        """Start a server that ends soon; one that a killed client has started may be in the way."""
        # Long enough for its clients on a busy machine: late ones would start another server.
        words = "serve", "--idle-timeout", "0.5", "--server-idle-timeout", "10"
        while True:
            self.work.end()
            server = subprocess.Popen(
                self.work.command(*words),
                env=self.work.env,
                cwd=self.work.directory,
                stderr=subprocess.DEVNULL,
            )
            while server.poll() is None:
                if self.work.status().get("pid") == server.pid:
                    return server

    def nobody_stays(self) -> None:
        """A server whose jobs are over ends with all that it has started, by itself."""
        server = self.own_server()
        self.start()
        self.start()
        self.kill_client()
        self.settle()
        assert server.wait(timeout=60) == 0 and self.work.status()["type"] == "none"
        assert eventually(lambda: not processes_of(self.work.loads))

    def settle(self) -> None:
        for client in self.clients:
            _, words = client.process.communicate(timeout=180)
            output = self.work.directory / f"{client.name}.out"
            if client.is_killed and not output.exists():
                continue
            if not client.is_killed:
                assert client.process.returncode == 0, words
            lines = output.read_text().splitlines()
            right = [
                [f"{item} {' '.join(state)} {client.mode}" for item in client.items]
                for state in client.allowed
            ]
            # Between two edits files may be read in any order: each value must be of its time.
            assert len(lines) == len(client.items)
            for line, item in zip(lines, client.items, strict=True):
                head, *values, mode = line.split(" ")
                assert (head, mode) == (item, client.mode), (line, right)
                for position, value in enumerate(values):
                    times = {state[position] for state in client.allowed}
                    assert value in times, (line, client.allowed, words)
            if len(set(client.allowed)) == 1:
                assert lines == right[0]
        self.clients = []


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_result_is_of_another_time(seed: int, tmp_path: Path) -> None:  # G4
    story = Story(Workplace(tmp_path), random.Random(seed))
    story.begin()
    steps = [story.start] * 6 + [story.edit] * 4 + [story.settle] * 3
    steps += [story.kill_client, story.kill_server, story.kill_worker]
    try:
        for _ in range(STEPS):
            story.chance.choice(steps)()
            if story.chance.random() < 0.3:
                time.sleep(story.chance.uniform(0.0, 0.4))
        story.settle()
        story.start()
        story.settle()
        if seed % 2 == 0:
            story.nobody_stays()
    finally:
        for client in story.clients:
            client.process.kill()
        is_over = eventually(lambda: story.work.end() or not processes_of(story.work.loads), 60.0)
        for directory in story.directories:
            shutil.rmtree(directory, ignore_errors=True)
    assert is_over
