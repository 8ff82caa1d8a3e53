"""Collect the wheels that a GPU machine without a package index needs for ``make gpu``.

The machine has Python 3.12 with what ``THERE`` names; everything else that the tests and benches
need is taken in the very versions that are installed here, as wheels for that Python. The folder
is ignored by git and travels with the tree::

    python .ci/gpu_wheels.py FOLDER [PYTHON_VERSION]
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

#: What the machine has; small things that these need are taken along all the same.
THERE = (
    *("torch", "numpy", "pandas", "pyarrow", "transformers", "sentence-transformers"),
    *("nvidia-ml-py", "pytest", "hypothesis"),
)
#: What ``make gpu`` needs beyond gpupool's own requirements; these with all that they need.
NEEDED = ("snakemake", "snakemake-interface-executor-plugins", "snakemake-interface-common")
NEEDED += ("psutil", "pytest-timeout", "hatchling")
#: These alone: what they need is there.
ALONE = ("fair-esm", "editables")
PYTHON = sys.argv[2] if len(sys.argv) > 2 else "3.12"
#: pip matches the number of a manylinux platform exactly.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
#: What the tree may weigh when it travels.
MAX_MIB = 48


def canonical(name: str) -> str:
    """Return a distribution's name as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: tuple[str, ...]) -> set[str]:
    """Return these distributions and all that they need, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonical(waiting.pop())
        if name in found or not is_installed(name):
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            if "extra ==" not in line:
                waiting.append(re.split(r"[^\w.-]", line, maxsplit=1)[0])
    return found


def is_installed(name: str) -> bool:
    """Whether a distribution is here; what only other platforms need is not."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def fetch(name: str, folder: Path) -> None:
    """Put one wheel into the folder: a published one, else one made of the sources.

    Raises
    ------
    SystemExit
        There is none for that Python.
    """
    spec = f"{name}=={importlib.metadata.version(name)}" if is_installed(name) else name
    pip = [sys.executable, "-m", "pip", "--quiet"]
    binary = ["download", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON]
    binary += ["--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        binary += ["--platform", platform]
    if subprocess.run([*pip, *binary, spec], check=False, capture_output=True).returncode == 0:
        return
    made = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), spec]
    done = subprocess.run(made, check=False, capture_output=True, text=True)
    wheels = list(folder.glob(f"{name.replace('-', '_')}-*-none-any.whl"))
    if done.returncode or not wheels:
        sys.exit(f"gpu-wheels: no wheel of {spec} for Python {PYTHON}\n{done.stderr}")


def main() -> None:
    """Fill the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    names = sorted((closure(NEEDED) - set(THERE)) | set(ALONE))
    for name in names:
        fetch(name, folder)
        print(f"  {name}", flush=True)
    size_mib = sum(wheel.stat().st_size for wheel in folder.glob("*.whl")) / 1024**2
    print(f"{len(names)} wheels, {size_mib:.0f} MiB, in {folder}")
    if size_mib > MAX_MIB:
        sys.exit(f"gpu-wheels: more than {MAX_MIB} MiB")


if __name__ == "__main__":
    main()
