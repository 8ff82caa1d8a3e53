"""Everything that needs a GPU, in one command: tests, figures, and what they break.

The machine may be bare: Python 3.12 with torch, numpy, transformers, pandas, pyarrow, pytest,
hypothesis and nvidia-ml-py, no network. What is missing comes as wheels (``make gpu-wheels``)::

    python3 bench/gpu/run.py --out DIRECTORY          all of it, within nine minutes
    python3 bench/gpu/run.py --only facts tests       some of it
    python3 bench/gpu/run.py --rehearse               without a GPU, small: only CUDA itself is new

The most important steps come first. ``gpu.json`` is written anew after each of them, so that
figures stay if the time runs out; ``gpu.log`` has all that they printed. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from steps import STEPS, Step

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "out" / "gpu"
BUDGET_S = 540.0
#: A rehearsal computes on two busy cores what a GPU does in no time.
REHEARSAL_BUDGET_S = 1800.0
#: What a step needs at least to be worth a start.
MIN_STEP_S = 20.0


def set_up(out: Path, wheelhouse: Path) -> Path:
    """Make an environment over this Python's packages; return its Python.

    Raises
    ------
    subprocess.CalledProcessError
        A wheel does not fit this Python.
    """
    venv = out / "venv"
    python = venv / "bin" / "python"
    if python.exists():
        return python
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "install"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site = next(venv.glob("lib/python3*/site-packages"))
    parent = sysconfig.get_paths()["purelib"]
    (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    wheels = [str(wheel) for wheel in sorted(wheelhouse.glob("*.whl"))]
    if not wheels:
        sys.exit(f"gpu: there are no wheels in {wheelhouse}; `make gpu-wheels` collects them")
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-compile", *wheels], check=True)
    here = ["--no-index", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    subprocess.run([*pip, *here], check=True)
    return python


def environment(python: Path, rehearse: bool) -> dict[str, str]:
    """Return the environment of the steps."""
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    known = {key: value for key, value in os.environ.items() if not key.startswith("GPUPOOL_")}
    known |= {"PATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    known["PYTHONPATH"] = str(ROOT / "bench")
    return known | ({"CUDA_VISIBLE_DEVICES": ""} if rehearse else {})


def run_step(step: Step, python: Path, log: Path, limit_s: float, rehearse: bool) -> dict[str, Any]:
    """Run one step; return its figures, whatever it has printed of them before it ended."""
    command = [str(python), *step.command(rehearse)]
    started_s = time.monotonic()
    with log.open("ab") as stream:
        stream.write(f"\n== {step.name}: {' '.join(command)}\n".encode())
        stream.flush()
        offset = stream.tell()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(python, rehearse),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with log.open("rb") as stream:
        stream.seek(offset)
        printed = stream.read().decode(errors="replace")
    ended = "out of time" if code is None else "passed" if code == 0 else f"exit code {code}"
    return {"ended": ended, "seconds": round(time.monotonic() - started_s, 1), **figures(printed)}


def figures(printed: str) -> dict[str, Any]:
    """Return what a step has measured: its lines that start with ``{``, later ones on top."""
    found: dict[str, Any] = {}
    for line in printed.splitlines():
        if line.startswith('{"'):
            found |= json.loads(line)
    return found


def save(path: Path, document: dict[str, Any]) -> None:
    """Write the results as a whole."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document, indent=2) + "\n")
    new.replace(path)


def main() -> int:
    """Run the steps; return 0 if all of them passed."""
    options = parse_arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    log, results = options.out / "gpu.log", options.out / "gpu.json"
    log.write_text("")
    started_s = time.monotonic()
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rehearsal": options.rehearse,
        "steps": {},
    }
    python = set_up(OUT, options.wheels)
    document["set_up_s"] = round(time.monotonic() - started_s, 1)
    print(f"set-up: {document['set_up_s']} s", flush=True)
    for step in STEPS:
        if options.only and step.name not in options.only:
            continue
        left_s = options.budget_s - (time.monotonic() - started_s)
        if left_s < MIN_STEP_S:
            outcome: dict[str, Any] = {"ended": "not started: no time left"}
        else:
            limit_s = left_s if options.rehearse else min(left_s, step.limit_s)
            outcome = run_step(step, python, log, limit_s, options.rehearse)
        document["steps"][step.name] = outcome
        save(results, document)
        print(f"{step.name}: {json.dumps(outcome)}", flush=True)
    return 0 if all(s["ended"] == "passed" for s in document["steps"].values()) else 1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where gpu.json and gpu.log go")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="(default: .whl)")
    parser.add_argument("--budget-s", type=float, help="for all of it (default: 540)")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, and small")
    options = parser.parse_args()
    if options.budget_s is None:
        options.budget_s = REHEARSAL_BUDGET_S if options.rehearse else BUDGET_S
    options.out = options.out.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
