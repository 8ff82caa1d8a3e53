"""Has a recorded job done again, in a process of its own, and says what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.scratch import scratch_directory
from snakemake_executor_gpupool.frontends.commandline.verify.choosing import (
    Recorded,
    is_as_recorded,
    why_not,
)
from snakemake_executor_gpupool.frontends.commandline.verify.contained import in_container
from snakemake_executor_gpupool.hosts.process import describe_exit
from snakemake_executor_gpupool.records.provenance.recorder import content_of
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.bounds import shortened
from snakemake_executor_gpupool.worker.recompute import ANSWER

PACKAGE_DIR = Path(__file__).resolve().parents[3]
#: Makes gpupool importable as a worker does, whatever the tool's Python has installed.
CHILD = """
import importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
path = sys.argv[1] + "/worker/main.py"
spec = importlib.util.spec_from_file_location("gpupool_worker_main", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.make_importable(sys.argv[1])
from snakemake_executor_gpupool.worker.recompute import main
main(sys.argv[2])
"""
#: What became of an output.
AGREES, DIFFERS, NOT_VERIFIED = "agrees", "differs", "not verified"
MAX_MESSAGE = 500
#: What is known of a model: as a process tells, as it is recorded, and in words.
_WHAT = (
    ("code", "code_sha256", "the tool's code"),
    ("version", "version", "the tool's version"),
    ("environment", "environment_sha256", "installed packages"),
)


@dataclass(frozen=True)
class Options:
    """How jobs are done again.

    Attributes
    ----------
    device
        None: of the kind that the job had, if this machine has it.
    tolerance
        In place of the tool's.
    limit_s
        For one job.
    """

    device: str | None = None
    tolerance: tuple[float, float] | None = None
    limit_s: float = 3600.0


@dataclass
class Finding:
    """What became of one output.

    Attributes
    ----------
    status
        One of the words above.
    why
        Why it was not verified, or in what it differs.
    largest, relative, tolerance
        The largest difference of two numbers, that relative to the largest number beside it, and
        what was allowed; None: there is none, or it is not known.
    is_as_written
        Whether the file holds what the run wrote; None: its content was not recorded.
    is_written_again
        Whether what was computed now is, to the bit, what the run wrote; None: not known.
    changed
        What is not as it was when it was computed.
    """

    path: str
    status: str
    why: str = ""
    kind: str = ""
    largest: float | None = None
    relative: float | None = None
    tolerance: list[float] | None = None
    device: str | None = None
    is_as_written: bool | None = None
    is_written_again: bool | None = None
    changed: list[str] = field(default_factory=list)


def verified(recorded: Recorded, options: Options, devices: list[str]) -> list[Finding]:
    """Do a job again and compare its outputs; one finding for each of them.

    Parameters
    ----------
    devices
        Kinds of the devices that it was computed on.
    """
    why = why_not(recorded)
    if why:
        return [Finding(path, NOT_VERIFIED, why) for path in recorded.outputs]
    with scratch_directory() as scratch:
        answer = _asked(recorded, options, devices, scratch)
    if "error" in answer:
        why = f"it cannot be computed now: {shortened(answer['error'], MAX_MESSAGE)}"
        return [
            Finding(path, NOT_VERIFIED, why, changed=changes(recorded, answer))
            for path in recorded.outputs
        ]
    return list(_findings(recorded, answer, devices))


def _device(options: Options, devices: list[str]) -> str | None:
    if options.device:
        return options.device
    return "cpu" if devices == ["cpu"] else None


def _asked(
    recorded: Recorded, options: Options, devices: list[str], scratch: Path
) -> dict[str, Any]:
    """Return the answer of a fresh process."""
    job, recipe = recorded.job, recorded.recipe
    new = [str(scratch / "outputs" / str(n) / Path(p).name) for n, p in enumerate(recorded.outputs)]
    question = {
        "spec": recorded.spec,
        "directory": str(recorded.directory),
        "device": _device(options, devices),
        "reproducible": recorded.is_reproducible,
        "outputs": new,
        "touched": recipe.get("touched", []),
        "tolerance": options.tolerance,
        "job": {
            "rule": job.get("rule", ""),
            "wildcards": job.get("wildcards", {}),
            "input": [each["input"] for each in job.get("inputs", ())],
            "input_names": recipe.get("input_names", {}),
            "output": recorded.outputs,
            "output_names": recipe.get("output_names", {}),
            "params": job.get("params", {}),
            "threads": job.get("threads", 1),
            "resources": recipe.get("resources", {}),
        },
    }
    asked, log = scratch / "question.json", scratch / "log"
    asked.write_text(json.dumps(question), encoding="utf-8")
    python = str(recipe.get("python") or sys.executable)
    mode = Mode(recorded.is_reproducible, int(recorded.run.get("seed", 0)))
    environment = {**os.environ, **mode.variables()}
    command = [python, "-c", CHILD, str(PACKAGE_DIR), str(asked)]
    if recorded.container:
        kinds = [options.device.partition(":")[0]] if options.device else devices
        command, environment = in_container(recorded, asked, kinds, mode.variables())
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                command,
                env=environment,
                cwd=recorded.directory,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=options.limit_s,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return {"error": f"it did not end within {options.limit_s:.0f} s"}
    try:
        answer: dict[str, Any] = json.loads((scratch / ANSWER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        return {"error": f"the process ended: {describe_exit(done.returncode)}: {last}"}
    return answer


def _findings(recorded: Recorded, answer: Mapping[str, Any], devices: list[str]) -> Any:
    touched = set(recorded.recipe.get("touched", []))
    found = iter(answer["outputs"])
    changed = changes(recorded, answer)
    kind = answer["device"].partition(":")[0]
    if devices and kind not in devices:
        changed = [*changed, f"computed on {kind}, then on {' and '.join(devices)}"]
    for number, output in enumerate(recorded.job["outputs"]):
        if number in touched:
            continue
        path, difference = str(output["output"]), next(found)
        is_known = "sha256" in output
        again = content_of(answer["hashes"][number])
        status = AGREES if difference["kind"] in ("bits", "values", "within") else DIFFERS
        if status == DIFFERS and not answer["deterministic"]:
            why = "the tool gives other results each time (deterministic = False)"
            yield Finding(path, NOT_VERIFIED, why, changed=changed)
            continue
        yield Finding(
            path,
            status,
            difference["where"],
            difference["kind"],
            difference["largest"],
            difference["relative"],
            answer["tolerance"],
            answer["device"],
            is_as_recorded(output, recorded.place_of(path)) if is_known else None,
            again.get("sha256") == output["sha256"] if is_known else None,
            changed,
        )


def changes(recorded: Recorded, answer: Mapping[str, Any]) -> list[str]:
    """Return what is not as it was: code, weights, software."""
    model, now = recorded.model, answer.get("origin")
    if now is None:
        return []
    found = []
    for name, field_name, word in _WHAT:
        before = model.get(field_name)
        if before not in (None, now.get(name)):
            found.append(f"{word} ({_short(before)}, now {_short(now.get(name))})")
    if model.get("python") not in (None, now.get("python")):
        found.append(f"Python ({model['python']}, now {now.get('python')})")
    for name, word in (("code_files", "code"), ("weights", "weights")):
        before = {each["path"]: each.get("sha256") for each in model.get(name, ())}
        for text in now.get(name, ()):
            content, _, path = text.partition(" ")
            if before.get(path) not in (None, content_of(content).get("sha256")):
                found.append(f"{word} {path}")
    return found


def _short(value: Any) -> str:
    return str(value)[:12]
