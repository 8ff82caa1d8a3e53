"""Worker processes in containers: started, judged from outside, ended (K1, W4, W7, S10)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from snakemake_executor_gpupool.devices.device import cpu_slot
from snakemake_executor_gpupool.frontends.snakemake.containers import container_of, worker_command
from snakemake_executor_gpupool.hosts.base import FrameArrived, WorkerGone
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.wire.requests import ToolRef
from tests import containers
from tests.containers import STANDIN, make_image, make_root
from tests.integration.test_local_host import Watched, is_alive
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(bool(containers.why_not()), reason=containers.why_not())

TOOL = '''
import os
import subprocess
import sys
from snakemake_executor_gpupool import Tool

# A program that has left the worker's session and process group.
waits = [sys.executable, "-c", "import time; time.sleep(600)"]
left = subprocess.Popen(waits, start_new_session=True)


class Waits(Tool):
    """Does nothing."""

    def load(self, device):
        pass

    def read(self, job):
        return []

    def run(self, items):
        return items

    def write(self, job, results):
        pass
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("image") / "root")


class Contained:
    """A host, and a worker in a container with process ids of its own, or not."""

    def __init__(self, directory: Path, image: Path, arguments: str) -> None:
        (directory / "waits.py").write_text(TOOL)
        settings = SimpleNamespace(
            deployment_method={DeploymentMethod.APPTAINER}, apptainer_args=arguments
        )
        workflow: Any = SimpleNamespace(
            deployment_settings=settings,
            runtime_paths=[],
            persistence=SimpleNamespace(path=directory / ".snakemake"),
        )
        of_rule = SimpleNamespace(url=image.name, path=str(image), is_local=True)
        job: Any = SimpleNamespace(container_img_url=image.name, container_img=of_rule)
        container = container_of(workflow, job)
        assert container is not None
        command = worker_command(workflow, container, [], None)
        spec = str(directory / "waits.py")
        self.tool = ToolRef(spec, str(directory), "python", "", (), command, container=container)
        self.paths = RunPaths(directory / "runs")
        self.paths.create()
        self.host = LocalHost(self.paths, 1)
        self.watched = Watched(self.host)

    def start(self) -> int:
        """Start the worker, wait for its word, and return the process that was started for it."""
        pid = self.host.start("w1", self.tool, (cpu_slot(0),))
        assert pid is not None
        arrived = self.watched.until((FrameArrived, WorkerGone))  # type: ignore[arg-type]
        assert isinstance(arrived, FrameArrived), arrived
        assert arrived.frame.type == "tool", arrived.frame.meta
        return pid

    def inside(self, pid: int) -> list[psutil.Process]:
        """All that was started for the worker, seen from outside."""
        return psutil.Process(pid).children(recursive=True)

    def close(self) -> None:
        self.host.close(lambda end: None)
        self.paths.remove_spools()
        self.paths.remove_staged()


@pytest.fixture(params=["", "--pid", "--containall"])
def contained(
    request: pytest.FixtureRequest, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Contained]:
    monkeypatch.setenv("PATH", f"{STANDIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    made = Contained(tmp_path, make_image(tmp_path / "image.sif", root), request.param)
    yield made
    made.close()


def are_over(processes: list[psutil.Process]) -> bool:
    return not any(is_alive(process.pid) for process in processes)


@pytest.mark.parametrize("way", ["told", "terminated", "killed", "front alone", "from inside"])
def test_nothing_is_left_however_a_worker_ends(contained: Contained, way: str) -> None:  # W7 S10
    pid = contained.start()
    inside = contained.inside(pid)
    running = contained.host._running["w1"]
    pythons = [p for p in inside if "waits" not in p.name() and running.is_its(p.pid)]
    assert len(inside) >= 2 and pythons, "the tool's own program is there"
    assert set(contained.host.pids()) >= {pid, *(process.pid for process in pythons)}
    assert not running.is_its(os.getpid())
    worker = next(p for p in inside if "main.py" in " ".join(p.cmdline()) and p.name() != "bwrap")
    if way == "told":
        contained.host.stop("w1")
    elif way == "terminated":
        running.process.terminate()
    elif way == "killed":
        contained.host.stop("w1", force=True)
    elif way == "front alone":
        os.kill(pid, signal.SIGKILL)
    else:
        worker.kill()
    gone = contained.watched.until(WorkerGone)
    assert isinstance(gone, WorkerGone)
    assert eventually(lambda: are_over(inside)), "something in the container goes on"
    if way == "from inside":
        assert "killed by SIGKILL in its container" in gone.reason
    assert gone.expected == (way in ("told", "killed"))


def test_a_killed_coordinator_leaves_nothing(tmp_path: Path, root: Path) -> None:  # S10 W7
    make_image(tmp_path / "image.sif", root)
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.integration.test_containers import Contained\n"
        "made = Contained(Path.cwd(), Path('image.sif').absolute(), '--containall')\n"
        "pid = made.start()\n"
        "print(*[pid, *(each.pid for each in made.inside(pid))], flush=True)\n"
        "time.sleep(600)\n"
    )
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PATH": f"{STANDIN}{os.pathsep}{os.environ['PATH']}"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) > 2
        process.kill()
    assert eventually(lambda: not any(map(is_alive, pids)))


def test_an_image_without_a_python_is_said(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1 W8
    bare = tmp_path / "bare"
    (bare / "usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "etc"):
        if (root / name).exists():
            (bare / name).symlink_to(root / name)
    for name in ("tmp", "var/tmp"):
        (bare / name).mkdir(parents=True)
    subprocess.run(["cp", "-rLT", str(root / "bin"), str(bare / "b")], check=True)
    (bare / "bin").unlink()
    (bare / "b").rename(bare / "bin")
    for name in ("lib", "lib64"):
        if (bare / name).is_symlink():
            (bare / name).unlink()
            subprocess.run(["cp", "-rL", str(root / name), str(bare / name)], check=True)
    monkeypatch.setenv("PATH", f"{STANDIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    made = Contained(tmp_path, bare, "")
    try:
        made.host.start("w1", made.tool, ())
        gone = made.watched.until(WorkerGone)
        assert isinstance(gone, WorkerGone)
        assert "a worker needs Python 3.9 or newer, and the container bare has none" in gone.reason
    finally:
        made.close()
