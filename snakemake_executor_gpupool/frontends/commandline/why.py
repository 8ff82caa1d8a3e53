"""``gpupool why FILE``: where an output came from, and whether it still is what was written."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_MISUSE,
    complain,
)
from snakemake_executor_gpupool.records.provenance.reader import (
    PLACE,
    ProvenanceReader,
    Record,
    find_file,
)
from snakemake_executor_gpupool.records.provenance.recorder import content_of, has_content
from snakemake_executor_gpupool.worker.file_hashes import hash_of

#: What became of a file: it is as it was written; the same content was written under another
#: name; it is another one now; it is gone; nobody can tell, since its content was not recorded;
#: nothing is known of it.
SAME, MOVED, CHANGED, MISSING, UNVERIFIED, UNKNOWN = (
    *("same", "moved", "changed", "missing", "unverified", "unknown"),
)
UNCHANGED = "it has not changed since"
#: How many records of one path are compared with the file, how many origins of kept results and
#: other jobs are looked up, how many batches and inputs are shown.
MAX_LOOKED_AT, MAX_KEPT, MAX_OTHERS, MAX_SHOWN = 50, 5, 5, 10


@dataclass
class Answer:
    """What is known of a file.

    Attributes
    ----------
    status
        One of the words above.
    content
        Of the file now: size and SHA-256; empty: there is none.
    output, job
        The records that tell of it; None: there are none.
    written_as
        Paths under which the present content was written, if not under this one.
    later
        The job that has written another content under that name since; None: there is none.
    """

    status: str
    path: str
    content: Mapping[str, Any]
    output: Record | None = None
    job: Record | None = None
    written_as: list[str] = field(default_factory=list)
    later: Record | None = None


def why(options: argparse.Namespace) -> int:
    """Print where a file came from; return the exit code: 0 if it is as a record has it."""
    path = Path(os.path.abspath(options.file))  # noqa: PTH100 - links are part of its name
    if options.store:
        given = Path(options.store)
        places = [given / PLACE if given.is_dir() else given]
    else:
        found = (find_file(path.parent), find_file(Path.cwd()))
        places = list(dict.fromkeys(place for place in found if place is not None))
    if not places:
        complain(
            f"nothing is known of {options.file}: neither its directory nor one above it, nor "
            f"this one, has {PLACE}; --store names such a file, or the directory of a workflow"
        )
        return EXIT_MISUSE
    for place in places:
        with ProvenanceReader(place) as reader, reader.making_sense():
            answer = look_up(reader, path)
            whole = everything(reader, answer)
            text = json.dumps(whole, indent=2) if options.json else "\n".join(lines_of(whole))
        if answer.status != UNKNOWN:
            break
    print(text)
    return EXIT_DONE if answer.status in (SAME, MOVED, UNVERIFIED) else EXIT_FAILED


def look_up(reader: ProvenanceReader, path: Path) -> Answer:
    """Find the record of a file: by its name, else by its content.

    Parameters
    ----------
    path
        Absolute.
    """
    content = content_of(hash_of(str(path)))
    by_name = list(itertools.islice(_named(reader, path), MAX_LOOKED_AT))
    for output, job in by_name:
        if content and has_content(output, content):
            newest = by_name[0][1]
            later = None if newest["id"] == job["id"] else newest
            return Answer(SAME, str(path), content, output, job, later=later)
    others = reader.outputs_with(content["sha256"]) if content else iter(())
    same = [
        pair for pair in itertools.islice(others, MAX_LOOKED_AT) if has_content(pair[0], content)
    ]
    written_as = list(dict.fromkeys(str(output["output"]) for output, _ in same))
    if not by_name and not same:
        return Answer(UNKNOWN, str(path), content)
    if not by_name:
        return Answer(MOVED, str(path), content, *same[0], written_as)
    output, job = by_name[0]
    if not path.exists():
        return Answer(MISSING, str(path), content, output, job)
    status = CHANGED if content and "sha256" in output else UNVERIFIED
    return Answer(status, str(path), content, output, job, written_as)


def _named(reader: ProvenanceReader, path: Path) -> Iterator[tuple[Record, Record]]:
    # Paths are relative to the workflow's directory as a rule, wherever that is by now.
    directories = [str(Path(os.path.abspath(reader.path)).parents[2])]  # noqa: PTH100
    run = reader.run_named(None)
    directories += [run["directory"]] if run is not None and "directory" in run else []
    names = [*(os.path.relpath(path, directory) for directory in directories), str(path)]
    for name in dict.fromkeys(names):
        yield from reader.outputs_at(name)


# -- all that belongs to it ----------------------------------------------------------------
def everything(reader: ProvenanceReader, answer: Answer) -> dict[str, Any]:
    """Return an answer with the run, model, batches and other jobs that it refers to."""
    whole: dict[str, Any] = {"file": answer.path, "status": answer.status}
    if answer.content:
        whole["content"] = dict(answer.content)
    if answer.written_as:
        whole["written_as"] = answer.written_as
    job = answer.job
    if job is None:
        return whole
    if answer.later is not None:
        whole["later"] = _brief(answer.later)
    run = reader.run_of(job)
    batches = reader.batches_of({**job, "batches": job.get("batches", [])[:MAX_SHOWN]})
    for batch in batches:
        batch["devices"] = reader.devices_of(batch)
    others = [reader.by_id(ident) for ident in job.get("duplicate_of", [])[:MAX_OTHERS]]
    whole |= {
        "output": answer.output,
        "job": job,
        "run": run,
        "model": reader.by_id(str(job["model"])) if "model" in job else None,
        "batches": batches,
        "duplicates_of": [_brief(other) for other in others if other is not None],
        "kept_from": _kept(reader, job),
    }
    if job.get("kind") == "leased":
        whole["devices"] = reader.devices_of(job)
    return {name: value for name, value in whole.items() if value not in (None, [])}


def _brief(job: Record) -> Record:
    names = ("id", "title", "rule", "wildcards")
    return {name: job[name] for name in names if name in job}


def _kept(reader: ProvenanceReader, job: Record) -> list[Record]:
    """Return the batches that computed results which a later run found, and took."""
    found: dict[str, Record] = {}
    for model, group, key in job.get("kept", [])[:MAX_KEPT]:
        batch = reader.computed(model, group, key)
        if batch is not None:
            found[batch["id"]] = {
                "id": batch["id"],
                "time_s": batch["time_s"],
                "devices": reader.devices_of(batch),
                "run": (reader.run_of(batch) or {}).get("run"),
            }
    return list(found.values())


# -- for people ------------------------------------------------------------------------------
def lines_of(whole: Mapping[str, Any]) -> Iterator[str]:
    """Yield an answer as lines of text."""
    yield f"{whole['file']}: {_said(whole)}"
    job = whole.get("job")
    if job is None:
        return
    for name, value in _rows(whole, job):
        for number, line in enumerate(value if isinstance(value, list) else [value]):
            if line:
                yield f"  {'' if number else name:<10}{line}"


def _said(whole: Mapping[str, Any]) -> str:
    output, job = whole.get("output", {}), whole.get("job", {})
    wrote = f"{job.get('title')} wrote it on {_when(job)}" if job else ""
    others = ", ".join(whole.get("written_as", ()))
    match whole["status"]:
        case "same":
            later = whole.get("later")
            since = f"; {later['title']} has written another content since" if later else ""
            return f"{wrote}, and {'this is still that content' if later else UNCHANGED}{since}"
        case "moved":
            by = f"by {job.get('title')} on {_when(job)}"
            return f"it was moved or copied: its content was written as {others}, {by}"
        case "changed":
            now = f"; its content now was written as {others}" if others else ""
            return f"IT HAS CHANGED since {wrote}{now}"
        case "missing":
            return f"there is no such file now; {wrote}"
        case "unverified":
            return f"{wrote}; whether it has changed since is not known: {_no_content(output, job)}"
        case _:
            return "nothing is known of it: no run has recorded an output of that name or content"


def _no_content(output: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    if job.get("kind") == "leased":
        return "the content of files of rules that are not served is not covered"
    return "its content is not known" if "sha256" in output else "its content was not recorded"


def _rows(whole: Mapping[str, Any], job: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    run, model, output = (whole.get(name, {}) for name in ("run", "model", "output"))
    yield "content", _content(output)
    if whole["status"] == CHANGED:
        yield "now", _content(whole.get("content", {}))
    yield "rule", _with(job.get("rule") or job.get("title"), job.get("wildcards"))
    yield "params", _with("", job.get("params"))
    inputs = job.get("inputs", [])
    shown = [f"{each['input']}  {_content(each)}" for each in inputs[:MAX_SHOWN]]
    more = job.get("n_inputs", len(inputs)) - len(shown)
    yield "inputs", [*shown, *([f"and {more} more"] if more > 0 else [])]
    yield "came", _came(job)
    yield "like", [f"{each['title']} ({each['id']})" for each in whole.get("duplicates_of", ())]
    kept = whole.get("kept_from", ())
    yield "kept from", [f"{each['id']}, {_when(each)}, {_devices(each)}" for each in kept]
    yield "tool", _tool(job, model)
    yield "code", model.get("code_sha256")
    yield "weights", [f"{each['path']}  {_content(each)}" for each in model.get("weights", ())]
    yield "how", _with("", _how(run, model))
    yield "software", _with("", _software(whole, run, model))
    container = job.get("container")
    yield "container", _with(container["image"], container) if container else None
    yield "batches", _batches(whole, job)
    if "devices" in whole:
        yield "devices", _devices(whole)
    yield "attempt", _attempts(job)
    yield "cost", _with("", {"worked_s": job.get("worked_s"), **job.get("cost", {})})
    yield "run", f"{run.get('run', job['id'])} in {run.get('directory', '?')}"


def _content(each: Mapping[str, Any]) -> str:
    if "sha256" not in each:
        return "content not known"
    return f"sha256 {each['sha256']}, {each['size_bytes']} bytes"


def _with(head: Any, values: Mapping[str, Any] | None) -> str:
    pairs = ((name, each) for name, each in (values or {}).items() if each is not None)
    text = ", ".join(
        f"{name}={each if isinstance(each, str) else json.dumps(each)}" for name, each in pairs
    )
    return f"{head} ({text})" if head and text else f"{head or text}"


def _came(job: Mapping[str, Any]) -> str:
    words = {
        "computed": "computed for it",
        "duplicate": "shared with others that had asked before",
        "kept": "kept from an earlier run",
        "merged": "computed beforehand, in one dispatch with the job before it",
    }
    came = [f"{n} {words.get(way, way)}" for way, n in job.get("came", {}).items()]
    return f"{job['items']} items: {', '.join(came)}" if "items" in job else ""


def _tool(job: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    name = job.get("tool", "")
    version = f" version {model['version']}" if "version" in model else ""
    return f"{name}{version}" + (f", {model['file']}" if "file" in model else "")


def _how(run: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    precision = {"precision": model["precision"]} if "precision" in model else {}
    return {"mode": run.get("mode"), "seed": run.get("seed"), **precision}


def _software(
    whole: Mapping[str, Any], run: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    workers = [batch.get("worker") or {} for batch in whole.get("batches", ())]
    versions = workers[0].get("versions", {}) if workers else {}
    return {
        "python": model.get("python"),
        **versions,
        "gpupool": run.get("gpupool"),
        "snakemake": run.get("versions", {}).get("snakemake"),
        "driver": run.get("driver"),
        "environment": model.get("environment_sha256"),
    }


def _batches(whole: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    lines = []
    for batch in whole.get("batches", ()):
        number = batch["id"].rpartition("/")[2]
        shape = f"{batch['items']} of at most {batch['longest_tokens']} tokens"
        worker = str((batch.get("worker") or {}).get("id", "")).rpartition("/")[2]
        merged = ", merged" if batch.get("merged") else ""
        whose = f"{batch['of_job']} for this job"
        where = f"{worker} on {_devices(batch)}{merged}"
        lines.append(f"batch {number}: items: {shape}, {whose}; {where}")
    more = job.get("n_batches", 0) - len(lines)
    return [*lines, *([f"and {more} more"] if more > 0 else [])]


def _devices(each: Mapping[str, Any]) -> str:
    return ", ".join(
        " ".join(str(device[name]) for name in ("name", "model", "uuid") if name in device)
        for device in each.get("devices", ())
    )


def _attempts(job: Mapping[str, Any]) -> str:
    tries = job.get("tries", 0)
    again = f", an item of it was tried {tries} times" if tries > 1 else ""
    return f"{job['attempt']}{again}" if "attempt" in job else again.removeprefix(", ")


def _when(each: Mapping[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.get("time_s", 0)))
