"""What each effect becomes: a frame, a line, a call back (W3, D4, S10)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.lent_locks import LentLocks
from snakemake_executor_gpupool.devices.visibility import LEASE_VARIABLE
from snakemake_executor_gpupool.records.events import EventLog
from snakemake_executor_gpupool.runtime.carry_out import (
    Actions,
    Callbacks,
    UserLines,
    holder_of,
    tool_device,
)
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.testing.fake_host import FakeHost
from snakemake_executor_gpupool.wire.frames import Frame
from snakemake_executor_gpupool.wire.kept import DAMAGED, StoreAddress
from snakemake_executor_gpupool.wire.requests import JobReport, Request, ToolRef

CARDS = [Device(f"cuda:{n}", "cuda", n, f"GPU-{n}", visible_id=str(n)) for n in range(2)]
TOOL = ToolRef("tool", "", "python", environment="env")


class Acting:
    """Actions over a host in memory, and what they led to."""

    def __init__(self, directory: Path, store: StoreAddress | None = None) -> None:
        self.host = FakeHost()
        self.host.sent["w1"] = []
        self.events = EventLog(directory / "events.jsonl")
        self.later: list[Callable[[], None]] = []
        self.reports: list[JobReport] = []
        self.leased: list[tuple[Any, ...]] = []
        self.warned: list[str] = []
        callbacks = Callbacks(
            self.reports.append,
            lambda *lease: self.leased.append(lease),
            lambda error: None,
            lambda line: None,
            self.warned.append,
        )
        where = str(directory / "staged")
        log_of = lambda worker: directory / f"{worker}.log"  # noqa: E731
        self.actions = Actions(
            self.host, self.events, store, where, log_of, callbacks, self.later.append
        )
        self.lent: list[tuple[str, list[str]]] = []
        self.taken_back: list[tuple[str, bool]] = []
        self.actions.lends(self._lend, self._take_back)

    def _lend(self, holder: str, devices: Any) -> dict[str, str]:
        self.lent.append((holder, [device.name for device in devices]))
        return {LEASE_VARIABLE: "token"}

    def _take_back(self, holder: str, is_gone: bool = True) -> None:
        self.taken_back.append((holder, is_gone))

    def sent(self, effect: fx.Effect) -> Frame:
        """The one frame that an effect becomes."""
        before = len(self.host.sent["w1"])
        self.actions.carry_out(effect)
        (frame,) = self.host.sent["w1"][before:]
        return frame

    def told(self) -> None:
        """Let the reporting thread do what it was given."""
        later, self.later = self.later, []
        for tell in later:
            tell()


@pytest.fixture
def acting(tmp_path: Path) -> Any:
    made = Acting(tmp_path)
    yield made
    made.events.close()


def item(name: str, key: Any = None) -> WorkItem:
    return WorkItem(key, "g", 1.0, 1, f"{name}".encode(), name, (0, 1), 0)


def request(**more: Any) -> Request:
    return Request(7, "rule r", TOOL, b"job", b"params", "/where", **more)


def test_results_go_to_a_writer_with_the_place_of_each_item(acting: Acting) -> None:
    order, names = [1, 0, 1], ["a", "b", "c"]
    asked = request(updates=((0, "copy"),), touched=(1,), directories=(2,))
    effect = fx.WriteJob("w1", asked, order, names, [b"B", b"A"], ("m1", "m2"), 2)
    frame = acting.sent(effect)
    assert frame.meta["order"] == [1, 0, 1] and frame.meta["names"] == names
    assert frame.blobs == [b"job", b"B", b"A"]
    assert frame.meta["updates"] == ((0, "copy"),) and frame.meta["cwd"] == "/where"
    assert frame.meta["touched"] == (1,) and frame.meta["directories"] == (2,)
    assert "m1" in frame.meta["log_text"] and "m2" in frame.meta["log_text"]
    for order, sent in (([0, 1, 2], None), ([0, 2, 1], [0, 2, 1]), ([0, 1], [0, 1])):
        effect = fx.WriteJob("w1", asked, order, names, [b"B", b"A", b"C"], ("m1",), 3)
        assert acting.sent(effect).meta["order"] == sent, "not said where it is their own"


def test_a_batch_has_its_params_and_its_items_in_order(acting: Acting) -> None:
    frame = acting.sent(fx.RunBatch("w1", 3, b"params", [item("x"), item("y"), item("x")]))
    assert frame.blobs == [b"params", b"x", b"y", b"x"]
    assert frame.meta == {"type": "run", "batch": 3, "keys": [None] * 3, "store": None}


def test_only_items_with_a_key_are_kept_across_runs(tmp_path: Path) -> None:
    acting = Acting(tmp_path, StoreAddress("/store"))
    items = [item("x", ("env", "m", "g", "x")), item("y")]  # y's tool is not deterministic
    frame = acting.sent(fx.RunBatch("w1", 3, b"params", items))
    assert frame.meta["keys"] == [("env", "m", "g", "x"), None]
    assert frame.meta["store"] == StoreAddress("/store")
    acting.events.close()


def test_a_read_says_where_kept_results_are_and_what_follows(tmp_path: Path) -> None:
    acting = Acting(tmp_path, StoreAddress("/store"))
    later = Request(8, "later", ToolRef("next", "", "python"), b"job 8", b"", "/")
    frame = acting.sent(fx.ReadJob("w1", request(follow=(later,))))
    assert frame.meta["follow"] == ["next"] and frame.blobs == [b"job", b"job 8"]
    assert frame.meta["space"] == "env" and frame.meta["store"] == StoreAddress("/store")
    acting.events.close()


def test_a_load_names_the_worker_s_own_devices_and_all_params(acting: Acting) -> None:
    frame = acting.sent(fx.LoadModel("w1", tuple(CARDS), b"p", (b"q",), "model"))
    assert frame.meta == {"type": "load", "device": "cuda:0,cuda:1", "model": "model"}
    assert frame.blobs == [b"p", b"q"]
    assert tool_device((cpu_slot(0),)) == "cpu"


def test_a_move_gives_locks_back_or_takes_them_again(acting: Acting) -> None:  # D11
    away = acting.sent(fx.MoveModel("w1", ()))
    assert away.meta == {"type": "move", "device": "cpu", "away": True}
    assert acting.taken_back == [("w1", False)] and not acting.lent
    back = acting.sent(fx.MoveModel("w1", (CARDS[1],)))
    assert back.meta == {"type": "move", "device": "cuda:0", "away": False}
    assert acting.lent == [("w1", ["cuda:1"])]


def test_a_worker_that_is_ended_by_force_gets_the_reason_as_complaint(acting: Acting) -> None:
    acting.actions.carry_out(fx.StopWorker("w1", "idle"))
    assert ("stop", "w1", False) in acting.host.asked and not acting.host.complaints
    acting.host.sent["w2"] = []
    acting.actions.carry_out(fx.StopWorker("w2", "hangs", force=True))
    assert acting.host.complaints == {"w2": "hangs"}


def test_a_granted_job_sees_its_devices_and_holds_their_locks(acting: Acting) -> None:  # D4
    acting.actions.carry_out(fx.GrantLease(5, (CARDS[1],)))
    assert not acting.leased, "told on the reporting thread"
    acting.told()
    ((job_id, devices, environment),) = acting.leased
    assert (job_id, devices) == (5, (CARDS[1],))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1" and environment[LEASE_VARIABLE] == "token"
    assert acting.lent == [(holder_of(5), ["cuda:1"])]


def test_on_another_machine_the_job_brings_a_token_of_its_own(acting: Acting) -> None:
    acting.actions.carry_out(fx.GrantLease(5, (CARDS[0].on("n1"),)))
    acting.told()
    assert not acting.lent, "this machine has no lock of it"
    told = LentLocks.parse(acting.leased[0][2][LEASE_VARIABLE])
    assert told is not None and told.token


def test_what_is_unstaged_lies_below_the_staging_directory(acting: Acting, tmp_path: Path) -> None:
    kept, gone = tmp_path / "out", tmp_path / "staged" / "view" / "out"
    gone.parent.mkdir(parents=True)
    kept.write_text("kept")
    gone.write_text("gone")
    acting.actions.carry_out(fx.Unstage(("view/out",)))
    acting.told()
    assert kept.exists() and not gone.exists()


def test_trouble_with_kept_results_is_said_once_a_kind(acting: Acting) -> None:
    for why in ("first", "second"):
        acting.actions.carry_out(fx.StoreTrouble("w1", DAMAGED, f"{why}\udc80"))
    acting.told()
    (line,) = acting.warned
    assert "first" in line and "\udc80" not in line


def test_reports_and_lines_go_by_the_reporting_thread_in_order(acting: Acting) -> None:
    acting.actions.carry_out(fx.Report(JobReport(1)))
    acting.actions.carry_out(fx.Report(JobReport(2, "bad")))
    acting.actions.carry_out(fx.Remark("a remark"))
    assert not acting.reports
    acting.told()
    assert [(r.job_id, r.error) for r in acting.reports] == [(1, None), (2, "bad")]
    assert acting.warned == ["gpupool: a remark"]


def test_lines_are_printable_and_warnings_have_their_own_callback() -> None:
    said: list[str] = []
    plain = Callbacks(lambda r: None, lambda *a: None, lambda e: None, said.append)
    lines = UserLines(plain, lambda tell: tell())
    lines.say("a\udc80b")
    lines.warn("c")
    assert len(said) == 2 and "\udc80" not in said[0] and said[1] == "c"
