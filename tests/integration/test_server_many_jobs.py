"""Very many jobs through one server: what it holds does not grow with them (G4, W7)."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from pathlib import Path

import pytest

from snakemake_executor_gpupool.frontends.server.address import namespace, root_directory
from snakemake_executor_gpupool.frontends.server.talk import encode, receive
from tests.serving import Workplace

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Jobs after which everything that is held once is held, and inputs that differ.
WARM, INPUTS = 600, 300
MAX_GROWTH_BYTES = 2000
CLIENTS = 6


class Many:
    """Sends jobs as clients do, without a process for each."""

    def __init__(self, work: Workplace) -> None:
        self.work, self.numbers = work, itertools.count()
        self.directory, self.errors = work.server_directory(), list[object]()
        for number in range(INPUTS):
            (work.directory / f"{number}.in").write_text(f"word{number} other{number}")
        words = {"tool": str(work.tool), "param": [], "log": None, "threads": 1, "device": None}
        place = {"cwd": str(work.directory), "umask": 0o022, "variables": work.env}
        place |= {"namespace": namespace(), "root": list(root_directory())}
        groups = [os.getegid(), *sorted(os.getgroups())]
        self.message = {**words, **place, "groups": groups, "type": "run"}

    def do(self, jobs: int) -> None:
        """Have so many jobs done, some at a time."""
        left = itertools.repeat(None, jobs)

        def client() -> None:
            for _ in left:
                self.one(next(self.numbers))

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def one(self, number: int) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.directory / "socket"))
            hello = receive(connection)
            assert hello is not None
            own = {"input": [[f"{number % INPUTS}.in"]], "output": [[f"{number}.out"]]}
            own |= {"rule": f"r{number % 7}", "wildcard": [[f"n={number}"]], "key": hello["key"]}
            connection.sendall(encode({**self.message, **own}))
            answer = receive(connection)
            if answer is None or answer["type"] != "done":
                self.errors.append(answer)
        (self.work.directory / f"{number}.out").unlink(missing_ok=True)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize(
    "jobs", [600, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])]
)
def test_a_server_does_not_grow_with_its_jobs(work: Workplace, jobs: int) -> None:
    assert work.run("a", "word").returncode == 0
    pid, many = work.status()["pid"], Many(work)
    many.do(WARM)
    before_bytes, before_files = resident_bytes(pid), open_files(pid)
    many.do(jobs)
    assert not many.errors, many.errors[:3]
    assert work.status()["jobs"] == {"running": 0, "done": 1 + WARM + jobs, "failed": 0}
    growth_bytes = (resident_bytes(pid) - before_bytes) / jobs
    assert growth_bytes < MAX_GROWTH_BYTES
    assert open_files(pid) <= before_files + 2
    assert work.n_loads() <= 2
    print(f"{growth_bytes:.0f} bytes a job, {resident_bytes(pid) / 2**20:.1f} MiB")
