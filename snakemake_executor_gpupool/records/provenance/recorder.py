"""From what happens in a run to records of provenance.

What is unknown is left out of a record; nothing is filled in. A record refers to others of the
same run by their ``id``, so that what many outputs have in common is written once::

    job ──► model          what computed it: tool, code, weights, environment
        ──► batch ──► worker   where, with whom; the worker's devices are those of the run
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.records.provenance.store import FORMAT, ProvenanceStore
from snakemake_executor_gpupool.wire.requests import MAX_INPUTS, Request

#: So many members of a batch are named by their keys, each of at most so many characters.
MAX_KEYS, MAX_KEY_TEXT = 100, 200
#: A record has so many outputs; the further ones of a job are in records of their own.
MAX_OUTPUTS = 200
#: What :func:`~snakemake_executor_gpupool.runtime.start.start_of` says that is kept.
_OF_RUN = (
    *("gpupool", "host", "frontend", "options", "mode", "seed", "simulated", "driver"),
    *("versions", "snakefile", "snakefile_sha256"),
)


#: Bound into containers; another gpupool may be elsewhere.
PACKAGE_DIR = str(Path(__file__).resolve().parents[2])
#: Made once: ``json.loads`` with an option would make one for each text.
_DECODER = json.JSONDecoder(parse_constant=str)


class ProvenanceRecorder:
    """Hears of the events of a run, and of facts; used by the run loop's thread alone.

    Parameters
    ----------
    store
        Gets the records.
    run_id
        The run's name; a random part is added, since two machines may have equal ones.
    version
        Of gpupool.
    now_s
        Returns the time since the epoch.
    """

    def __init__(
        self,
        store: ProvenanceStore,
        run_id: str,
        version: str,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.ident = f"{run_id}-{secrets.token_hex(4)}"
        self._run_id = run_id
        self._version = version
        self._now_s = now_s
        #: Written before the first other record: most pools that are opened serve no job.
        self._run: dict[str, Any] | None = None
        self._workers: dict[str, dict[str, Any]] = {}
        #: Of those that have loaded their model.
        self._loaded: dict[str, dict[str, Any]] = {}
        self._leased: dict[int, dict[str, Any]] = {}
        self._models: set[str] = set()
        self._starts: set[str] = set()
        self._handlers: dict[str, Callable[[float, Mapping[str, Any]], None]] = {
            "run_started": self._run_started,
            "worker_started": self._worker_started,
            "worker_attached": self._worker_attached,
            "model_loaded": self._model_loaded,
            "stage_loaded": self._stage_loaded,
            "worker_ended": self._worker_ended,
            "lease_requested": self._lease_requested,
            "lease_granted": self._lease_granted,
            "lease_released": self._lease_released,
            "lease_failed": self._lease_over,
        }
        self._facts: dict[str, Callable[[float, Mapping[str, Any]], None]] = {
            "job": self._job,
            "batch": self._batch,
            "model": self._model,
        }

    # -- what happens ------------------------------------------------------------------
    def take(self, time_s: float, event: str, fields: Mapping[str, Any]) -> None:
        """Take in an event of the run."""
        handler = self._handlers.get(event)
        if handler is not None:
            handler(time_s, fields)

    def fact(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take in a fact, as the scheduler has it."""
        self._facts[kind](self._now_s(), fields)

    def joined(self, devices: Iterable[Device]) -> None:
        """Devices have joined that the run's start did not know of."""
        for device in devices:
            self._add("device", f"device/{device.name}", _device(device))

    def flush(self) -> None:
        """Hand what was recorded to the operating system."""
        self.store.flush()

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    def _add(self, record: str, name: str, fields: Mapping[str, Any]) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            self.store.append(run)
        head = {"id": self._id(name), "record": record}
        self.store.append({**head, **_known(fields)})

    def _id(self, name: str) -> str:
        return f"{self.ident}/{name}"

    # -- the run and its workers ---------------------------------------------------------
    def _run_started(self, time_s: float, fields: Mapping[str, Any]) -> None:
        fields = {"mode": "default", **fields, "gpupool": self._version}
        devices = [_known(device) for device in fields.get("device_info", ())]
        self._run = {
            "id": self.ident,
            "record": "run",
            "format": FORMAT,
            "time_s": time_s,
            "run": self._run_id,
            "directory": fields.get("cwd"),
            **_known({name: fields.get(name) for name in _OF_RUN}),
            "devices": devices,
        }

    def _worker_started(self, time_s: float, fields: Mapping[str, Any]) -> None:
        if fields.get("devices"):
            started = {name: fields.get(name) for name in ("tool", "devices", "node")}
            self._workers[fields["worker"]] = started

    def _model_loaded(self, time_s: float, fields: Mapping[str, Any]) -> None:
        name = fields["worker"]
        loaded = {"versions": fields.get("versions"), "load_s": fields.get("seconds")}
        self._loaded[name] = {**self._workers.pop(name, {}), **loaded}
        self._add("worker", f"worker/{name}", self._loaded[name])

    def _stage_loaded(self, time_s: float, fields: Mapping[str, Any]) -> None:
        """A worker has one more of its models: the newest record of an id is what counts."""
        name = fields["worker"]
        known = self._loaded.get(name, {})
        load_s = (known.get("load_s") or 0.0) + fields["seconds"]
        self._loaded[name] = {**known, "versions": fields["versions"], "load_s": load_s}
        self._add("worker", f"worker/{name}", self._loaded[name])

    def _worker_ended(self, time_s: float, fields: Mapping[str, Any]) -> None:
        self._workers.pop(fields["worker"], None)
        self._loaded.pop(fields["worker"], None)

    def _worker_attached(self, time_s: float, fields: Mapping[str, Any]) -> None:
        self._worker_started(time_s, fields)
        if fields.get("devices"):
            self._model_loaded(time_s, fields)

    def _model(self, time_s: float, fields: Mapping[str, Any]) -> None:
        name = _name_of_model(fields["model"], fields["software"])
        if name in self._models:
            return
        self._models.add(name)
        names = ("label", "tool", "file", "version", "precision", "python")
        self._add(
            "model",
            name,
            {
                **{name: fields.get(name) for name in names},
                "code_sha256": fields.get("code"),
                "environment_sha256": fields.get("environment"),
                "code_files": [_named(text) for text in fields.get("code_files", ())],
                "weights": [_named(text) for text in fields.get("weights", ())],
            },
        )

    # -- batches and served jobs -----------------------------------------------------------
    def _batch(self, time_s: float, fields: Mapping[str, Any]) -> None:
        keys = fields["keys"]
        shape = ("items", "tokens", "padded_tokens", "longest_tokens")
        self._add(
            "batch",
            f"batch/{fields['batch']}",
            {
                "time_s": time_s,
                "worker": self._id(f"worker/{fields['worker']}"),
                "devices": fields["devices"],
                "model": fields.get("model"),
                "group": fields.get("group"),
                "merged": fields["merged"] or None,
                **{name: fields[name] for name in shape},
                "seconds": round(fields["seconds"], 6),
                "keys": [key[:MAX_KEY_TEXT] for key in keys[:MAX_KEYS]],
                "keys_sha256": _digest_of(keys) if keys else None,
            },
        )

    def _job(self, time_s: float, fields: Mapping[str, Any]) -> None:
        request: Request = fields["request"]
        facts, name = request.facts, f"job/{request.job_id}"
        is_call = not request.identity
        model = _name_of_model(fields["model"], request.tool.software)
        outputs = _files("output", facts.all_outputs, facts.n_outputs, fields["outputs"])
        inputs = fields["inputs"] if len(fields["inputs"]) == facts.n_inputs else ()
        shared = [self._id(f"job/{number}") for number in fields["duplicate_of"]]
        record = {
            "time_s": time_s,
            "kind": "served",
            "title": request.title,
            "rule": facts.rule,
            "container": self._container(request),
            "wildcards": dict(facts.wildcards),
            "params": _read(facts.params),
            "recipe": _read(facts.recipe),
            "tool": str(request.tool),
            "threads": facts.threads,
            "attempt": None if is_call else request.attempt,
            "model": self._id(model) if fields["model"] else None,
            "outputs": outputs[:MAX_OUTPUTS],
            "n_outputs": facts.n_outputs,
            "inputs": _files("input", facts.first_inputs, facts.n_inputs, inputs),
            "n_inputs": facts.n_inputs,
            "inputs_sha256": _digest_of(inputs) if len(inputs) > MAX_INPUTS else None,
            "items": fields["items"],
            "came": fields["came"],
            "batches": [[self._id(f"batch/{number}"), n] for number, n in fields["batches"]],
            "n_batches": fields["n_batches"],
            "duplicate_of": shared,
            "kept": [_kept_key(key) for key in fields["kept"]],
            "keys": [_kept_key(key) for key in fields.get("keys", ())],
            "tries": fields["tries"] or None,
            "worked_s": fields["worked_s"],
            "cost": fields["cost"],
        }
        self._add("job", name, record)
        for start in range(MAX_OUTPUTS, len(outputs), MAX_OUTPUTS):
            more = {"of": self._id(name), "outputs": outputs[start : start + MAX_OUTPUTS]}
            self._add("outputs", f"{name}/outputs/{start}", more)

    def _container(self, request: Request) -> dict[str, str] | None:
        container = request.tool.container
        if container is None:
            return None
        digest = container.digest.removeprefix("sha256:")
        named = {"image": container.name, "path": container.image, "sha256": digest}
        given = {"arguments": container.arguments, "start": self._start(request.tool.activation)}
        return {**named, **{name: value for name, value in given.items() if value}}

    def _start(self, command: str) -> str:
        """Return the id of the record of how processes are started in a container."""
        if not command:
            return ""
        name = f"start/{hashlib.sha256(command.encode()).hexdigest()[:16]}"
        if name not in self._starts:
            self._starts.add(name)
            self._add("start", name, {"command": command, "package": PACKAGE_DIR})
        return self._id(name)

    # -- jobs with devices of their own ------------------------------------------------------
    def _lease_requested(self, time_s: float, fields: Mapping[str, Any]) -> None:
        self._leased[fields["job_id"]] = {**fields, "devices": None}

    def _lease_granted(self, time_s: float, fields: Mapping[str, Any]) -> None:
        job = self._leased.get(fields["job_id"])
        if job is not None:
            job["devices"], job["started_s"] = fields["devices"], time_s

    def _lease_over(self, time_s: float, fields: Mapping[str, Any]) -> None:
        self._leased.pop(fields["job_id"], None)

    def _lease_released(self, time_s: float, fields: Mapping[str, Any]) -> None:
        job = self._leased.pop(fields["job_id"], None)
        if job is None or "error" in fields:
            return
        started_s = job.get("started_s")
        names = ("rule", "wildcards", "n_outputs", "n_inputs", "threads", "wants", "devices")
        record = {
            "time_s": time_s,
            "kind": "leased",
            "title": job["job"],
            **{name: job.get(name) for name in names},
            "outputs": [{"output": path} for path in job.get("outputs", ())],
            "inputs": [{"input": path} for path in job.get("inputs", ())],
            "seconds": None if started_s is None else round(time_s - started_s, 6),
        }
        self._add("job", f"job/{fields['job_id']}", record)


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields without those that are unknown, or empty."""
    return {
        name: value
        for name, value in fields.items()
        if value or (value is not None and isinstance(value, (int, float)))
    }


@functools.lru_cache(maxsize=256)
def _name_of_model(model: str, software: str) -> str:
    """Return a model's name among the records; one in two environments is two."""
    digest = hashlib.sha256(software.encode()).hexdigest()[:8]
    return f"model/{model}@{digest}" if software else f"model/{model}"


def _files(
    name: str, paths: Sequence[str], count: int, hashes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return paths with their contents; hashes that are not as many as there are files are not."""
    known = hashes if len(hashes) == count else [""] * len(paths)
    return [{name: path, **content_of(text)} for path, text in zip(paths, known, strict=False)]


def content_of(text: str) -> dict[str, Any]:
    """Return the content that a worker's hash stands for: size and SHA-256; empty: unknown."""
    if not text:
        return {}
    size, _, digest = text.removeprefix("dir:").partition(":")
    kind = {"kind": "directory"} if text.startswith("dir:") else {}
    return {"size_bytes": int(size), "sha256": digest, **kind}


def has_content(file: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Tell whether the record of a file says that it holds this content."""
    return all(file.get(name) == content.get(name) for name in ("sha256", "size_bytes", "kind"))


def _named(text: str) -> dict[str, Any]:
    found, _, path = text.partition(" ")
    try:
        return {"path": path, **content_of(found)}
    except ValueError:  # a worker may write anything
        return {"path": path}


def _kept_key(key: Sequence[object]) -> list[str]:
    """Return model, group and own key of an item whose result an earlier run had left."""
    return [str(part)[:MAX_KEY_TEXT] for part in key[-3:]]


def _digest_of(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "backslashreplace")).hexdigest()


@functools.lru_cache(maxsize=256)
def _read(text: str) -> Any:
    """Return what JSON says, not to be changed: jobs of a rule have much of it in common."""
    return _DECODER.decode(text) if text else None


def _device(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "kind": device.kind,
        "model": device.model_name,
        "uuid": device.uuid,
        "memory_mib": device.memory_mib,
        "node": device.host,
        "simulated": device.simulated or None,
    }
