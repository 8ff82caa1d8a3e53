"""A host in memory: it keeps what workers are sent, and reports what a test says of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from snakemake_executor_gpupool.hosts.base import Carried, Host, HostEvent, WorkerGone
from snakemake_executor_gpupool.wire.frames import Blob, Frame


@dataclass
class FakeHost(Host):
    """Workers that are only names: ``sent`` has what each living one was sent.

    ``poll`` returns ``events``, to which a test adds; with ``waits`` it waits to be woken, as a
    pool's thread needs. A worker that is told to end has ended, unless it is ``stubborn``.
    Methods named in ``failing`` raise ``OSError``; ``asked`` are the calls so far.
    """

    waits: bool = False
    sent: dict[str, list[Frame]] = field(default_factory=dict)
    events: list[HostEvent] = field(default_factory=list)
    stubborn: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    complaints: dict[str, str] = field(default_factory=dict)
    carried: Carried = field(default_factory=Carried)
    _woken: threading.Event = field(default_factory=threading.Event)

    def _ask(self, name: str, *given: object) -> None:
        self.asked.append((name, *given))
        if name in self.failing:
            raise OSError(f"{name} failed")

    def dies(self, worker_id: str, reason: str, *, expected: bool = False) -> None:
        """End a worker."""
        self.events.append(WorkerGone(worker_id, reason, expected))
        del self.sent[worker_id]

    def wake(self) -> None:
        self._woken.set()

    def poll(self, timeout_s: float) -> list[HostEvent]:
        if self.waits and not self.events and self._woken.wait(min(timeout_s, 60.0)):
            self._woken.clear()
        self._ask("poll", timeout_s)
        taken, self.events = self.events, []
        return taken

    def start(self, worker_id: str, *tool_devices_node: Any, is_ahead: bool = False) -> None:
        self._ask("start", worker_id, *tool_devices_node)
        self.sent[worker_id] = []

    def send(self, worker_id: str, meta: Mapping[str, Any], blobs: Sequence[Blob] = ()) -> None:
        self._ask("send", worker_id)
        self.sent.get(worker_id, []).append(Frame(dict(meta), list(blobs)))

    def flush(self) -> None:
        self._ask("flush")

    def stop(self, worker_id: str, *, force: bool = False, complaint: str = "") -> None:
        self._ask("stop", worker_id, force)
        self.complaints |= {worker_id: complaint} if complaint else {}
        if worker_id in self.sent.keys() - self.stubborn:
            why = self.complaints.get(worker_id)
            self.dies(worker_id, why or "exit code 0", expected=why is None)

    def reject(self, worker_id: str, why: str) -> None:
        self.stop(worker_id, force=True, complaint=f"broke the protocol ({why})")

    def stop_all(self, *, force: bool = False) -> None:
        self._ask("stop_all", force)
        for worker_id in list(self.sent):
            self.stop(worker_id, force=force)

    def close(self, on_end: Callable[[WorkerGone], None]) -> list[str]:
        self._ask("close")
        self.stop_all()
        for end in [event for event in self.events if isinstance(event, WorkerGone)]:
            on_end(end)
        return sorted(self.sent)

    def pids(self) -> list[int]:
        return []

    def believes(self, worker_id: str) -> bool:
        return worker_id not in self.complaints

    def wants(self, demand: object) -> None:
        self._ask("wants", demand)
