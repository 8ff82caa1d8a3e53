"""Containers for tests: a stand-in for Apptainer, and minimal roots with a Python of their own."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

STANDIN = Path(__file__).resolve().parent / "tools" / "apptainer"
#: What a root has beside its Python.
PROGRAMS = ("sh", "bash", "cat", "env", "ls", "tr", "sleep", "mkdir", "touch", "rm", "dirname")
PROGRAMS += ("head", "id", "readlink", "sort")
#: Parts of a standard library that no worker needs.
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages")
LEFT_OUT += ("dist-packages", "turtledemo", "pydoc_data", "config-*")
DESCRIBE = """
import json, sys, sysconfig
print(json.dumps([sys.executable, sysconfig.get_path("stdlib"), sys.version_info[:2]]))
"""


@functools.cache
def why_not() -> str:
    """Return why there are no containers here; empty: there are."""
    if shutil.which("bwrap") is None:
        return "bubblewrap, which makes the namespaces of the stand-in for Apptainer, is not there"
    command = ["bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no namespaces can be had here: {done.stderr.strip()}" if done.returncode else ""


def with_apptainer(*more: str) -> dict[str, str]:
    """Return the variables of a run that finds the stand-in."""
    return {"PATH": os.pathsep.join([*more, str(STANDIN), os.environ["PATH"]])}


def make_root(root: Path, python: str = sys.executable) -> Path:
    """Make a minimal root in which there is a Python, copied from one of this machine."""
    said = subprocess.run([python, "-c", DESCRIBE], capture_output=True, text=True, check=True)
    executable, library, version = json.loads(said.stdout)
    name = f"python{version[0]}.{version[1]}"
    for directory in ("usr/local/bin", "usr/local/lib", "bin", "etc", "tmp", "var/tmp", "mnt"):
        (root / directory).mkdir(parents=True)
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    there = root / "usr/local/lib" / name
    shutil.copytree(library, there, ignore=ignored, symlinks=True, copy_function=_link_or_copy)
    own = root / "usr/local/bin" / name
    shutil.copy2(os.path.realpath(executable), own)
    for alias in ("python", "python3"):
        (own.parent / alias).symlink_to(name)
    programs = [os.path.realpath(found) for each in PROGRAMS if (found := shutil.which(each))]
    names = [each for each in PROGRAMS if shutil.which(each)]
    for each, program in zip(names, programs, strict=True):
        shutil.copy2(program, root / "bin" / each)
    _copy_libraries(root, [str(own), *programs, *map(str, there.rglob("*.so"))])
    return root


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)  # containers see images read only
    except OSError:
        shutil.copy2(source, target)


def _copy_libraries(root: Path, binaries: Iterable[str]) -> None:
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    for library in sorted(set(re.findall(r"(/\S+) \(0x", done.stdout))):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(os.path.realpath(library), target)


def make_image(path: Path, root: Path, label: str = "", **variables: str) -> Path:
    """Make an image of a root, as a file; another label or variable makes it another image."""
    lines = [str(root), f"# {label}", *(f"{name}={value}" for name, value in variables.items())]
    path.write_text("\n".join(lines) + "\n")
    return path
