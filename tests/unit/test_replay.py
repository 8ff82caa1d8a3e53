"""A recorded run is decided again, in another process, as it was (issue: purity, replay)."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import parse_device
from snakemake_executor_gpupool.errors import RecordingError
from snakemake_executor_gpupool.frontends.commandline.main import main
from snakemake_executor_gpupool.runtime.plain import Opaque, describe, from_plain, to_plain
from snakemake_executor_gpupool.runtime.recording import Recorder
from snakemake_executor_gpupool.runtime.replay import Recording
from snakemake_executor_gpupool.scheduling import effects as fx
from snakemake_executor_gpupool.scheduling import events as ev
from snakemake_executor_gpupool.scheduling import packed
from snakemake_executor_gpupool.scheduling.core import Core, Setup
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.testing.random_world import random_world
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import INFO, FakeItem, gpu
from snakemake_executor_gpupool.wire.described import ModelInfo, ToolInfo
from snakemake_executor_gpupool.wire.fields import Fields
from snakemake_executor_gpupool.wire.messages import ItemsRead
from snakemake_executor_gpupool.wire.requests import ToolRef

CUDA = parse_device("cuda")


def busy(world: World, chance: random.Random, models: int) -> None:
    """Jobs of several models with items that they share, leases, and kills from outside."""
    for job_id in range(40):
        count = chance.randint(1, 30)
        items = [FakeItem(f"i{chance.randint(0, 300)}", chance.random()) for _ in range(count)]
        model = f"m{job_id % models}"
        world.at(
            chance.uniform(0, 30),
            lambda n=job_id, i=items, m=model: world.submit(n, i, model=m, input_bytes=n * 5000),  # type: ignore[misc]
        )
    for job_id in range(50, 54):
        world.at(chance.uniform(0, 30), lambda n=job_id: world.lease(n, CUDA, 2.0))  # type: ignore[misc]
    for _ in range(6):
        world.at(chance.uniform(1, 40), lambda: world.kill_one(chance.choice))


def one_machine(seed: int) -> World:
    """Faults of every kind, on one machine, with evictions and devices that others hold."""
    world = World(
        gpus=3,
        packing=seed % 2 == 0,
        gpu_mib=80_000,
        strategy=OffloadStrategy.CPU,
        shares=True,
        info={"can_move": True},
        deadly={"i7"},
        bad={"i9"},
        huge={"i11"},
        failing_loads={"m3"},
        foreign={"cuda:1": 12.0},
        figures={"m0": Figures(load_s=1.0, s_per_cost=1.0)},
        write_s=0.1,
    )
    busy(world, random.Random(seed), models=4)
    world.at(55.0, lambda: world.take(ev.WindDownWanted()))
    world.at(60.0, lambda: world.take(ev.Cancelled("enough")))
    return world


def nodes(seed: int) -> World:
    """Nodes that come and go, whose names differ by no more than a number's zeros."""
    hosts = tuple(f"n{'0' * zeros}1" for zeros in range(6))
    world = World(
        gpus=2,
        cpus=0,
        hosts=hosts,
        file_workers=2,
        write_s=0.2,
        load_s=2.0,
        dispatch_s=0.4,
        budget_tokens=4,
        deadly={"i5"},
        ends_at_s={"n01": 40.0},
    )
    busy(world, random.Random(seed), models=2)
    world.at(5.0, lambda: world.lose("n1"))
    world.at(15.0, lambda: world.join("n1"))
    world.at(8.0, lambda: world.join("n01"))
    return world


def merged(seed: int) -> World:
    """Short requests through a chain of models."""
    world = World(gpus=4, short_tokens=64, dispatch_s=0.05, bad={"c3"}, changed={105})
    for number in range(12):
        follower = 100 + number
        world.declare(follower, [FakeItem(f"d{number}")], model="m1", tool="two")
        items = [FakeItem(f"c{number}"), FakeItem(f"c{number + 1}")]
        world.at(
            number * 0.3,
            lambda n=number, i=items, f=follower: world.submit(n, i, model="m0", follow=[f]),  # type: ignore[misc]
        )
        world.at(
            2.0 + number * 0.3,
            lambda n=number, f=follower: world.submit(f, [f"d{n}"], model="m1", tool="two"),  # type: ignore[misc]
        )
    return world


def dropped(seed: int) -> World:
    """Jobs that nobody wants any longer, and a tool that goes out of use in between."""
    world = World(gpus=2, budget_tokens=2, write_s=0.2)
    chance = random.Random(seed)
    for job_id in range(40):
        items = [FakeItem(f"i{chance.randrange(30)}") for _ in range(3)]
        start_s = chance.uniform(0.0, 20.0)
        world.at(start_s, lambda j=job_id, i=items: world.submit(j, i))  # type: ignore[misc]
        unwanted = ev.JobUnwanted(job_id, "its client has ended")
        if chance.random() < 0.3:
            world.at(start_s + 1.0, lambda event=unwanted: world.take(event))  # type: ignore[misc]
    for time_s in (8.0, 30.0):
        world.at(time_s, lambda: world.take(ev.ToolRetired(ToolRef("tool", "", "python"))))
    return world


WORLDS: dict[str, Callable[[int], World]] = {
    "one machine": one_machine,
    "nodes": nodes,
    "merged": merged,
    "dropped": dropped,
    "foreseen": lambda seed: random_world(3 * seed + 1),
}


def record(world: World, path: Path, act: Callable[[World], object] = World.run) -> Path:
    """Have something happen in a world, to its end, and put it on record."""
    recorder = Recorder(path, world.setup)
    world.on_decided = recorder.decided
    act(world)
    recorder.close()
    assert recorder.error is None
    return path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", WORLDS)
def test_a_run_with_faults_is_decided_again_as_it_was(name: str, seed: int, tmp_path: Path) -> None:
    steps = list(Recording(record(WORLDS[name](seed), tmp_path / "r.jsonl")).replay())
    assert len(steps) > 50
    assert [step.line for step in steps if not step.is_same] == []
    kinds = {effect["effect"] for step in steps for effect in step.replayed}
    assert {"StartWorker", "ReadJob", "WriteJob", "Report"} <= kinds


def test_a_large_job_is_decided_again_as_it_was(tmp_path: Path) -> None:
    """Its results are put into columns, where a recording has only their digests."""
    with mock.patch.multiple(packed, MAX_OPEN=5, PIECE_ITEMS=2):
        world = World(budget_tokens=3)
        world.at(0.1, lambda: world.submit(1, [f"i{n % 25}" for n in range(40)]))
        world.at(3.0, lambda: world.submit(2, ["i1", "other"]))
        world.at(1.0, world.kill_first)
        steps = list(Recording(record(world, tmp_path / "r.jsonl")).replay())
    assert sum(map(len, world.effects(fx.WriteJob)[-1].settled)) > 30
    assert [step.line for step in steps if not step.is_same] == []


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_so_does_another_process_whatever_its_hashes_and_addresses(
    hash_seed: str, tmp_path: Path
) -> None:
    code = "import sys; junk = [bytearray(n % 977) for n in range({n})]\n"
    code += "from snakemake_executor_gpupool.frontends.commandline.main import main\n"
    code += "del junk[::3]\nsys.exit(max(main(['replay', path]) for path in sys.argv[1:]))"
    paths = [record(make(7), tmp_path / f"{name}.jsonl") for name, make in WORLDS.items()]
    done = subprocess.run(
        [sys.executable, "-c", code.format(n=int(hash_seed) * 7), *paths],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("the same as recorded") == len(paths), done.stdout + done.stderr
    assert done.returncode == 0


def test_every_event_is_among_what_is_tried_or_can_be_read_back(tmp_path: Path) -> None:
    recorded = {
        step.event
        for name, make in WORLDS.items()
        for step in Recording(record(make(1), tmp_path / f"{name}.jsonl")).replay()
    }
    rare: list[ev.Event] = [
        ev.RoomWanted("cuda:0"),
        ev.DevicesForeseen((gpu(1), gpu(2).on("n1"))),
        ev.StoreTroubleReported("damaged", "x"),
        ev.FilesRenewed(ToolRef("tool", "", "python")),
        ev.RunLeft("run1"),
        ev.HandingOver(goes_on=True),
    ]
    for event in rare:
        assert from_plain(type(event), json.loads(json.dumps(to_plain(event)))) == event
    others = {
        "CallReady",
        "CallContinued",
        "ResultsRead",
        *(type(event).__name__ for event in rare),
    }
    assert recorded | others == {each.__name__ for each in typing.get_args(ev.Event)}


def call(world: World) -> None:
    """Call for two items' results, which are brought one by one, and read them."""
    world.declare(1, [FakeItem("a"), FakeItem("b")])
    items = ItemsRead(1, ModelInfo("m", "", "g", 0), ("a",), (1.0,), (1,), ("a",), (b"a",))
    more = dataclasses.replace(items, keys=("b",), names=("b",), payloads=(b"b",))
    info = ToolInfo.from_fields(Fields(INFO, "a tool"))
    first = dataclasses.replace(items, is_last=False)
    effects = world.take(ev.CallReady(world.requests[1], info, first, to_come=1))
    assert fx.WantItems(1) in effects
    world.take(ev.CallContinued(more))
    world._act()
    world.run()
    world.take(ev.ResultsRead(1))


def test_a_call_is_decided_again_as_it_was(tmp_path: Path) -> None:
    steps = list(Recording(record(World(), tmp_path / "r.jsonl", call)).replay())
    assert all(step.is_same for step in steps) and steps[-1].event == "ResultsRead"
    (report,) = [e for step in steps for e in step.replayed if e["effect"] == "Report"]
    results = [to_plain(b"result of a"), to_plain(b"result of b")]
    assert report["report"]["details"]["blobs"] == results


# -- what differs ------------------------------------------------------------------------------
def changed(path: Path, number: int, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change one line of a recording."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines[number])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def short(tmp_path: Path) -> Path:
    def act(world: World) -> None:
        world.submit(1, ["a", "b"])
        world.run()

    return record(World(gpus=1), tmp_path / "r.jsonl", act)


def test_the_first_difference_is_shown_with_its_event(
    short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_one(line: dict[str, Any]) -> None:
        assert line["effects"].pop(1)["effect"] == "StartWorker"

    assert main(["replay", str(short)]) == 0
    assert "the same as recorded" in capsys.readouterr().out
    changed(short, 1, lose_one)
    assert main(["replay", str(short)]) == 1
    told = capsys.readouterr().out
    assert "line 2: JobReady at 0.000000 s leads to something else" in told
    assert "recorded  nothing more" in told
    assert "now       StartWorker  worker_id=tool.files1" in told


def test_all_of_it_can_be_printed(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--print", str(short)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0.000000  JobReady  request=")
    assert any(line.startswith("    -> RunBatch  worker_id=tool.1") for line in lines)
    assert any("FrameReceived" in line and '"type": "done"' in line for line in lines)


def test_so_is_its_name(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "w/.snakemake/gpupool/20260101-000000-1"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "w")
    (run / "events.jsonl").touch()
    assert main(["replay", run.name]) == 2
    told = capsys.readouterr().err
    assert "has no recording.jsonl" in told and "GPUPOOL_RECORD=1" in told
    (run / "recording.jsonl").write_bytes(short.read_bytes())
    assert main(["replay", run.name]) == 0


def test_a_directory_of_a_run_is_as_good(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short.rename(short.with_name("recording.jsonl"))
    assert main(["replay", str(short.parent)]) == 0


def test_what_a_killed_run_left_is_replayed(
    short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = short.read_bytes()
    short.write_bytes(data[:-20])
    assert main(["replay", str(short)]) == 0
    told = capsys.readouterr().out
    assert "the last line is cut off" in told and "the same as recorded" in told


def damage(line: dict[str, Any]) -> None:
    line["fields"]["request"]["job_id"] = "one"


def add_field(line: dict[str, Any]) -> None:
    line["fields"]["surprise"] = 1


def unknown(line: dict[str, Any]) -> None:
    line["event"] = "os.system"


@pytest.mark.parametrize("change", [damage, add_field, unknown, dict.clear])
def test_a_damaged_line_is_named(
    short: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    changed(short, 1, change)
    assert main(["replay", str(short)]) == 2
    told = capsys.readouterr()
    assert f"{short}, line 2, is damaged" in told.err
    assert len(told.err.splitlines()) == 1 and "Traceback" not in told.err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b'{"event": "run_started"}\n', "is no recording"),
        (b"[1]\n", "is no recording"),
        (b"\x80\x04pickle\n", "line 1, is damaged"),
        (b'{"gpupool_recording": 99, "version": "7.1"}\n', "has format 99, of gpupool 7.1"),
        (b'{"gpupool_recording": 1, "version": "7.1"}\n', "line 1, is damaged"),
    ],
)
def test_what_is_no_recording_is_refused(
    content: bytes, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    assert main(["replay", str(path)]) == 2
    told = capsys.readouterr().err
    assert why in told and len(told.splitlines()) == 1


def test_a_file_that_is_not_there_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err


def test_another_version_is_mentioned(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(short, 0, lambda head: head.update(version="0.0.1"))
    assert main(["replay", str(short)]) == 0
    assert "recorded by gpupool 0.0.1" in capsys.readouterr().out


def test_a_bug_of_the_run_is_met_again(tmp_path: Path) -> None:
    setup = Setup(devices=())
    recorder = Recorder(tmp_path / "r.jsonl", setup)
    event = ev.WorkerEnded("x", "gone")
    refused = ev.DevicesClaimed("nobody")
    recorder.decided(event, 0.0, Core(setup).take(event, 0.0))
    with pytest.raises(KeyError) as caught:
        Core(setup).take(refused, 1.0)
    recorder.failed(refused, 1.0, caught.value)
    recorder.close()
    steps = list(Recording(recorder.path).replay())
    assert [step.is_same for step in steps] == [True, True]
    assert steps[1].replayed == [{"error": "KeyError('nobody')"}]


# -- the file ----------------------------------------------------------------------------------
def test_it_is_private_and_lines_are_there_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", Setup(devices=()))
    recorder.decided(ev.TimePassed(), 1.0, [])
    recorder.flush()
    assert len(recorder.path.read_text().splitlines()) == 2
    recorder.close()
    assert recorder.path.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    recorder = Recorder(Path("/dev/full"), Setup(devices=()))
    for _ in range(2):
        recorder.decided(ev.TimePassed(), 1.0, [])
        recorder.flush()
    recorder.close()
    assert isinstance(recorder.error, OSError)


@pytest.mark.parametrize(
    ("event", "effect"),
    [
        (ev.FrameReceived("w", {"x": object()}, []), fx.Remark("x")),
        (ev.TimePassed(), fx.Note("x", {"y": object()})),
        (ev.TimePassed(), fx.Note("x", {"y": {1: float}})),
    ],
)
def test_what_cannot_be_written_down_ends_the_recording_and_nothing_else(
    event: ev.Event, effect: fx.Effect, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", Setup(devices=()))
    recorder.decided(event, 1.0, [effect])
    recorder.decided(ev.TimePassed(), 2.0, [])
    recorder.close()
    assert len(recorder.path.read_text().splitlines()) == 1
    assert isinstance(recorder.error, TypeError)


def test_contents_are_not_on_record(tmp_path: Path) -> None:
    def act(world: World) -> None:
        world.submit(1, ["a secret sequence"])
        world.run()

    text = record(World(gpus=1), tmp_path / "r.jsonl", act).read_text()
    assert "result of a secret" not in text
    assert json.dumps(to_plain(b"result of a secret sequence")) in text
    assert to_plain(Opaque(3, "x")) == {"bytes": 3, "digest": "x"}


def test_long_lists_differ_by_their_digest() -> None:
    one = describe(fx.Unstage(tuple(map(str, range(100)))))
    two = describe(fx.Unstage(tuple(map(str, [*range(99), 0]))))
    assert one["paths"]["count"] == two["paths"]["count"] == 100
    assert one != two


def test_nothing_but_plain_values_is_made() -> None:
    for hint, value in ((int, "1"), (int, True), (bytes, ["p", 1, 2, 3]), (float, "x"), (str, 1)):
        with pytest.raises((ValueError, TypeError, KeyError)):
            from_plain(hint, value)
    with pytest.raises(RecordingError):
        Recording(Path("/proc/self/nothing"))
