"""One coordinator's work on a node: its processes, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from snakemake_executor_gpupool.devices.cores import choose_devices, worker_threads
from snakemake_executor_gpupool.devices.device import Device
from snakemake_executor_gpupool.devices.lent_locks import LentLocks
from snakemake_executor_gpupool.devices.managed_spec import managed_of_host
from snakemake_executor_gpupool.devices.ownership import DeviceOwnership
from snakemake_executor_gpupool.devices.probe import probe
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.hosts.base import FrameArrived, HostEvent, WorkerGone
from snakemake_executor_gpupool.hosts.cluster.endpoint import Endpoint
from snakemake_executor_gpupool.hosts.cluster.messages import (
    Answer,
    Begin,
    CommandDone,
    End,
    Joined,
    Message,
    Offer,
    ProcessGone,
    RunCommand,
    SendFrame,
    StartProcess,
    StopProcess,
    ToldToEnd,
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
from snakemake_executor_gpupool.hosts.cluster.processes import NodeProcesses, SharedCores
from snakemake_executor_gpupool.hosts.cluster.shell_command import FAILED_CODE
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
#: How much later than a process of the same node the agent may get the signal that ended both.
LATER_S = 0.5
#: How many commands may run at a time, or wait for their files; the node's cores are fewer.
MAX_COMMANDS = 1024
#: How much of what a command printed is sent along with its end.
MAX_SAID_BYTES = 16 * 1024

_shared_cores = SharedCores()


class Session:
    """One coordinator's work on this node, on a thread of its own.

    Parameters
    ----------
    ident
        The coordinator's name for it.
    loop
        The event loop that the link runs on.
    cores
        How many cores commands may use; None: as many as the batch system gave, or there are.
    """

    def __init__(
        self, ident: str, loop: asyncio.AbstractEventLoop, cores: int | None = None
    ) -> None:
        self.ident = ident
        self._cores = node_cores(os.environ) if cores is None else cores
        self._commands = ThreadPoolExecutor(MAX_COMMANDS, thread_name_prefix="gpupool-command")
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
        self._is_told_to_end = False
        self._is_released = False
        self._held: list[tuple[float, WorkerGone]] = []
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

    def wait(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def told_to_end(self, why: str) -> None:
        """Go on only with what is being computed; called from any thread."""
        self.processes.told_to_end()
        self._post(lambda: self._leave(why))

    def _leave(self, why: str) -> None:
        self._is_told_to_end = True
        self._tell(ToldToEnd(why))
        self._tell_held(math.inf)

    def _delivered(self, message: bytes) -> None:
        self._post(lambda: self._obey(unpack(message)))

    def _watch(self, group: int, mark: str) -> None:
        self._post(lambda: self._host.watch(group, mark) if self._host else None)

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
            for event in self._host.poll(LATER_S if self._held else TURN_S):
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
        self._tell_held(time.monotonic())
        if self._is_released and not (self._is_told_to_end and self.processes.are_running):
            self._closing.set()
        self._ask_again()

    def _obey(self, command: Message) -> None:
        match command:
            case Begin():
                self._begin(command)
            case StartProcess():
                self._start(command)
            case RunCommand():
                self._commands.submit(self._run_command, command)
            case End():
                self._is_released = True
            case SendFrame(worker_id=worker_id, frame=frame) if self._host is not None:
                self._host.send(worker_id, *frame)
            case StopProcess(worker_id=worker_id) if self._host is not None:
                force, complaint = command.force, command.complaint
                self._host.stop(worker_id, force=force, complaint=complaint)

    def _end(self) -> None:
        self.processes.end()
        self._commands.shutdown(wait=False)
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
        self._host.launcher.lend = self._lend_to_worker
        node = node_name(env)
        self._devices = {device.name: device for device in devices}
        self._waiting = [device.on(node) for device in devices]
        free = self._claim(notes)
        left_s = ends_in_s(env, begin.walltime_s)
        self._tell(Joined(tuple(free), left_s, tuple(notes), self._cores))

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
        is_time = time.monotonic() - self._claimed_s > CLAIM_S
        if self._waiting and is_time and not self._is_told_to_end:
            free = self._claim([])
            if free:
                self._tell(Offer(tuple(free)))

    def _start(self, start: StartProcess) -> None:
        assert self._host is not None, "start before begin"
        devices = tuple(self._devices[name] for name in start.device_names)
        self._host.start(start.worker_id, start.tool, devices, is_ahead=start.is_ahead)

    # -- commands, each on a thread of its own -------------------------------------------
    def _run_command(self, command: RunCommand) -> None:
        threads = command.threads
        _shared_cores.take(threads, self._cores, self._closing.is_set)
        try:
            done = self._done(command)
        except Exception as error:  # files that cannot be written, a shell that is not there
            why = str(error) if isinstance(error, OSError) else repr(error)
            said = f"gpupool: a job could not be started on its node: {why}\n"
            done = CommandDone(command.number, FAILED_CODE, said)
        finally:
            _shared_cores.give_back(threads)
        self._tell(done)

    def _done(self, command: RunCommand) -> CommandDone:
        why_not = command.shell.why_not(command.cwd)
        if why_not is not None:
            return CommandDone(command.number, *why_not)
        code = self.processes.run(
            command.shell, command.cwd, command.environment, command.log, command.limit_s
        )
        log, said = Path(command.log), ""
        with contextlib.suppress(OSError):  # its exit code counts, whatever became of its log
            if log.stat().st_size > MAX_SAID_BYTES:
                return CommandDone(command.number, code, has_log=True)
            said = log.read_text(encoding="utf-8", errors="replace")
            log.unlink()
        return CommandDone(command.number, code, said)

    # -- what happens here -----------------------------------------------------------------
    def _on_host_event(self, event: HostEvent) -> None:
        if isinstance(event, WorkerGone):
            self._ownership.take_back(event.worker_id)
            if event.expected or self._is_told_to_end:
                self._tell_gone(event)
            else:
                self._held.append((time.monotonic() + LATER_S, event))
            return
        assert isinstance(event, FrameArrived), "a machine's own processes are all there is"
        self._tell(WorkerFrame(event.worker_id, event.frame))

    def _tell_held(self, now_s: float) -> None:
        """Tell of processes that have ended by themselves, now that it is known why."""
        due = [event for due_s, event in self._held if due_s <= now_s]
        self._held = [(due_s, event) for due_s, event in self._held if due_s > now_s]
        for event in due:
            self._tell_gone(event)

    def _tell_gone(self, gone: WorkerGone) -> None:
        is_blameless = self._is_told_to_end and not gone.expected
        self._tell(ProcessGone(gone.worker_id, gone.reason, gone.expected, is_blameless))


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
