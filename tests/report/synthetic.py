"""Writes the events of a run that never was: as many jobs and items as a test asks for.

The lines are those of a real run (``docs/reference/run-files.md``), in its order of time; what
each job is charged adds up to what its batches took. Nothing is read back here: what a report says
is compared with counts over the lines themselves.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 1_795_811_305.5
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;"
TOOL, MODEL = "esm2-embed", "esm2_t33_650M_UR50D"
HEAD, HEAD_MODEL = "linear-head", "head.npz"


@dataclass
class Shape:
    """How large a run is, and what is in it.

    Attributes
    ----------
    jobs, items_per_job
        Of the served rule ``embed``.
    batch_items
        Items of a micro-batch.
    duplicates
        Which share of the items another job has asked for before.
    failed
        How many of the jobs fail.
    is_hostile
        Names and messages try to be markup.
    ends
        Whether the run says that it has ended.
    """

    jobs: int = 60
    items_per_job: int = 10
    batch_items: int = 10
    devices: int = 4
    duplicates: float = 0.2
    failed: int = 3
    is_hostile: bool = False
    simulated: bool = False
    ends: bool = True
    seed: int = 1
    options: dict[str, Any] = field(default_factory=lambda: {"--gpupool-devices": "auto"})


class SyntheticRun:
    """The lines of one run, made in order of what happens and sorted by time when written."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = random.Random(shape.seed)
        self.lines: list[tuple[float, dict[str, Any]]] = []
        self.charged: defaultdict[int, float] = defaultdict(float)
        self.last_s: defaultdict[int, float] = defaultdict(float)
        self.devices = [f"cuda:{number}" for number in range(shape.devices)]

    def at(self, time_s: float, event: str, **fields: Any) -> None:
        line = {"time_s": round(START_S + time_s, 6), "event": event, **fields}
        self.lines.append((time_s, line))

    def write(self, directory: Path) -> Path:
        """Write ``events.jsonl`` and ``summary.json`` into a new directory of a run."""
        self.start()
        owners, costs = self.items()
        end_s = self.batches(owners, costs)
        end_s = self.finish_jobs(end_s)
        end_s = self.other_things(end_s)
        if self.shape.ends:
            self.at(end_s, "run_ended", wall_s=round(end_s, 3))
        directory.mkdir(parents=True)
        (directory / "workers").mkdir()
        self.lines.sort(key=lambda line: line[0])
        text = "".join(json.dumps(line) + "\n" for _, line in self.lines)
        (directory / "events.jsonl").write_text(text)
        if self.shape.ends:
            (directory / "summary.json").write_text(json.dumps({"wall_s": round(end_s, 3)}))
        return directory

    # -- parts ---------------------------------------------------------------------------
    def start(self) -> None:
        info = [
            {
                "name": name,
                "kind": "cuda",
                "model": "NVIDIA A100-SXM4-80GB",
                "memory_mib": 81920,
                "uuid": f"GPU-0000-{name[-1]}",
                "node": "",
                "simulated": self.shape.simulated,
            }
            for name in self.devices
        ]
        self.at(
            0.0,
            "run_started",
            format=2,
            devices=self.devices,
            device_info=info,
            simulated=self.shape.simulated,
            driver="580.65.06",
            frontend="snakemake",
            options=self.shape.options,
            versions={"gpupool": "0.1.0", "python": "3.11.2", "snakemake": "9.27.0"},
            host="node17",
            pid=4711,
            cwd="/home/ada/proteins",
        )
        self.worker("files1", TOOL, [], 0.05, 0.3)
        for number, device in enumerate(self.devices):
            self.worker(f"{MODEL}.{number + 1}", TOOL, [device], 0.5, 3.1)
            self.load(f"{MODEL}.{number + 1}", MODEL, 3.7, 8.25 + number / 8)

    def worker(
        self, name: str, tool: str, devices: list[str], at_s: float, import_s: float
    ) -> None:
        if devices:
            self.at(at_s, "device_granted", worker=name, devices=devices)
        self.at(at_s, "worker_started", worker=name, tool=tool, devices=devices, node="", pid=5000)
        self.at(at_s + import_s + 0.05, "tool_imported", worker=name, seconds=import_s)

    def load(self, name: str, model: str, at_s: float, load_s: float) -> None:
        self.at(at_s, "load_sent", worker=name)
        versions = {"torch": "2.13.0"}
        done_s = at_s + load_s
        fields = {"seconds": load_s, "peak_mib": 2600, "versions": versions}
        self.at(done_s, "model_loaded", worker=name, model=model, **fields)

    def title(self, job: int) -> tuple[str, dict[str, str]]:
        sample = f"sample_{job:05d}"
        if self.shape.is_hostile and job % 2:
            sample = f"{HOSTILE}{job}"
        return f"rule embed (sample={sample})", {"sample": sample}

    def items(self) -> tuple[list[list[int]], list[int]]:
        """Return for each distinct item the places that wait for it, and its tokens."""
        shape = self.shape
        owners: list[list[int]] = []
        costs: list[int] = []
        self.of_job: dict[int, list[int]] = {}
        self.duplicates: defaultdict[int, int] = defaultdict(int)
        for job in range(1, shape.jobs + 1):
            self.submit(job)
            self.of_job[job] = []
            for _ in range(shape.items_per_job):
                if owners and self.random.random() < shape.duplicates:
                    item = self.random.randrange(len(owners))
                    owners[item].append(job)
                    self.duplicates[job] += 1
                else:
                    item = len(owners)
                    owners.append([job])
                    costs.append(self.random.randint(30, 1022))
                self.of_job[job].append(item)
        return owners, costs

    def submit(self, job: int) -> None:
        shape = self.shape
        at_s = 0.1 + 3.0 * job / shape.jobs
        title, wildcards = self.title(job)
        name = wildcards["sample"]
        self.at(
            at_s,
            "job_submitted",
            job=title,
            job_id=job,
            tool=TOOL,
            rule="embed",
            wildcards=wildcards,
            threads=1,
            inputs=[f"proteins/{name}.fasta"],
            outputs=[f"embeddings/{name}.npz"],
            logs=[f"logs/{name}.log"],
            n_inputs=1,
            n_outputs=1,
        )
        read_s = 0.4 + 8.0 * job / shape.jobs
        self.at(read_s, "read_sent", worker="files1", job_id=job)
        done_s = read_s + 6.0 / shape.jobs
        self.at(done_s, "file_done", worker="files1", job_id=job)
        items = shape.items_per_job
        self.at(done_s, "job_read", job_id=job, items=items, missing=items, model=MODEL)

    def batches(self, owners: list[list[int]], costs: list[int]) -> float:
        """Cut batches of items of like length, and run them; return when the last was done."""
        order = sorted(range(len(owners)), key=lambda item: -costs[item])
        size = self.shape.batch_items
        free_s = [12.5 + number / 10 for number in range(len(self.devices))]
        for number, start in enumerate(range(0, len(order), size), start=1):
            chunk = order[start : start + size]
            device = min(range(len(free_s)), key=free_s.__getitem__)
            free_s[device] = self.batch(number, device, free_s[device], chunk, owners, costs)
        return max(free_s)

    def batch(
        self,
        number: int,
        device: int,
        at_s: float,
        chunk: list[int],
        owners: list[list[int]],
        costs: list[int],
    ) -> float:
        tokens, longest = sum(costs[i] for i in chunk), max(costs[i] for i in chunk)
        padded = longest * len(chunk)
        seconds = round(0.004 + padded / 400_000, 6)
        charged: defaultdict[int, float] = defaultdict(float)
        for item in chunk:
            for job in owners[item]:
                charged[job] += seconds * costs[item] / tokens / len(owners[item])
        worker = f"{MODEL}.{device + 1}"
        self.at(
            at_s,
            "batch_sent",
            batch=number,
            worker=worker,
            items=len(chunk),
            jobs=sorted(charged),
            tokens=tokens,
            padded_tokens=padded,
            longest_tokens=longest,
        )
        done_s = at_s + seconds
        self.at(
            done_s,
            "batch_done",
            batch=number,
            worker=worker,
            seconds=seconds,
            items=len(chunk),
            failed=0,
            jobs=list(charged),
            device_s=[round(s, 9) for s in charged.values()],
            peak_mib=2600 + padded // 10,
        )
        for job, share_s in charged.items():
            self.charged[job] += share_s
            self.last_s[job] = max(self.last_s[job], done_s)
        return done_s + 0.0005

    def finish_jobs(self, end_s: float) -> float:
        shape = self.shape
        failed = set(self.random.sample(range(1, shape.jobs + 1), min(shape.failed, shape.jobs)))
        free_s = 0.0
        for job in sorted(self.of_job, key=self.last_s.__getitem__):
            title, _ = self.title(job)
            at_s = max(self.last_s[job] + 0.001, free_s)
            told = {
                "job": title,
                "job_id": job,
                "items": shape.items_per_job,
                "duplicates": self.duplicates[job],
                "reused": 0,
                "worked_s": round(self.charged[job] + 0.002 + 3.0 * (job == 2), 6),
                "device_s": round(self.charged[job], 9),
                "device_kind": "cuda",
                "peak_mib": 2700 + job % 50,
                "saved_s": round(0.004 * self.duplicates[job], 9),
            }
            if job in failed:
                error = f"{title}: proteins/x.fasta: record 3 has an empty sequence"
                self.at(at_s, "job_failed", error=error + HOSTILE * shape.is_hostile, **told)
                continue
            self.at(at_s, "write_sent", worker="files1", job_id=job)
            free_s = at_s + 0.0004
            self.at(free_s, "file_done", worker="files1", job_id=job)
            self.at(free_s, "job_done", **told)
            end_s = max(end_s, free_s)
        return end_s + 0.2

    def other_things(self, end_s: float) -> float:
        """Plain GPU jobs, an eviction, a move, a death, a merged chain, warnings."""
        first, last = f"{MODEL}.1", f"{MODEL}.{len(self.devices)}"
        base = self.shape.jobs
        self.at(0.2, "remark", text="no profile yet: nothing is known of this model")
        job = {"job": "rule train (fold=1)", "job_id": base + 1}
        self.at(1.0, "lease_requested", **job, wants="cuda", rule="train", wildcards={"fold": "1"})
        evicted = {"worker": first, "devices": ["cuda:0"], "how": "restart"}
        self.at(end_s, "evicted", **evicted)
        self.at(end_s, "worker_stopping", worker=first, why="its device is needed")
        self.at(end_s + 0.3, "worker_ended", worker=first, reason="exit code 0", expected=True)
        self.at(end_s + 0.4, "lease_granted", **job, devices=["cuda:0"])
        self.at(end_s + 2.4, "lease_released", **job)
        waiting = {"job": "rule train (fold=2)", "job_id": base + 2, "wants": "cuda"}
        self.at(1.1, "lease_requested", **waiting, rule="train", wildcards={"fold": "2"})
        self.at(end_s + 1.0, "worker_died", worker=last, reason="killed by signal 9")
        gone = {"worker": last, "reason": "killed by signal 9", "expected": False}
        self.at(end_s + 1.0, "worker_ended", **gone)
        return self.chain(end_s + 1.2) + 1.6

    def chain(self, at_s: float) -> float:
        """A short job that takes the job after it along."""
        base, worker = self.shape.jobs, "chain.1"
        first = {"job": "rule query (q=1)", "job_id": base + 3}
        second = {"job": "rule score (q=1)", "job_id": base + 4}
        device = self.devices[-1]
        self.worker(worker, TOOL, [device], at_s, 0.1)
        self.load(worker, f"{MODEL} + {HEAD_MODEL}", at_s + 0.15, 0.2)
        self.at(at_s, "job_submitted", **first, tool=TOOL, rule="query", wildcards={"q": "1"})
        batch = 10_000_000
        sent = {"items": 1, "jobs": [base + 3], "tokens": 60, "longest_tokens": 60}
        self.at(at_s + 0.4, "batch_sent", batch=batch, worker=worker, padded_tokens=60, **sent)
        for stage, job in enumerate((first, second)):
            done_s = at_s + 0.42 + stage / 50
            told = {"job": job["job"], "job_id": base + 3, "batch": batch}
            self.at(done_s, "stage_done", **told, stage=stage, worker=worker)
        charged = {"jobs": [base + 3], "device_s": [0.03], "overhead_s": {"unclaimed": 0.01}}
        done = {"batch": batch, "worker": worker, "seconds": 0.04, "items": 1, "failed": 0}
        self.at(at_s + 0.45, "batch_done", **done, **charged)
        took = {"items": 1, "duplicates": 0, "reused": 0, "worked_s": 0.03, "device_kind": "cuda"}
        self.at(at_s + 0.46, "job_done", **first, **took, device_s=0.03)
        self.at(
            at_s + 0.5, "job_submitted", **second, tool=HEAD, rule="score", wildcards={"q": "1"}
        )
        self.at(at_s + 0.51, "dispatch_saved", **second, batch=batch)
        self.at(at_s + 0.52, "job_done", **second, **{**took, "worked_s": 0.01}, device_s=0.01)
        return at_s + 0.6


def write_run(directory: Path, shape: Shape | None = None) -> Path:
    """Write a run's files into a new directory, and return it."""
    return SyntheticRun(shape or Shape()).write(directory)


def lines_of(directory: Path, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a run's events, all or of one kind, as they are."""
    for line in (directory / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if kind in (None, event["event"]):
            yield event
