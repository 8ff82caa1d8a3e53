"""The entities of a crate, made from the records of a run. Needs the package ``rocrate``.

One action for each job, with the tool that did it, its files and params; a step for each rule. The
run's own records go along, since the profile has no words for batches and their members.
"""

from __future__ import annotations

import datetime
import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from snakemake_executor_gpupool.records.provenance.reader import Record
from snakemake_executor_gpupool.records.provenance.recorder import content_of, has_content
from snakemake_executor_gpupool.records.provenance.store import line_of
from snakemake_executor_gpupool.worker.file_hashes import hash_of

WFRUN = "https://w3id.org/ro/wfrun"
#: Of the profiles that a crate conforms to.
VERSION = "0.5"
PROFILES = {
    f"{WFRUN}/process/{VERSION}": "Process Run Crate",
    f"{WFRUN}/workflow/{VERSION}": "Workflow Run Crate",
    f"{WFRUN}/provenance/{VERSION}": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
SNAKEMAKE = "https://snakemake.github.io"
#: Costs that have a unit, by its code.
UNITS = {
    "worked_s": "http://qudt.org/vocab/unit/SEC",
    "device_s": "http://qudt.org/vocab/unit/SEC",
    "saved_s": "http://qudt.org/vocab/unit/SEC",
    "energy_j": "http://qudt.org/vocab/unit/J",
    "peak_mib": "http://qudt.org/vocab/unit/MebiBYTE",
}


class Crate:
    """Turns the records of a run into entities of a crate.

    Parameters
    ----------
    run, records
        The run's own record, and all of them.
    workflow
        The workflow's directory.
    with_files
        Whether files are copied into the crate.
    """

    def __init__(
        self, run: Record, records: list[Record], workflow: Path, *, with_files: bool
    ) -> None:
        self._crate = ROCrate(version="1.1")
        self._crate.metadata.extra_contexts.append(CONTEXT)
        self._run, self._records = run, records
        self._workflow, self._with_files = workflow, with_files
        self.jobs = [record for record in records if record["record"] == "job"]
        self._more = [record for record in records if record["record"] == "outputs"]
        self._by_id = {record["id"]: record for record in records}
        self._tools: dict[str, Any] = {}
        self._steps: dict[str, Any] = {}
        self._files: dict[tuple[str, str], Any] = {}

    def write(self, out: Path, snakefile: Path, license_text: str) -> None:
        """Write the crate into a directory that is empty, or not there.

        Raises
        ------
        OSError
            The disk is full, for example.
        """
        out.mkdir(parents=True, exist_ok=True)
        self._describe(out, snakefile, license_text)
        self._crate.write(out)

    def _describe(self, out: Path, snakefile: Path, license_text: str) -> None:
        root = self._crate.root_dataset
        root["name"] = f"gpupool run {self._run['run']}"
        root["description"] = (
            f"Run {self._run['run']} of the workflow in {self._run.get('directory', '?')}: "
            f"{len(self.jobs)} jobs served by gpupool or with devices of it"
        )
        root["license"] = license_text
        root["datePublished"] = _now()
        profiles = [
            self._add(ident, "CreativeWork", name=name, version=ident.rpartition("/")[2])
            for ident, name in PROFILES.items()
        ]
        root["conformsTo"] = profiles
        workflow = self._add_workflow(snakefile)
        actions = [self._add_job(job) for job in self.jobs]
        workflow["hasPart"] = _one(list(self._tools.values()))
        workflow["step"] = _one(list(self._steps.values()))
        self._add_run(workflow, actions)
        self._add_records(out)

    def _add(self, ident: str, kind: str | list[str], **properties: Any) -> Any:
        known = {
            name: _one(value) for name, value in properties.items() if value not in (None, [], "")
        }
        return self._crate.add(ContextEntity(self._crate, ident, {"@type": kind, **known}))

    # -- the workflow -------------------------------------------------------------------
    def _add_workflow(self, snakefile: Path) -> Any:
        versions = self._run.get("versions", {})
        self._snakemake = self._add(
            "#snakemake",
            "SoftwareApplication",
            name="Snakemake",
            url=SNAKEMAKE,
            softwareVersion=versions.get("snakemake"),
            description=f"with the executor plugin gpupool {self._run.get('gpupool', '')}".strip(),
        )
        language = self._add(
            "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
            "ComputerLanguage",
            name="Snakemake",
            identifier={"@id": SNAKEMAKE},
            url={"@id": SNAKEMAKE},
        )
        content = content_of(hash_of(str(snakefile)))
        noted = self._run.get("snakefile_sha256")
        changed = noted is not None and noted != content.get("sha256")
        workflow = self._crate.add_file(
            snakefile,
            "Snakefile",
            properties={
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "name": snakefile.name,
                "sha256": content.get("sha256"),
                "contentSize": str(content.get("size_bytes")),
                "encodingFormat": "text/plain",
                **({"description": "It has changed since the run."} if changed else {}),
            },
        )
        workflow["programmingLanguage"] = language
        self._crate.root_dataset["mainEntity"] = workflow
        return workflow

    def _add_run(self, workflow: Any, actions: list[Any]) -> None:
        made = {each.id for action in actions for each in _several(action.get("result"))}
        read = [each for action in actions for each in _several(action.get("object"))]
        sources = {each.id: each for each in read if "File" in str(each.type)}
        sources = {ident: each for ident, each in sources.items() if ident not in made}
        results = {e.id: e for action in actions for e in _several(action.get("result"))}
        done = self._add(
            "#run",
            "CreateAction",
            name=f"gpupool run {self._run['run']}",
            description="What gpupool took part in; jobs without a device are not in it.",
            instrument={"@id": workflow.id},
            startTime=_time(self._run["time_s"]),
            endTime=_time(max(job["time_s"] for job in self.jobs)),
            object=[{"@id": ident} for ident in sources],
            result=[{"@id": ident} for ident in results],
        )
        controls = [
            self._add(
                f"#control-{number}",
                "ControlAction",
                name=f"orchestrate {job['title']}",
                instrument={"@id": self._step_of(job).id},
                object={"@id": action.id},
            )
            for number, (job, action) in enumerate(zip(self.jobs, actions, strict=True), 1)
        ]
        self._add(
            "#orchestration",
            "OrganizeAction",
            name=f"Run of Snakemake {self._run.get('versions', {}).get('snakemake', '')}".strip(),
            instrument={"@id": self._snakemake.id},
            startTime=_time(self._run["time_s"]),
            object=[{"@id": control.id} for control in controls],
            result={"@id": done.id},
        )
        self._crate.root_dataset["mentions"] = [done, *actions]

    # -- jobs ---------------------------------------------------------------------------
    def _add_job(self, job: Record) -> Any:
        tool = self._tool_of(job)
        step = self._step_of(job)
        if tool not in _several(step.get("workExample")):
            step["workExample"] = _one([*_several(step.get("workExample")), tool])
        outputs = list(job.get("outputs", []))
        for more in self._more:
            outputs += more["outputs"] if more["of"] == job["id"] else []
        inputs = [self._file(each["input"], each) for each in job.get("inputs", [])]
        name = job["id"].partition("/")[2].replace("/", "-")
        params = [
            self._value(f"#{name}-param-{quote(key)}", key, value)
            for key, value in job.get("params", {}).items()
        ]
        return self._add(
            f"#{name}",
            "CreateAction",
            name=job["title"],
            description=_description(job),
            instrument={"@id": tool.id},
            endTime=_time(job["time_s"]),
            actionStatus="http://schema.org/CompletedActionStatus",
            object=[{"@id": each.id} for each in (*inputs, *params)],
            result=[{"@id": self._file(each["output"], each).id} for each in outputs],
            resourceUsage=[{"@id": each.id} for each in self._costs(job, name)],
            additionalProperty=[{"@id": each.id} for each in self._facts(job, name)],
        )

    def _costs(self, job: Record, name: str) -> list[Any]:
        """Return what a job took."""
        costs = {"worked_s": job.get("worked_s"), **job.get("cost", {})}
        return [
            self._cost(name, key, costs[key], unit)
            for key, unit in UNITS.items()
            if costs.get(key) is not None
        ]

    def _cost(self, name: str, key: str, value: Any, unit: str) -> Any:
        more = {"propertyID": f"#gpupool-{key}", "unitCode": unit}
        return self._value(f"#{name}-{key}", key, value, **more)

    def _facts(self, job: Record, name: str) -> list[Any]:
        """Return on which devices and in which batches a job's items were computed."""
        batches = [ident for ident, _ in job.get("batches", [])]
        devices = {
            device
            for each in (job, *(self._by_id.get(ident, {}) for ident in batches))
            for device in each.get("devices", [])
        }
        known = {device["name"]: device for device in self._run.get("devices", [])}
        described = (known.get(device, {"name": device}) for device in sorted(devices))
        container = job.get("container", {})
        facts = {
            "attempt": job.get("attempt"),
            "container": container and f"{container['image']} sha256:{container['sha256']}",
            "batches": ", ".join(batches),
            "devices": "; ".join(
                " ".join(str(each[part]) for part in ("name", "model", "uuid") if part in each)
                for each in described
            ),
        }
        return [
            self._value(f"#{name}-{key}", key, value)
            for key, value in facts.items()
            if value not in (None, "", {})
        ]

    def _value(self, ident: str, name: str, value: Any, **more: str) -> Any:
        plain = value if isinstance(value, str | int | float) else json.dumps(value)
        plain = str(plain) if isinstance(plain, bool) or plain == "" else plain
        return self._add(ident, "PropertyValue", name=name, value=plain, **more)

    def _step_of(self, job: Record) -> Any:
        rule = str(job.get("rule") or job["title"])
        if rule not in self._steps:
            number = len(self._steps) + 1
            self._steps[rule] = self._add(
                f"#step-{quote(rule)}", "HowToStep", name=rule, position=str(number)
            )
        return self._steps[rule]

    def _tool_of(self, job: Record) -> Any:
        model = self._by_id.get(str(job.get("model")), {})
        key = model.get("id") or f"{job.get('tool') or job.get('rule') or job['title']}"
        if key in self._tools:
            return self._tools[key]
        ident = f"#tool-{quote(key.rpartition('/')[2])}"
        weights = [f"{w['path']} sha256:{w.get('sha256', '?')}" for w in model.get("weights", [])]
        facts = {
            "code_sha256": model.get("code_sha256"),
            "environment_sha256": model.get("environment_sha256"),
            "precision": model.get("precision"),
            "python": model.get("python"),
            "weights": "; ".join(weights) or None,
            "versions": json.dumps(self._versions(model)) if self._versions(model) else None,
        }
        values = [
            self._value(f"{ident}-{name}", name, value)
            for name, value in facts.items()
            if value is not None
        ]
        kind = "" if "tool" in job else "the body of the rule, which gpupool does not look into"
        self._tools[key] = self._add(
            ident,
            "SoftwareApplication",
            name=str(job.get("tool") or f"rule {job.get('rule')}"),
            softwareVersion=model.get("version"),
            description=kind or model.get("label"),
            additionalProperty=[{"@id": each.id} for each in values],
        )
        return self._tools[key]

    def _versions(self, model: Record) -> Mapping[str, Any]:
        """Return the versions in the worker that held a model; empty: none is known."""
        ident = _ident_of(model)
        models = (record for record in self._records if record["record"] == "model")
        if sum(_ident_of(each) == ident for each in models) > 1:
            return {}  # in several environments, and a batch does not say in which
        for record in self._records:
            if record["record"] == "batch" and record.get("model") == ident:
                worker = self._by_id.get(str(record.get("worker")), {})
                return dict(worker.get("versions", {}))
        return {}

    # -- files --------------------------------------------------------------------------
    def _file(self, path: str, each: Mapping[str, Any]) -> Any:
        """Return the entity of a file as it was in the run."""
        key = (path, str(each.get("sha256", "")))
        if key in self._files:
            return self._files[key]
        number = sum(known == path for known, _ in self._files)
        there = self._workflow / path
        is_directory = each.get("kind") == "directory"
        properties = {
            "name": path,
            "sha256": each.get("sha256"),
            "contentSize": str(each["size_bytes"]) if "size_bytes" in each else None,
            "encodingFormat": mimetypes.guess_type(path)[0],
        }
        properties = {name: value for name, value in properties.items() if value is not None}
        is_same = "sha256" in each and has_content(each, content_of(hash_of(str(there))))
        add = self._crate.add_dataset if is_directory else self._crate.add_file
        if self._with_files and is_same:
            inner = f"files/{quote(path.lstrip('/'))}" if ".." not in path else f"files/{key[1]}"
            entity = add(there, inner, properties=properties)
        else:
            if "sha256" in each and not is_same:
                properties["description"] = "It has changed since the run, or is gone."
            uri = there.as_uri() + (f"#{number}" if number else "")
            entity = add(uri + ("/" if is_directory else ""), properties=properties)
        self._files[key] = entity
        return entity

    def _add_records(self, out: Path) -> None:
        """Put the run's own records into the crate: batches and devices are in these alone."""
        path = out / "provenance.jsonl"
        path.write_bytes(b"".join(line_of(record) for record in self._records))
        self._crate.add_file(
            path,
            "provenance.jsonl",
            properties={
                "name": "The run's records of gpupool",
                "description": "As docs/provenance.md of gpupool describes them: jobs, batches "
                "with their members, workers, devices, models.",
                "encodingFormat": "application/jsonl",
            },
        )


def _ident_of(model: Record) -> str:
    """Return a model's identifier as batches have it."""
    return str(model.get("id")).rpartition("/")[2].partition("@")[0]


def _one(value: Any) -> Any:
    """Return the only value of a list as such, as a crate should have it."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _description(job: Record) -> str:
    came = ", ".join(f"{n} {way}" for way, n in job.get("came", {}).items())
    wildcards = ", ".join(f"{name}={value}" for name, value in job.get("wildcards", {}).items())
    parts = [wildcards, f"items: {came}" if came else "", job.get("kind", "")]
    return "; ".join(part for part in parts if part)


def _time(time_s: float) -> str:
    moment = datetime.datetime.fromtimestamp(time_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
