"""A node's part of a run: a thin agent in a Dask worker, which starts the model's workers.

::

    coordinator ◄── link ──► Agent (event loop) ◄── queue, wake ──► Session (thread): LocalHost

The agent is a plugin of the Dask worker; the processes that hold models are started by
:class:`~snakemake_executor_gpupool.hosts.local.LocalHost`, just as on a single machine, and end
when the agent does, however that happens.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

from snakemake_executor_gpupool.devices.cores import choose_devices, worker_threads
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.lent_locks import LentLocks
from snakemake_executor_gpupool.devices.managed_spec import managed_of_host
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.hosts.base import FrameArrived, HostEvent, WorkerGone
from snakemake_executor_gpupool.hosts.cluster.commands import NodeProcesses
from snakemake_executor_gpupool.hosts.cluster.endpoint import Endpoint
from snakemake_executor_gpupool.hosts.cluster.link import LinkBroken
from snakemake_executor_gpupool.hosts.cluster.messages import (
    Answer,
    Begin,
    End,
    Joined,
    Message,
    Offer,
    ProcessGone,
    SendFrame,
    StartProcess,
    StopProcess,
    Unfit,
    WorkerFrame,
    pack,
    unpack,
)
from snakemake_executor_gpupool.hosts.cluster.node import (
    device_environment,
    ends_in_s,
    node_cores,
    node_name,
    why_not_shared,
)
from snakemake_executor_gpupool.hosts.local import LocalHost
from snakemake_executor_gpupool.hosts.mailbox import Mailbox
from snakemake_executor_gpupool.records.paths import RunPaths

log = logging.getLogger("gpupool.agent")

#: How often an idle session checks its timeouts.
TURN_S = 1.0
#: How often devices that another process holds are requested again.
CLAIM_S = 10.0
#: How long a session may take to end its workers.
PATIENCE_S = 8.0


class AgentPlugin(WorkerPlugin):
    """Makes a Dask worker an agent for one run.

    Parameters
    ----------
    run_id
        The run; also the name of the topic under which agents announce themselves.
    """

    def __init__(self, run_id: str) -> None:
        self.name = f"gpupool-{run_id}"
        self._agent: Agent | None = None

    @property
    def processes(self) -> NodeProcesses | None:
        """The commands of the current session; None: there is none."""
        return self._agent.processes if self._agent else None

    def setup(self, worker: Any) -> None:
        """Offer the link, and announce this agent to the coordinator."""
        self._agent = Agent()
        worker.handlers[self.name] = self._agent.attend
        node = node_name(os.environ)
        place = worker.nanny or worker.address
        announcement = {
            "address": worker.address,
            "node": node,
            "place": place,
            "name": str(worker.name),
        }
        worker.log_event(self.name, announcement)

    async def teardown(self, worker: Any) -> None:
        """End everything."""
        worker.handlers.pop(self.name, None)
        if self._agent is not None:
            await self._agent.close()


class Agent:
    """One end of the link, and the session that it serves.

    Used on the event loop's thread alone.
    """

    def __init__(self) -> None:
        self._session: Session | None = None

    @property
    def processes(self) -> NodeProcesses | None:
        """The commands of the current session; None: there is none."""
        return self._session.processes if self._session else None

    async def attend(self, comm: Any, session: str, received: int) -> Any:
        """Serve one connection of a session until it breaks; a handler of the Dask worker."""
        if self._session is None or self._session.ident != session or self._session.is_over:
            if received:  # a session that this agent has ended, or never knew
                await comm.write({"received": None})
                return Status.dont_reply
            await self.close()
            self._session = Session(session, asyncio.get_running_loop())
        endpoint = self._session.endpoint
        await comm.write({"received": endpoint.link.received})
        try:
            await endpoint.attend(comm, received)
        except LinkBroken as error:
            log.error("the link to the coordinator cannot be resumed: %s", error)
            await self.close()
        return Status.dont_reply

    async def close(self) -> None:
        """End the session and all its processes."""
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(session.close)


class Session:
    """One coordinator's work on this node, on a thread of its own.

    Parameters
    ----------
    ident
        The coordinator's name for it.
    loop
        The event loop that the link runs on.
    """

    def __init__(self, ident: str, loop: asyncio.AbstractEventLoop) -> None:
        self.ident = ident
        self.endpoint = Endpoint(loop, self._delivered)
        self.processes = NodeProcesses(self._watch, self._forget, self._lend, self._take_back)
        self._inbox: Mailbox[Callable[[], None]] = Mailbox(self._wake)
        self._closing = threading.Event()
        self._host: LocalHost | None = None
        self._devices: dict[str, Device] = {}
        self._waiting: list[Device] = []  # devices that somebody else holds
        self._ownership = DeviceOwnership(os.environ)
        self._claimed_s = 0.0
        self._silence_s = 60.0
        self._thread = threading.Thread(target=self._run, name="gpupool-agent", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it, and wait until it has."""
        self._closing.set()
        self._wake()
        self._thread.join()

    def _delivered(self, message: bytes) -> None:
        self._post(lambda: self._obey(unpack(message)))

    def _watch(self, group: int) -> None:
        self._post(lambda: self._host.watch(group) if self._host else None)

    def _forget(self, group: int) -> None:
        self._post(lambda: self._host.forget(group) if self._host else None)

    def _lend(self, holder: str, text: str) -> None:
        """Let a command use the devices whose locks a lease names; called from any thread."""
        self._post(lambda: self._ownership.lend_named(holder, LentLocks.parse(text)))

    def _take_back(self, holder: str) -> None:
        self._post(lambda: self._ownership.take_back(holder))

    def _lend_to_worker(self, worker_id: str, devices: Sequence[Device]) -> dict[str, str]:
        node = node_name(os.environ)
        return self._ownership.lend(worker_id, [device.on(node) for device in devices])

    def _post(self, act: Callable[[], None]) -> None:
        self._inbox.post(act)

    def _wake(self) -> None:
        if self._host is not None:
            self._host.wake()

    def _tell(self, answer: Answer) -> None:
        self.endpoint.post(pack(answer))

    # -- the thread ------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._turn()
        except Exception:
            log.exception("the agent failed, which is a bug; its processes end")
        finally:
            self._end()

    def _turn(self) -> None:
        timeout_s = TURN_S
        if self._host is not None:
            for event in self._host.poll(TURN_S):
                self._on_host_event(event)
            timeout_s = 0.0
        for act in self._inbox.take(timeout_s):
            act()
        if time.monotonic() - self.endpoint.heard_s > self._silence_s:
            log.error(
                "nothing heard from the coordinator for %s s: this node's processes are ended",
                self._silence_s,
            )
            self._closing.set()
        self._ask_again()

    def _obey(self, command: Message) -> None:
        match command:
            case Begin():
                self._begin(command)
            case StartProcess():
                self._start(command)
            case End():
                self._closing.set()
            case SendFrame(worker_id=worker_id, frame=frame) if self._host is not None:
                self._host.send(worker_id, *frame)
            case StopProcess(worker_id=worker_id) if self._host is not None:
                force, complaint = command.force, command.complaint
                self._host.stop(worker_id, force=force, complaint=complaint)

    def _end(self) -> None:
        self.processes.end()
        if self._host is not None:
            self._host.stop_all(force=True)
            self._host.close(on_end=self._on_host_event, patience_s=PATIENCE_S)
        self._ownership.close()

    # -- what the coordinator wants ------------------------------------------------------
    def _begin(self, begin: Begin) -> None:
        self._silence_s = begin.silence_s
        for name, value in begin.environment.items():
            os.environ.setdefault(name, value)
        problem = why_not_shared(begin.probe, begin.token, begin.cwd, begin.latency_wait_s)
        if problem is not None:
            self._tell(Unfit(problem))
            return
        try:
            self._open(begin)
        except GpupoolError as error:
            self._tell(Unfit(str(error)))

    def _open(self, begin: Begin) -> None:
        env = device_environment(os.environ)
        cores = node_cores(env)
        devices, notes = managed_here(begin.managed, env, cores)
        paths = RunPaths(Path(begin.run_root), begin.run_id, shared=True)
        self._host = LocalHost(paths, worker_threads(devices, cores))
        self._host.lend = self._lend_to_worker
        node = node_name(env)
        self._devices = {device.name: device for device in devices}
        self._waiting = [device.on(node) for device in devices]
        free = self._claim(notes)
        left_s = ends_in_s(env, begin.walltime_s)
        self._tell(Joined(tuple(free), left_s, tuple(notes)))

    def _claim(self, notes: list[str]) -> list[Device]:
        """Lock the waiting devices that no other process holds; return those."""
        self._claimed_s = time.monotonic()
        taken, refused = [], []
        for device in self._waiting:
            refusal = self._ownership.take([device])
            if refusal is None:
                taken.append(self._devices[device.local_name])
            elif refusal.lost:
                notes.append(refusal.why)
            else:
                refused.append(device)
                notes.append(refusal.why)
        self._waiting = refused
        return taken

    def _ask_again(self) -> None:
        if self._waiting and time.monotonic() - self._claimed_s > CLAIM_S:
            free = self._claim([])
            if free:
                self._tell(Offer(tuple(free)))

    def _start(self, start: StartProcess) -> None:
        assert self._host is not None, "start before begin"
        devices = tuple(self._devices[name] for name in start.device_names)
        self._host.start(start.worker_id, start.tool, devices)

    # -- what happens here -----------------------------------------------------------------
    def _on_host_event(self, event: HostEvent) -> None:
        if isinstance(event, WorkerGone):
            self._ownership.take_back(event.worker_id)
            self._tell(ProcessGone(event.worker_id, event.reason, event.expected))
            return
        assert isinstance(event, FrameArrived), "a machine's own processes are all there is"
        self._tell(WorkerFrame(event.worker_id, event.frame))


def managed_here(
    managed: str, env: dict[str, str], cores: int
) -> tuple[tuple[Device, ...], list[str]]:
    """Return the devices of this node that the run may use, and notes for the user.

    Raises
    ------
    ConfigError
        The string names a device that does not exist.
    """
    text = managed_of_host(managed, node_name(env))
    if text is None:
        return (), []
    probed = probe(env)
    settings = DeviceSettings(managed=text, managed_source="--gpupool-devices")
    return choose_devices(settings, probed, cores), list(probed.warnings)
