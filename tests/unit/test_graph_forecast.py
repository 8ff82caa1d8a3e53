"""A forecast counts what is still to come of a graph, and what it waits for."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Hashable

import pytest

from snakemake_executor_gpupool.errors import ProtocolError
from snakemake_executor_gpupool.frontends.server.forecast_fields import (
    forecast_of_plain,
    plain_forecast,
)
from snakemake_executor_gpupool.scheduling import forecast as module
from snakemake_executor_gpupool.scheduling.forecast import (
    Forecast,
    Need,
    Node,
    Wave,
    depth_of,
    forecast_of,
    kind_of,
    rows_after,
    wave_of_client,
)

Nodes = dict[Hashable, Node]


def test_jobs_of_a_kind_that_are_equally_far_are_a_wave() -> None:
    nodes: Nodes = {f"embed{n}": Node("embed", "esm2") for n in range(3)}
    nodes |= {f"predict{n}": Node("predict", "head", [f"embed{n}"]) for n in range(3)}
    nodes["rank"] = Node("rank", "head", [f"predict{n}" for n in range(3)])

    made, wave_of = forecast_of(nodes)

    assert made == Forecast(
        (
            Wave("embed@0", "embed", "esm2", 3),
            Wave("predict@1", "predict", "head", 3, (Need("embed@0", 1),)),
            Wave("rank@2", "rank", "head", 1, (Need("predict@1", 3),)),
        ),
        is_complete=True,
    )
    assert wave_of["rank"] == "rank@2"
    assert rows_after(made) == {"embed@0": 2, "predict@1": 1}


def test_jobs_in_flight_keep_their_wave_and_are_not_to_come() -> None:
    nodes: Nodes = {"a": Node("k", "t", wave="k@3"), "b": Node("k", "t", ["a", "finished"])}
    made, wave_of = forecast_of(nodes)
    assert made.waves == (Wave("k@4", "k", "t", 1, (Need("k@3", 1),)),)
    assert wave_of == {"b": "k@4"}


def test_jobs_that_are_not_served_are_looked_through() -> None:
    nodes: Nodes = {
        "a": Node("k", "t"),
        "cpu": Node("", after=["a"]),
        "b": Node("k2", "t", ["cpu"]),
        "first": Node(""),
        "c": Node("k3", "t", ["first"]),
    }
    made, _ = forecast_of(nodes)
    waves = {wave.name: wave for wave in made.waves}
    assert waves["k2@1"] == Wave("k2@1", "k2", "t", 1, (Need("k@0", 1),), waits_elsewhere=True)
    assert waves["k3@0"] == Wave("k3@0", "k3", "t", 1, (), waits_elsewhere=True)


def test_the_first_of_a_wave_waits_for_the_fewest() -> None:
    nodes: Nodes = {n: Node("k", "t") for n in range(4)}
    nodes |= {"x": Node("k2", "t", [0, 1, 2]), "y": Node("k2", "t", [3])}
    assert forecast_of(nodes)[0].waves[1].after == (Need("k@0", 1),)
    # One that waits for something else does not wait for these at all.
    nodes |= {"other": Node("k3", "t"), "z": Node("k2", "t", ["other"])}
    assert set(forecast_of(nodes)[0].waves[-1].after) == {Need("k@0", 0), Need("k3@0", 0)}


@pytest.mark.parametrize("seed", range(20))
def test_no_job_is_lost_and_waves_come_after_those_that_they_wait_for(seed: int) -> None:
    rng = random.Random(seed)
    nodes: Nodes = {}
    for number in range(rng.randint(1, 200)):
        kind = rng.choice(["", "a", "b", "c"])
        nodes[number] = Node(kind, "t", [rng.randint(0, number) for _ in range(3)][: number and 3])
        nodes[number] = Node(kind, "t", [n for n in nodes[number].after if n != number])
    keys = list(nodes)
    rng.shuffle(keys)
    made, wave_of = forecast_of({key: nodes[key] for key in keys})
    assert Counter(wave_of.values()) == {wave.name: wave.jobs for wave in made.waves}
    assert set(wave_of) == {key for key, node in nodes.items() if node.kind}
    seen: set[str] = set()
    for wave in made.waves:
        assert {need.wave for need in wave.after} <= seen
        seen.add(wave.name)
        assert all(need.jobs <= made.waves[0].jobs + 1000 for need in wave.after)
    # An independent count of what each job waits for.
    for key, wave_name in wave_of.items():
        depth = int(wave_name.rpartition("@")[2])
        assert depth == _served_before(nodes, key)


def _served_before(nodes: Nodes, key: Hashable) -> int:
    """The most served jobs that stand one after the other before a job."""
    depths: dict[Hashable, int] = {}
    for each, node in nodes.items():  # in an order in which they could run
        depths[each] = max((depths[n] + bool(nodes[n].kind) for n in node.after), default=0)
    return depths[key]


def test_of_a_graph_with_very_many_waves_the_nearest_are_foretold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAVES", 5)
    nodes: Nodes = {n: Node("k", "t", [n - 1] if n else []) for n in range(6)}
    made, wave_of = forecast_of(nodes)
    assert [wave.name for wave in made.waves] == [f"k@{depth}" for depth in range(5)]
    assert made.is_cut and not made.is_complete
    assert wave_of == {n: f"k@{n}" for n in range(5)}
    del nodes[0]
    made, _ = forecast_of(nodes)
    assert len(made.waves) == 5 and made.is_complete and not made.is_cut


def test_the_empty_forecast_is_false_and_one_without_jobs_to_come_is_not() -> None:
    assert not Forecast()
    assert Forecast(is_complete=True)


def chain(kind: str, length: int) -> Forecast:
    return forecast_of({n: Node(kind, "t", [n - 1] if n else []) for n in range(length)})[0]


def test_forecasts_of_several_clients_are_one_in_which_nothing_is_mixed_up() -> None:
    ours, theirs = chain("k", 2), chain("k", 3)
    both = Forecast.merged({"1": ours, "2": theirs})

    assert [wave.name for wave in both.waves] == ["k@0:1", "k@0:2", "k@1:1", "k@1:2", "k@2:2"]
    assert both.waves[2].after == (Need("k@0:1", 1),)
    assert [kind_of(wave.name) for wave in both.waves] == ["k"] * 5
    assert [depth_of(wave.name) for wave in both.waves] == [0, 0, 1, 1, 2]
    assert sum(wave.jobs for wave in both.waves) == 5
    assert not both.is_complete, "others may come"
    assert {wave.name for wave in Forecast.merged({"2": theirs}).waves} == {
        wave_of_client(wave.name, "2") for wave in theirs.waves
    }
    assert not Forecast.merged({})
    assert wave_of_client("", "1") == ""


def test_of_very_many_waves_of_several_clients_the_nearest_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {"1": chain("k", 5), "2": chain("k", 5)}
    monkeypatch.setattr(module, "MAX_WAVES", 6)
    both = Forecast.merged(parts)
    assert both.is_cut and [depth_of(wave.name) for wave in both.waves] == [0, 0, 1, 1, 2, 2]


def test_a_forecast_is_the_same_once_it_was_sent() -> None:
    nodes: Nodes = {0: Node("k", "t"), 1: Node(""), 2: Node("k2", "t", [0, 1])}
    made, _ = forecast_of(nodes)
    for sent in (made, Forecast(), Forecast((), is_cut=True)):
        assert forecast_of_plain(json.loads(json.dumps(plain_forecast(sent)))) == sent


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("name", "k"),
        ("name", "other@0"),
        ("name", "k@-1"),
        ("name", 7),
        ("tool", "t" * 5000),
        ("jobs", -1),
        ("jobs", True),
        ("after", ["k@0"]),
        ("after", {"k@0": "1"}),
        ("after", {"k": 1}),
        ("waits_elsewhere", 0),
        ("more", 1),
    ],
)
def test_what_is_no_forecast_is_refused(where: str, value: object) -> None:
    plain = plain_forecast(chain("k", 1))
    plain["waves"][0][where] = value
    with pytest.raises(ProtocolError):
        forecast_of_plain(plain)


def test_a_forecast_of_no_end_is_refused() -> None:
    plain = plain_forecast(chain("k", 1))
    plain["waves"] *= module.MAX_WAVES + 1
    for wrong in (plain, [], None, {"waves": []}):
        with pytest.raises(ProtocolError):
            forecast_of_plain(wrong)
