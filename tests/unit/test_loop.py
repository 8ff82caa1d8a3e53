"""The run loop, one step at a time: no thread, no clock, a host in memory (S10, W4, W5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.hosts.base import (
    DevicesExpected,
    DevicesJoined,
    DevicesLeft,
    FrameArrived,
    WorkerForked,
)
from snakemake_executor_gpupool.records.paths import RunPaths
from snakemake_executor_gpupool.records.profile import Profile
from snakemake_executor_gpupool.records.runs.reader import read_run
from snakemake_executor_gpupool.runtime.carry_out import Callbacks
from snakemake_executor_gpupool.runtime.config import PoolConfig
from snakemake_executor_gpupool.runtime.inbox import Inbox
from snakemake_executor_gpupool.runtime.loop import RunLoop
from snakemake_executor_gpupool.runtime.sharing import Sharing
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.leases import LeaseRequest
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef
from tests.unit.answering import AnsweringHost

CARD = Device("cuda:0", "cuda", 0, "GPU-0", visible_id="0")
TOOL = ToolRef("tool", "", "python")


def request(job_id: int, **more: Any) -> Request:
    return Request(job_id, f"rule r (n={job_id})", TOOL, b"job", b"params", "/", **more)


class Stepped:
    """A loop that a test steps; callbacks are called at once."""

    def __init__(self, directory: Path, *devices: Device, expected: tuple[Device, ...] = ()):
        self.host = AnsweringHost()
        self.now_s = 100.0
        self.reports: dict[int, JobReport] = {}
        self.leased: dict[int, tuple[tuple[Device, ...], dict[str, str]]] = {}
        self.lines: list[str] = []
        self.paths = RunPaths(directory)
        self.paths.create()
        config = PoolConfig(devices, DeviceSettings(), 1, directory, expected=expected)
        core = Core(Setup(devices, expected, spools=tuple(self.paths.spools)))
        self.allocator = core.allocator
        locks = {"GPUPOOL_LOCK_DIR": str(directory / "locks")}
        self.sharing = Sharing(locks, self.allocator, self.host.pids, self.lines.append)
        (directory / "locks").mkdir(mode=0o700)
        self.sharing.open(devices)
        self.inbox = Inbox(self.host.wake)
        self.loop = RunLoop(
            config,
            self.paths,
            self.host,
            core=core,
            sharing=self.sharing,
            inbox=self.inbox,
            callbacks=Callbacks(self._report, self._lease, lambda error: None, self.lines.append),
            put=lambda tell: tell(),
            store=None,
            profile=Profile(None),
            now_s=self.now_s,
        )

    def _report(self, report: JobReport) -> None:
        assert report.job_id not in self.reports, "a job is reported once"
        self.reports[report.job_id] = report

    def _lease(self, job_id: int, devices: tuple[Device, ...], environment: dict[str, str]) -> None:
        self.leased[job_id] = devices, environment

    def submit(self, *job_ids: int) -> None:
        def act(now_s: float) -> None:
            for job_id in job_ids:
                self.loop.take(ev.JobReady(request(job_id)), now_s)

        self.inbox.post(act)

    def steps(self, count: int = 1, each_s: float = 0.5) -> None:
        for _ in range(count):
            self.now_s += each_s
            self.loop.step(self.now_s)

    def close(self) -> None:
        self.sharing.close()
        self.loop.events.close()
        self.loop.remove_files()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        lines = map(json.loads, self.paths.events.read_text().splitlines())
        return [event for event in lines if name in ("", event["event"])]


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    made = Stepped(tmp_path, CARD, cpu_slot(0))
    yield made
    made.close()


def test_a_job_is_served_in_steps(stepped: Stepped) -> None:  # D7
    stepped.host.items = {1: ["b", "a", "b"], 2: ["a", "c"]}
    stepped.submit(1, 2)
    stepped.steps(20)
    assert {job: report.error for job, report in stepped.reports.items()} == {1: None, 2: None}
    assert stepped.host.written == {1: [b"b!", b"a!", b"b!"], 2: [b"a!", b"c!"]}
    assert sorted(stepped.host.computed) == ["a", "b", "c"], "equal items are computed once"
    assert stepped.loop.summary(stepped.now_s)["jobs_served"] == 2


def test_a_step_never_waits_and_takes_the_time_that_it_is_given(stepped: Stepped) -> None:
    stepped.steps(3, each_s=1000.0)
    polled = [timeout_s for name, *given in stepped.host.asked for timeout_s in given[:1]]
    assert set(polled) == {0.0}
    assert stepped.loop.summary(stepped.now_s)["wall_s"] == 3000.0


def test_what_comes_while_answers_are_gathered_is_taken_in_the_same_step(stepped: Stepped) -> None:
    loop, late = stepped.loop, DevicesLeft((), "late")
    loop.scheduler.files.pause_s = lambda senders: 0.5 * bool([*senders])  # type: ignore
    for is_answer in (True, False):
        stepped.host.events.append(
            FrameArrived("w", Frame({"type": "x"}, [])) if is_answer else DevicesLeft((), "first")
        )
        loop.wait(stepped.now_s)
        assert loop.pause_s() == (0.5 if is_answer else 0.0), "only answers are waited for"
        stepped.host.events.append(late)
        stepped.steps()
        assert (late in stepped.host.events) != is_answer


def test_what_was_found_while_waiting_is_taken_once(stepped: Stepped) -> None:
    stepped.host.events.append(DevicesLeft((), "nothing"))
    stepped.loop.wait(stepped.now_s)
    polls = len(stepped.host.asked)
    stepped.steps(1)
    assert [name for name, *_ in stepped.host.asked[polls:]] == ["flush"], "no second poll"
    stepped.steps(1)
    assert len(stepped.events("devices_left")) == 1


def test_it_waits_no_longer_than_until_something_is_due(stepped: Stepped) -> None:
    stepped.host.silent = {"read"}
    stepped.submit(1)
    stepped.steps(3)
    stepped.loop.wait(stepped.now_s)
    name, timeout_s = stepped.host.asked[-1]
    assert name == "poll" and 0 < timeout_s < 3600.0


def test_a_worker_that_breaks_the_protocol_ends_and_is_believed_no_more(
    stepped: Stepped,
) -> None:  # W5
    stepped.host.silent = {"read"}
    stepped.submit(1)
    stepped.steps(3)
    (worker,) = stepped.host.sent
    stepped.host.stubborn = {worker}  # it lives on for a while
    stepped.host.says(worker, "dance")
    stepped.steps(1)
    assert "broke the protocol" in stepped.host.complaints[worker]
    stepped.host.says(worker, "items", job=1, items=[], last=True)
    stepped.host.says(worker, "read_failed", job=1, error={"kind": "input"} | ERROR_FIELDS)
    stepped.steps(2)
    assert 1 not in stepped.reports, "what it says of its job counts no more"
    assert stepped.loop.scheduler.jobs.get(1) is not None


ERROR_FIELDS = {"type": "InputError", "message": "a lie", "traceback": ""}


def test_a_dead_worker_is_replaced_and_its_job_served(stepped: Stepped) -> None:  # W4
    stepped.host.silent = {"run"}
    stepped.submit(1)
    stepped.steps(10)
    (busy,) = [w for w, sent in stepped.host.sent.items() if any(f.type == "run" for f in sent)]
    stepped.host.silent = set()
    stepped.host.dies(busy, "killed by SIGKILL\nthe end of its log")
    stepped.steps(20)
    assert stepped.reports[1].error is None and stepped.host.written == {1: [b"1!"]}
    (end,) = stepped.events("worker_ended")
    assert end["reason"] == "killed by SIGKILL" and end["expected"] is False


def test_the_number_of_a_worker_that_is_forked_is_recorded_when_it_is_known(
    stepped: Stepped,
) -> None:
    stepped.submit(1)
    stepped.steps(2)
    (reader,) = stepped.host.sent
    stepped.host.events.append(WorkerForked(reader, 4321))
    stepped.steps(20)
    stepped.loop.events.close()
    (started,) = [e for e in stepped.events("worker_started") if e["worker"] == reader]
    assert started["pid"] is None
    assert read_run(stepped.paths.directory).workers[reader].pid == 4321


def test_a_worker_s_end_is_noted_after_what_it_had_said(stepped: Stepped) -> None:
    stepped.submit(1)
    stepped.steps(2)
    (reader,) = stepped.host.sent
    stepped.host.dies(reader, "killed by SIGKILL")  # its answer comes in the same turn
    stepped.steps()
    names = [event["event"] for event in stepped.events()]
    assert names.index("job_read") < names.index("worker_ended")


def test_a_cancelled_run_reports_every_job_and_ends_every_worker(stepped: Stepped) -> None:  # S10
    stepped.host.silent = {"run"}
    stepped.submit(1, 2)
    stepped.steps(10)
    workers = set(stepped.host.sent)
    assert workers
    stepped.inbox.post(lambda now_s: stepped.loop.cancel("cancelled", now_s))
    stepped.steps(1)
    assert {r.error for r in stepped.reports.values()} == {
        "rule r (n=1): cancelled",
        "rule r (n=2): cancelled",
    }
    forced = {given[0] for name, *given in stepped.host.asked if name == "stop" and given[1]}
    assert forced >= workers and not stepped.host.sent


def test_what_comes_late_for_a_cancelled_job_changes_nothing(stepped: Stepped) -> None:  # S10
    stepped.host.silent = {"run"}
    stepped.submit(1)
    stepped.steps(10)
    (busy,) = [w for w, sent in stepped.host.sent.items() if any(f.type == "run" for f in sent)]
    batch = next(f.meta["batch"] for f in stepped.host.sent[busy] if f.type == "run")
    stepped.host.stubborn = set(stepped.host.sent)
    stepped.inbox.post(lambda now_s: stepped.loop.cancel("cancelled", now_s))
    stepped.steps(1)
    outcomes = {"items": 1, "failed": [], "errors": [], "out_of_memory": []}
    figures = {"seconds": 0.1, "peak_mib": None}
    stepped.host.says(busy, "done", [b"1!"], batch=batch, **outcomes, **figures)
    stepped.steps(5)
    assert stepped.reports[1].error == "rule r (n=1): cancelled" and not stepped.host.written


def test_a_lease_is_granted_held_and_given_back(stepped: Stepped) -> None:  # D5
    spec = parse_device("cuda")
    for job_id in (1, 2):
        wanted = ev.LeaseWanted(LeaseRequest(job_id, f"lease {job_id}", spec))
        stepped.inbox.post(lambda now_s, wanted=wanted: stepped.loop.take(wanted, now_s))
    stepped.steps(3)
    (devices, environment) = stepped.leased[1]
    assert devices == (CARD,) and environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert set(stepped.leased) == {1}, "one at a time"
    assert stepped.allocator.allocation_map()["cuda:0"]
    stepped.inbox.post(lambda now_s: stepped.loop.lease_done(1, now_s))
    stepped.steps(3)
    assert set(stepped.leased) == {1, 2}


def test_devices_come_and_go(tmp_path: Path) -> None:  # D12
    far = Device("cuda:0", "cuda", 0, "GPU-9", visible_id="0").on("n1")
    stepped = Stepped(tmp_path, expected=(far,))
    wanted = ev.LeaseWanted(LeaseRequest(1, "lease 1", parse_device("cuda")))
    stepped.inbox.post(lambda now_s: stepped.loop.take(wanted, now_s))
    stepped.steps(3)
    demands = [given[0] for name, *given in stepped.host.asked if name == "wants"]
    assert demands and demands[-1].devices == 1, "the host hears what could be used"
    assert not stepped.leased
    stepped.host.events.append(DevicesJoined((far,)))
    stepped.steps(2)
    assert stepped.leased[1][0] == (far,)
    stepped.inbox.post(lambda now_s: stepped.loop.lease_done(1, now_s))
    stepped.host.events += [DevicesLeft((far.name,), "lost"), DevicesExpected(())]
    stepped.steps(2)
    second = ev.LeaseWanted(LeaseRequest(2, "lease 2", parse_device("cuda")))
    stepped.inbox.post(lambda now_s: stepped.loop.take(second, now_s))
    stepped.steps(2)
    assert "lease 2" in str(stepped.reports[2].error), "nothing more is to be waited for"
    named = [(e["event"], e["devices"]) for e in stepped.events() if "devices_" in e["event"]]
    assert named == [("devices_joined", [far.name]), ("devices_left", [far.name])]
    stepped.close()


def test_the_end_says_who_could_not_be_ended_and_leaves_figures(stepped: Stepped) -> None:  # S10
    stepped.submit(1)
    stepped.steps(20)
    stubborn = sorted(stepped.host.sent)[0]
    stepped.host.stubborn = {stubborn}
    stepped.loop.end_workers()
    stepped.loop.report_rest()
    stepped.loop.write_summary(stepped.now_s + 1.0)
    stepped.loop.events.close()
    assert any(f"worker {stubborn} cannot be ended" in line for line in stepped.lines)
    summary = json.loads(stepped.paths.summary.read_text())
    assert summary["jobs_served"] == 1 and summary["wall_s"] == 11.0
    ended = {event["worker"] for event in stepped.events("worker_ended")}
    started = {event["worker"] for event in stepped.events("worker_started")}
    assert ended == started - {stubborn} and ended


def test_after_a_failure_every_job_is_reported_with_the_cause(stepped: Stepped) -> None:  # S10
    stepped.host.silent = {"read"}
    stepped.submit(1)
    stepped.steps(2)
    stepped.loop.give_up(ValueError("a cause"), stepped.now_s)
    stepped.loop.report_rest()
    assert "gpupool itself failed, which is a bug" in str(stepped.reports[1].error)
    (event,) = stepped.events("pool_failed")
    assert event["error"] == "ValueError('a cause')"


def test_an_event_log_that_cannot_be_written_is_said_once(
    stepped: Stepped, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped.loop.events.error = OSError(28, "No space left on device")
    stepped.steps(3)
    (line,) = [line for line in stepped.lines if "incomplete" in line]
    assert str(stepped.paths.events) in line and "No space left" in line


def test_frames_are_taken_in_order(stepped: Stepped) -> None:
    stepped.host.silent = {"tool", "read"}
    stepped.submit(1)
    stepped.steps(2)
    (worker,) = stepped.host.sent
    bad = Frame({"type": "tool_failed", "error": {"kind": "tool", **ERROR_FIELDS}}, [])
    stepped.host.events += [FrameArrived(worker, bad), FrameArrived(worker, Frame({}, []))]
    stepped.steps(1)
    assert "a lie" in str(stepped.reports[1].error)
