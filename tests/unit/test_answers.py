"""Workers that answer nonsense: one error, a dead worker, nobody else harmed (W1, W5).

The real scheduler runs in simulated time; some of the frames that its workers send are
tampered with on the way. Whatever arrives, every job ends, and what was not believed has
no effect but the death of its sender.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.scheduling.models.dispatch import DispatchConfig
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import INFO
from snakemake_executor_gpupool.wire.frames import Decoder, Frame, SpoolFile, encode
from snakemake_executor_gpupool.wire.messages import MESSAGES
from tests.unit.fuzzing import cases

KINDS = sorted(MESSAGES)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from([1e308, 1e18, 1e-18, 5e-324, 1e9, 10**12, 10**400, float("inf"), True])
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", "\x1b[2J"])
    | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "keys", "kind"]), inner, max_size=3)
    ),
    max_leaves=4,
)
ERROR = {"kind": "tool", "type": "ValueError", "message": "x", "traceback": ""}
#: What a worker says only when it was asked to, complete and well-formed.
UNASKED = {
    "store_trouble": {"kind": "none that there is", "why": ""},
    "printed": {"doing": "run", "about": 7, "start": 0, "end": 1},
    "tool": {"info": INFO, "seconds": 0.1, "versions": {}},
    "tool_failed": {"error": ERROR},
    "items": {
        "keys": [],
        "costs": [],
        "tokens": [],
        "names": [],
        "kept": [],
        "last": True,
        "model": "m1",
        "model_label": "",
        "group": "g",
        "short_tokens": 128,
        "follow": [],
        "job": 1,
    },
    "checked": {"holds": True},
    "foreseen": {
        "keys": [],
        "costs": [],
        "tokens": [],
        "kept": 0,
        "count": 0,
        "whole": True,
        "batch_tokens": None,
        "model": "m1",
        "model_label": "",
        "group": "g",
        "short_tokens": 128,
        "job": 1,
    },
    "unforeseen": {"job": 1, "error": ERROR},
    "remark": {"job": 1, "text": "rule a: layer"},
    "read_failed": {"job": 1, "error": ERROR},
    "written": {"job": 1, "seconds": 0.1},
    "write_failed": {"job": 2, "error": ERROR},
    "published": {"job": 2, "seconds": 0.1},
    "unpublished": {"job": 2},
    "loaded": {
        "batch_tokens": 8,
        "quick_tokens": 0,
        "seconds": 0.1,
        "peak_mib": None,
        "versions": {},
    },
    "load_failed": {"error": ERROR},
    "done": {
        "batch": 1,
        "items": 0,
        "failed": [],
        "errors": [],
        "out_of_memory": [],
        "seconds": 0.1,
        "peak_mib": None,
    },
    "stage": {
        "batch": 1,
        "stage": 0,
        "last": True,
        "chains": [],
        "seconds": 0.1,
        "peak_mib": None,
    },
    "moved": {"away": True},
    "move_failed": {"error": ERROR},
}


def columns(keys: str) -> dict[str, Any]:
    """Items as a frame has them."""
    return {
        "keys": list(keys),
        "costs": [1.0 for _ in keys],
        "tokens": [1 for _ in keys],
        "names": list(keys),
    }


TAMPERINGS = st.one_of(
    st.tuples(st.just("lose")),
    st.tuples(st.just("repeat")),
    st.tuples(st.just("hold")),
    st.tuples(st.just("flip"), st.integers(0, 1 << 16)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 16)),
    st.tuples(st.just("set"), st.integers(0, 1 << 16), JSON),
    st.tuples(st.just("delete"), st.integers(0, 1 << 16)),
    st.tuples(st.just("blobs"), st.lists(st.sampled_from([b"", b"a", b"x"]), max_size=3)),
    st.tuples(st.just("file"), st.sampled_from(["/etc/passwd", "/spool/../x", "spool", ""])),
    st.tuples(st.just("share"), st.sampled_from(["x", "..", "\0", ""]), st.integers(0, 4)),
    st.tuples(st.just("before"), st.sampled_from(sorted(UNASKED))),
    st.tuples(st.just("after"), st.sampled_from(sorted(UNASKED))),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


class Hostile(World):
    """A world in which some frames are tampered with, by their number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.plan: dict[int, tuple[Any, ...]] = {}
        self.numbers = 0
        self.held: dict[str, list[Frame]] = {}
        #: Frames that were changed and believed all the same.
        self.believed = 0

    def sent(self, worker: str, frame: Frame) -> Iterator[Frame]:
        self.numbers += 1
        tampering = self.plan.get(self.numbers)
        if tampering is None:
            yield from self.tell(frame)
        else:
            yield from getattr(self, f"do_{tampering[0]}")(worker, frame, *tampering[1:])
        if tampering is None or tampering[0] != "hold":
            yield from self.held.pop(worker, [])

    def tell(self, *frames: Frame, changed: bool = False) -> Iterator[Frame]:
        for frame in frames:
            before = len(self.complaints)
            yield frame  # comes back here only if it was believed
            self.believed += changed and len(self.complaints) == before

    def through_the_wire(self, data: bytes) -> Iterator[Frame]:
        return self.tell(*Decoder().feed(data), changed=True)

    def do_lose(self, worker: str, frame: Frame) -> Iterator[Frame]:
        yield from ()

    def do_repeat(self, worker: str, frame: Frame) -> Iterator[Frame]:
        yield from self.tell(frame)
        yield from self.tell(frame, changed=True)

    def do_hold(self, worker: str, frame: Frame) -> Iterator[Frame]:
        self.held.setdefault(worker, []).append(frame)
        yield from ()

    def do_flip(self, worker: str, frame: Frame, where: int) -> Iterator[Frame]:
        data = bytearray(b"".join(encode(*frame)))
        data[where // 8 % len(data)] ^= 1 << where % 8
        # A length that grew leaves the frame incomplete: what comes next completes it.
        yield from self.through_the_wire(bytes(data) + b"".join(encode(*frame)))

    def do_cut(self, worker: str, frame: Frame, where: int) -> Iterator[Frame]:
        data = b"".join(encode(*frame))
        yield from self.through_the_wire(data[: where % len(data)] + data)

    def do_set(self, worker: str, frame: Frame, where: int, value: Any) -> Iterator[Frame]:
        meta = copy.deepcopy(frame.meta)
        found = list(places(meta))
        container, key = found[where % len(found)]
        container[key] = json.loads(json.dumps(value))
        yield from self.tell(Frame(meta, frame.blobs), changed=meta != frame.meta)

    def do_delete(self, worker: str, frame: Frame, where: int) -> Iterator[Frame]:
        meta = copy.deepcopy(frame.meta)
        found = list(places(meta))
        container, key = found[where % len(found)]
        del container[key]
        yield from self.tell(Frame(meta, frame.blobs), changed=True)

    def do_blobs(self, worker: str, frame: Frame, blobs: list[bytes]) -> Iterator[Frame]:
        yield from self.tell(Frame(frame.meta, list(blobs)), changed=blobs != frame.blobs)

    def do_file(self, worker: str, frame: Frame, path: str) -> Iterator[Frame]:
        files: list[Any] = [SpoolFile(path, 1) for _ in frame.blobs]
        yield from self.tell(Frame(frame.meta, files), changed=bool(files))

    def do_share(self, worker: str, frame: Frame, name: str, sharers: int) -> Iterator[Frame]:
        path = f"/spool/{name}"
        files: list[Any] = [SpoolFile(path, 1, n, sharers) for n in range(len(frame.blobs))]
        yield from self.tell(Frame(frame.meta, files), changed=bool(files))

    def do_before(self, worker: str, frame: Frame, kind: str) -> Iterator[Frame]:
        yield from self.tell(Frame({"type": kind, **UNASKED[kind]}, []), changed=True)
        yield from self.tell(frame)

    def do_after(self, worker: str, frame: Frame, kind: str) -> Iterator[Frame]:
        yield from self.tell(frame)
        yield from self.tell(Frame({"type": kind, **UNASKED[kind]}, []), changed=True)


#: Numbers of each kind of frame, at the edge of what is believed and just beyond.
EXTREMES = [
    *(("seconds", value, True) for value in (0, 0.0, 1e9)),
    *(("seconds", value, False) for value in (-1, 1e10, 1e308, math.inf, math.nan, 10**400, True)),
    *(("peak_mib", value, True) for value in (None, 0, 10**9)),
    *(("peak_mib", value, False) for value in (-1, 1e308, 10**400, math.nan, False)),
    *(("batch_tokens", value, True) for value in (1, 10**12)),
    *(("batch_tokens", value, False) for value in (0, -1, 1.5, 2.0, 10**13, True, math.inf)),
    *(("costs", value, True) for value in (0, 1e-18, 1, 1e18)),
    *(("costs", value, False) for value in (-1, 5e-324, 1e19, 1e308, math.inf, math.nan, 10**400)),
    *(("costs", value, False) for value in (True, "1", None, [1])),
    *(("tokens", value, True) for value in (0, 10**12)),
    *(("tokens", value, False) for value in (-1, 2.0, 10**13, True, None)),
    *(("batch_limit_s", value, True) for value in (1e-3, 10**9)),
    *(("batch_limit_s", value, False) for value in (0, -1, 1e10, math.inf, math.nan)),
    *(("gpus_per_instance", value, False) for value in (0, 4097, 1.0, True)),
    *(("vram_mib", value, True) for value in (None, 0, 10**9)),
    *(("vram_mib", value, False) for value in (-1, 1e308, math.nan)),
    *(("short_tokens", value, True) for value in (0, 10**12)),
    *(("short_tokens", value, False) for value in (-1, 10**13, 0.5)),
]


@pytest.mark.parametrize(("name", "value", "is_believed"), EXTREMES)
def test_numbers_are_bounded_where_they_enter(
    name: str, value: Any, is_believed: bool
) -> None:  # W5
    """What is believed, in every frame that has it, keeps the run going; else its sender ends."""

    class Telling(World):
        def sent(self, worker: str, frame: Frame) -> Iterator[Frame]:
            meta = copy.deepcopy(frame.meta)
            for container, key in list(places(meta)):
                if key == name and isinstance(container[key], list):
                    container[key] = [value] * len(container[key])
                elif key == name:
                    container[key] = value
            yield Frame(meta, frame.blobs)

    limits: dict[str, Any] = {"info": {"batch_limit_s": 20.0}}
    limits["config"] = DispatchConfig(load_limit_s=20.0)
    world = Telling(gpus=1, budget_tokens=4, **limits)
    for job_id in range(6):
        world.submit(job_id, [f"{job_id}{n}" for n in range(4)], model=f"m{job_id % 2 + 1}")
    world.run(until_s=50_000)
    assert sorted(world.reports) == list(range(6)), "every job ends"
    assert bool(world.complaints) != is_believed
    for complaint in world.complaints:
        assert f"'{name}'" in complaint


JOBS = {1: ("m1", ["a", "b", "c"]), 2: ("m2", ["d"]), 3: ("m1", ["c", "e"]), 4: ("m3", [])}


def live_through(
    plan: dict[int, tuple[Any, ...]], gpus: int, strategy: OffloadStrategy, shares: bool
) -> Hostile:
    """Run four jobs of three models to the end, with a pause in which workers are evicted."""
    world = Hostile(
        gpus=gpus,
        budget_tokens=2,
        strategy=strategy,
        info={"can_move": True, "batch_limit_s": 20.0},
        config=DispatchConfig(load_limit_s=20.0),
        shares=shares,
    )
    world.plan = plan
    for job_id, (model, items) in JOBS.items():
        world.at(6.0 * (job_id > 2), lambda j=job_id, m=model, i=items: world.submit(j, i, model=m))
    world.run(until_s=50_000)
    assert sorted(world.reports) == sorted(JOBS), "every job ends"
    assert world.scheduler.is_quiet
    return world


STRATEGIES = st.sampled_from(list(OffloadStrategy))


@cases(by_default=150)
@given(st.integers(1, 30), TAMPERINGS, st.integers(1, 2), STRATEGIES, st.booleans())
def test_one_bad_frame_harms_nobody(
    number: int, tampering: tuple[Any, ...], gpus: int, strategy: OffloadStrategy, shares: bool
) -> None:  # W1 W5
    world = live_through({number: tampering}, gpus, strategy, shares)
    assert len(world.complaints) <= 1
    if world.believed:  # a lie in the right form at the right time
        return
    assert world.reports == dict.fromkeys(JOBS)
    for job_id, (_, items) in JOBS.items():
        assert world.results[job_id] == [f"result of {item}" for item in items]


@cases(by_default=75)
@given(
    st.dictionaries(st.integers(1, 60), TAMPERINGS, max_size=12),
    st.integers(1, 2),
    STRATEGIES,
    st.booleans(),
)
def test_many_bad_frames_never_hang_or_break_a_run(
    plan: dict[int, tuple[Any, ...]], gpus: int, strategy: OffloadStrategy, shares: bool
) -> None:  # W5
    live_through(plan, gpus, strategy, shares)


@cases(by_default=150)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["job", "error", "info"]), JSON))
def test_any_meta_is_believed_or_refused(kind: str, fields: dict[str, Any]) -> None:  # W5
    world = World()
    world.submit(1, ["a"])
    meta = {**UNASKED[kind], **fields, "type": kind}
    try:
        world.deliverer.take("tool.files1", Frame(meta, []), 0.0)
    except ProtocolError as error:
        assert 0 < len(str(error)) < 1000


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (Frame({"type": "dance"}, []), "no 'dance' frame"),
        (Frame({}, []), "no '' frame"),
        (Frame({"type": "written", "job": "1", "seconds": 0}, []), "'job' of a 'written'"),
        (Frame({"type": "written", "job": 1}, []), "'missing'"),
        (Frame({"type": "written", "job": 77, "seconds": 0.0}, []), "nothing asked"),
        (Frame({"type": "written", "job": 1, "seconds": 0.0}, []), "nothing asked"),
        (Frame({"type": "tool", **UNASKED["tool"]}, []), "nothing asked"),
        (Frame({"type": "items", **UNASKED["items"]}, [b""]), "1 blobs instead of 0"),
    ],
)
def test_what_is_said_of_a_bad_frame(frame: Frame, said: str) -> None:  # W5
    world = World(read_s=5.0)
    world.submit(1, ["a"])
    world.run(until_s=1.0)  # its file process is ready, and reads
    with pytest.raises(ProtocolError, match=said):
        world.deliverer.take("tool.files1", frame, 1.0)


def test_what_is_reported_can_be_written_anywhere() -> None:  # W5
    world = World(read_s=5.0)
    world.submit(1, ["a"])
    world.run(until_s=1.0)
    error = {**ERROR, "message": "\ud800 in line 3", "traceback": "\udcff"}
    frame = Frame({"type": "read_failed", "job": 1, "error": error}, [])
    world.deliverer.take("tool.files1", frame, 1.0)
    world._act()
    assert "ValueError: \\ud800 in line 3\n\\udcff" in (world.reports[1] or "")
    assert (world.reports[1] or "").encode()


def test_nobody_names_a_file_outside_the_spool() -> None:  # W1
    world = World(read_s=5.0)
    world.submit(1, ["a"])
    world.run(until_s=1.0)
    meta = {"type": "items", **UNASKED["items"], **columns("k")}
    odd = (
        "/spool/..",
        "/spool/.",
        "/spool/",
        "/spool/a\0b",
        "/spool/\ud800",
        "/spool/" + "x" * 999,
    )
    for path in ("/etc/passwd", "/spool/../etc/passwd", "/spool/sub/x", "x", *odd):
        with pytest.raises(ProtocolError, match="outside the spool"):
            world.deliverer.take("tool.files1", Frame(meta, [SpoolFile(path, 1)]), 1.0)
    world.deliverer.take("tool.files1", Frame(meta, [SpoolFile("/spool/x", 1)]), 1.0)


@pytest.mark.parametrize(
    "files",
    [
        [SpoolFile("/spool/x", 1), SpoolFile("/spool/x", 1)],
        [SpoolFile("/spool/x", 1, 0, 3), SpoolFile("/spool/x", 1, 64, 3)],
        [SpoolFile("/spool/x", 1, 0, 2), SpoolFile("/spool/y", 1, 64, 2)],
        [SpoolFile("/spool/x", 1, 0, 2), SpoolFile("/spool/x", 1, 64, 1)],
        [SpoolFile("/spool/x", 1, 0, 2), b"y"],
    ],
)
def test_blobs_that_share_a_file_all_come_in_one_frame(files: list[Any]) -> None:  # W1
    world = World(read_s=5.0)
    world.submit(1, ["a"])
    world.run(until_s=1.0)
    meta = {"type": "items", **UNASKED["items"], **columns("ab")}
    with pytest.raises(ProtocolError, match="said to be"):
        world.deliverer.take("tool.files1", Frame(meta, files), 1.0)
    both: list[Any] = [SpoolFile("/spool/x", 1, 0, 2), SpoolFile("/spool/x", 1, 64, 2)]
    world.deliverer.take("tool.files1", Frame(meta, both), 1.0)
