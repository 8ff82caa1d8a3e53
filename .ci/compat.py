"""Runs tests under other releases of Snakemake than the one in .venv: the oldest and the newest.

    python .ci/compat.py [--smoke] [--snakemake RELEASE]... [PYTEST ARGUMENT...]

Each release gets an environment of its own in .venv-compat/, which has what differs and takes all
else from .venv. The oldest is the lower bound of `snakemake` in pyproject.toml's group `test`, with
the oldest interfaces that pyproject.toml and that release allow; the newest is what the package
index has within the bounds. With --smoke: the oldest alone, and a few tests (under a minute).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".venv-compat"
#: Snakemake is used in all of these: what it hands to an executor, and what it makes of the rest.
TESTS = [
    "tests/unit/test_deployment.py",
    "tests/unit/test_executor.py",
    "tests/unit/test_needs.py",
    *(
        f"tests/acceptance/test_{name}.py"
        for name in (
            *("official", "served", "rule_kinds", "matrix", "groups", "environments", "guesses"),
            *("merging", "kept", "provenance", "plan", "limits", "card_models", "without_gpu"),
            *("log_events", "after_failure", "bad_input", "check_rule"),
        )
    ),
]
SMOKE = ["tests/unit/test_needs.py", "tests/acceptance/test_official.py"]


def bounds() -> tuple[str, str]:
    """Return the oldest release of Snakemake that is supported, and the whole requirement."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (wanted,) = [
        line for line in project["dependency-groups"]["test"] if re.match(r"snakemake\s*>=", line)
    ]
    match = re.search(r">=\s*([0-9.]+)", wanted)
    assert match is not None
    return match[1], wanted


def interfaces() -> list[str]:
    """Return which of Snakemake's interfaces gpupool needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = project["project"]["dependencies"]
    return [line for line in needed if line.startswith("snakemake-interface")]


def at_lower_bound(requirement: str) -> str:
    """Return the oldest release that a requirement allows."""
    return re.sub(r"\s*>=\s*([0-9.]+).*", r"==\1", requirement)


def environment(name: str, requirements: list[str]) -> Path:
    """Make an environment in which Snakemake differs from that of .venv; return its programs."""
    prefix = PLACE / name
    python = prefix / "bin" / "python"
    if not python.exists():
        venv.create(prefix, with_pip=False, symlinks=True)
        layer = Path(
            subprocess.check_output(
                [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
            ).strip()
        )
        below = sysconfig.get_path("purelib")
        (layer / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, *requirements], check=True)
    _take_programs(prefix / "bin")
    return prefix / "bin"


def _take_programs(programs: Path) -> None:
    """Give an environment the programs of .venv, such as gpupool and Jupyter's, as its own."""
    own = f"#!{sys.executable}\n".encode()
    for program in Path(sys.executable).parent.iterdir():
        if program.is_file() and not (programs / program.name).exists():
            text = program.read_bytes()
            if text.startswith(own):
                copy = programs / program.name
                copy.write_bytes(f"#!{programs / 'python'}\n".encode() + text.removeprefix(own))
                copy.chmod(0o755)


def run(programs: Path, tests: list[str]) -> int:
    """Run tests with an environment's Python and programs."""
    path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # What failed last is noted by the tests that run beside these.
    command = [str(programs / "python"), "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    command += tests
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode


def main() -> int:
    """Run the tests under each release; return 1 if any of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="the oldest alone, a few tests")
    parser.add_argument(
        "--snakemake", action="append", metavar="RELEASE", help="this release instead"
    )
    options, arguments = parser.parse_known_args()
    oldest, whole = bounds()
    if options.snakemake:
        releases = {name: [f"snakemake=={name}"] for name in options.snakemake}
    else:
        old = [f"snakemake=={oldest}", *map(at_lower_bound, interfaces())]
        releases = {f"oldest-{oldest}": old}
        if not options.smoke:
            releases["newest"] = ["--upgrade", whole, *interfaces()]
    tests = SMOKE if options.smoke else TESTS
    failed = []
    for name, requirements in releases.items():
        programs = environment(name, requirements)
        version = subprocess.check_output([programs / "snakemake", "--version"], text=True).strip()
        print(f"== Snakemake {version} ({name})", flush=True)
        if run(programs, arguments or tests):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
