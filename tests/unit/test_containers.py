"""Images of served rules, and the command that starts a worker in one (K1)."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.deployment.singularity import Singularity
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from snakemake_executor_gpupool.errors import Uncontainable
from snakemake_executor_gpupool.frontends import images
from snakemake_executor_gpupool.frontends.snakemake.containers import (
    container_of,
    is_read,
    read_image,
    worker_command,
)
from snakemake_executor_gpupool.hosts.containers import image_version, marked_by
from snakemake_executor_gpupool.hosts.process import PACKAGE_DIR
from snakemake_executor_gpupool.wire.requests import DEVICE_ARGUMENTS, ToolRef

Facts = dict[str, Any]


@pytest.fixture(autouse=True)
def _nothing_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "digests", {})
    monkeypatch.setattr(Singularity, "instance", None)
    program = tmp_path / "programs/apptainer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho apptainer version 1.3.4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def workflow(arguments: str = "", runtime_paths: tuple[Path, ...] = ()) -> Any:
    settings = SimpleNamespace(
        deployment_method={DeploymentMethod.APPTAINER}, apptainer_args=arguments
    )
    persistence = SimpleNamespace(path=".snakemake")
    return SimpleNamespace(
        deployment_settings=settings, runtime_paths=list(runtime_paths), persistence=persistence
    )


def job(path: Path | str, *, is_local: bool = True) -> Any:
    image = SimpleNamespace(url=str(path), path=str(path), is_local=is_local)
    return SimpleNamespace(container_img_url=str(path), container_img=image)


def ref(found: Any) -> ToolRef:
    return ToolRef("t.py:T", "/w", "python", container=found)


def test_an_image_is_told_by_its_content(tmp_path: Path) -> None:  # K1 C2
    one, copy, other = (tmp_path / name for name in ("one.sif", "copy.sif", "other.sif"))
    one.write_bytes(b"image")
    copy.write_bytes(b"image")
    other.write_bytes(b"imagE")
    flow = workflow()
    assert not is_read(flow, job(one))
    found = [container_of(flow, job(path)) for path in (one, copy, other)]
    assert is_read(flow, job(one))
    digests = [each.digest for each in found if each is not None]
    assert digests[0] == digests[1] != digests[2]
    # sha256sum of the five letters.
    image = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert digests[0] == f"sha256:{image}"
    assert ref(found[0]).surroundings == ref(found[1]).surroundings != ref(found[2]).surroundings
    bound = container_of(workflow("--bind /data"), job(one))
    assert ref(bound).surroundings != ref(found[0]).surroundings, "it may see another file"
    assert ref(None).surroundings == ""


def test_an_image_that_was_replaced_is_another_one(tmp_path: Path) -> None:  # K1 C2
    path = tmp_path / "image.sif"
    path.write_bytes(b"image")
    before = container_of(workflow(), job(path))
    status = path.stat()
    path.write_bytes(b"imagE")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_read(workflow(), job(path)), "its time was set back"
    after = container_of(workflow(), job(path))
    assert before is not None and after is not None and before.digest != after.digest


def test_an_image_may_be_a_directory(tmp_path: Path) -> None:  # K1
    def digest(root: Path) -> str:
        images.digests.clear()
        return read_image(str(root))[1]

    root = tmp_path / "box"
    (root / "bin").mkdir(parents=True)
    (root / "bin/python").write_text("python")
    (root / "sh").symlink_to("bin/python")
    first = digest(root)
    (tmp_path / "copy").mkdir()
    subprocess.run(["cp", "-a", f"{root}/.", str(tmp_path / "copy")], check=True)
    assert digest(tmp_path / "copy") == first
    changes = [
        lambda: (root / "bin/python").write_text("pythoN"),
        lambda: (root / "bin/python").chmod(0o755),
        (root / "bin/more").mkdir,
        lambda: (root / "bin/python").rename(root / "bin/python3"),
        lambda: ((root / "sh").unlink(), (root / "sh").symlink_to("bin/python3")),
    ]
    seen = {first}
    for change in changes:
        change()
        seen.add(digest(root))
    assert len(seen) == 1 + len(changes)


def test_an_image_that_is_not_there_is_said(tmp_path: Path) -> None:  # K1
    with pytest.raises(Uncontainable, match=r"gone.sif is not there"):
        container_of(workflow(), job(tmp_path / "gone.sif"))
    remote = job("docker://x/y", is_local=False)
    with pytest.raises(Uncontainable, match=r"docker://x/y was not pulled yet.*--conda-create"):
        container_of(workflow(), remote)


def test_an_image_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1 C2
    path = tmp_path / "image.sif"
    path.write_bytes(b"image")

    def changing(name: str) -> str:
        path.write_bytes(path.read_bytes() + b"x")
        return "0" * 64

    monkeypatch.setattr(images, "_digest", changing)
    with pytest.raises(Uncontainable, match="changes while it is read"):
        read_image(str(path))


def test_the_command_is_snakemake_s_with_what_a_worker_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1
    work, tools, paths = (tmp_path / name for name in ("w d", "tools", "runtime"))
    for directory in (work, tools, paths):
        directory.mkdir()
    monkeypatch.chdir(work)
    image = work / "image.sif"
    image.write_bytes(b"image")
    flow = workflow("--bind /data --cleanenv", (paths,))
    found = container_of(flow, job("image.sif"))
    assert found is not None and found.arguments == "--bind /data --cleanenv"
    places = [f"{tools}:ro", str(work / "inner"), str(tmp_path / "absent"), str(tools)]
    command = worker_command(flow, found, places, None)
    first, *words = shlex.split(command)
    binary = words.pop(0)
    assert first == "exec" and binary == "apptainer"
    digest = found.digest.removeprefix("sha256:")[:16]
    assert found.notes == str(work / ".snakemake/gpupool-digests" / digest), "seen inside"
    assert words[:3] == ["exec", "--home", str(work)]
    assert words[3:6] == ["--bind", "/data", "--cleanenv"]
    binds = [word for before, word in itertools.pairwise(words) if before == "--bind"]
    package = f"{PACKAGE_DIR}:{PACKAGE_DIR}:ro"
    own = [package, f"{tools}:{tools}:ro", f"{tools}:{tools}", str(paths)]
    assert binds == ["/data", *own]
    assert words[words.index(DEVICE_ARGUMENTS) + 3 :][:3] == [str(image), "sh", "-c"]
    assert words[-1].startswith("for python in python python3; do") and len(words[-4:]) == 4
    tools.rename(tmp_path / "to:ols")
    with pytest.raises(Uncontainable, match="a colon"):
        worker_command(flow, found, [str(tmp_path / "to:ols")], None)


def test_a_conda_environment_is_entered_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K1 S5
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.sif").write_bytes(b"image")
    found = container_of(workflow(), job("image.sif"))
    assert found is not None
    conda = SimpleNamespace(shellcmd=lambda prefix, command: f"source a '{prefix}'; {command}")
    env = SimpleNamespace(conda=conda, address="/conda-envs/1f", name=None)
    command = worker_command(workflow(), found, [], env)
    assert command.startswith("unset R_LIBS PYTHONPATH PERLLIB PERL5LIB; exec ")
    *_, shell, option, inner = shlex.split(command)
    assert (shell, option) == ("bash", "-c")
    assert inner.startswith("source a '/conda-envs/1f'; [ ")
    # The image has a Python, too: a worker in no environment would be a wrong one.
    words = ["bash", "-c", inner.partition("; ")[2]]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "the conda environment /conda-envs/1f could not be activated in the" in said.stderr
    named = SimpleNamespace(conda=conda, address="mine", name="mine")
    assert 'CONDA_DEFAULT_ENV:-}" = mine ]' in worker_command(workflow(), found, [], named)


def test_without_apptainer_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.sif").write_bytes(b"image")
    found = container_of(workflow(), job(tmp_path / "image.sif"))
    assert found is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Uncontainable, match="apptainer or singularity command has to be"):
        worker_command(workflow(), found, [], None)


def test_the_version_of_an_image_is_the_same_on_every_machine(tmp_path: Path) -> None:
    path = tmp_path / "image.sif"
    path.write_bytes(b"image")
    status = path.stat()
    numbers = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert image_version(str(path)) == ".".join(map(str, numbers)), "no number of a device"
    assert image_version(str(tmp_path / "absent")) == ""


def test_a_process_is_found_by_what_it_inherits() -> None:  # K1
    environment = {**os.environ, "MARK": "abc"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(["sh", "-c", "echo; read x"], env=environment, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline()  # it has begun
        assert marked_by("MARK", "abc")(process.pid)
        assert not marked_by("MARK", "ab")(process.pid)
        assert not marked_by("MARK", "abc")(os.getpid())
        process.kill()
    assert not marked_by("MARK", "abc")(process.pid), "it has ended"


def test_jobs_of_two_images_share_no_worker(tmp_path: Path) -> None:  # K1
    (tmp_path / "a").write_bytes(b"a")
    found = container_of(workflow(), job(tmp_path / "a"))
    assert found is not None
    tool, other = ref(found), ref(dataclasses.replace(found, digest="sha256:b"))
    assert tool != other and ref(found) == tool
