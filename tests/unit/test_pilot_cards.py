"""Which cards pilots ask Slurm for, and which pilot is given back for another card (K2, D2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("dask_jobqueue", reason="the extra [cluster] is not installed")

from distributed.deploy.adaptive import Adaptive

from snakemake_executor_gpupool.devices.card_wish import ANY_CARD, CardWish
from snakemake_executor_gpupool.devices.demand import Demand
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.hosts.cluster import pilot_cards
from snakemake_executor_gpupool.hosts.cluster.options import ClusterOptions
from snakemake_executor_gpupool.hosts.cluster.pilot_cards import (
    PilotCards,
    cards_of_slurm,
    type_of,
)
from snakemake_executor_gpupool.hosts.cluster.pilots import IDLE_TIMES, PilotAdaptive, Pilots
from tests.unit.test_pilots import script

A100, H100 = CardWish(("a100",)), CardWish(("h100",))
SITE = ["a100", "v100", "rtx3090"]


@pytest.mark.parametrize(
    ("wish", "types", "expected"),
    [
        (A100, SITE, "a100"),
        (CardWish(("rtx 3090",)), SITE, "rtx3090"),
        (CardWish(("rtx 3090",)), ["3090"], "3090"),
        (CardWish(("h100", "v100", "a100")), SITE, "v100"),
        (CardWish(("a100 80gb",)), ["a100", "a100_80gb"], "a100_80gb"),
        (CardWish(("a100 80gb",)), ["a100"], "a100"),
        (CardWish(("a100",)), ["tesla_a100", "a10"], "tesla_a100"),
        (CardWish(("a10",)), ["a100"], None),
        (H100, SITE, None),
        (H100, [*SITE, ""], ""),
        (H100, [], ""),
        (ANY_CARD, SITE, ""),
        (CardWish((), ("amd",)), ["amd_mi210", "nvidia_a100"], "amd_mi210"),
        (CardWish((), ("amd",)), ["nvidia_a100"], None),
        (CardWish(("a100",), ("nvidia",)), SITE, "a100"),
    ],
)
def test_a_site_s_words_for_cards_are_found(
    wish: CardWish, types: list[str], expected: str | None
) -> None:
    assert type_of(wish, types) == expected


@pytest.fixture
def sinfo(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The calls of a ``sinfo`` that knows of two partitions."""
    calls: list[list[str]] = []

    def run(words: list[str], **options: Any) -> Any:
        calls.append(words)
        all_of = {"main": "main* gpu:a100:4(S:0-1)\nmain* (null)\n", "old": "old gpu:v100:2\n"}
        of = [words[-1]] if "--partition" in words else list(all_of)
        return SimpleNamespace(stdout="".join(all_of[name] for name in of))

    monkeypatch.setattr(pilot_cards.subprocess, "run", run)
    return calls


def test_a_card_that_no_node_has_is_refused_with_what_there_is(sinfo: list[list[str]]) -> None:
    wishes = {ANY_CARD: "fold", A100: "embed"}
    cards = cards_of_slurm(wishes, None, ())
    assert cards.kinds == ("", "a100")
    assert (cards.type_for(A100), cards.type_for(ANY_CARD)) == ("a100", "")
    with pytest.raises(ConfigError) as caught:
        cards_of_slurm(wishes, "old", ())
    said = str(caught.value)
    for part in (
        "rule embed asks",
        "partition old has: a100. There are v100",
        "embed:gpu_model=ANY",
    ):
        assert part in said
    assert cards_of_slurm({CardWish(("v100",)): "x"}, "old", ()).kinds == ("v100",)
    with pytest.raises(ConfigError, match="the default partition has: v100"):
        cards_of_slurm({CardWish(("v100",)): "x"}, None, ())


def test_who_chooses_cards_by_options_is_not_asked_about_them(sinfo: list[list[str]]) -> None:
    for option in ("--gres=gpu:v100:2", "--gpus-per-node=v100:2", "-G 2", "-G2"):
        assert cards_of_slurm({H100: "x"}, None, (option,)).kinds == ("",)
    assert cards_of_slurm({ANY_CARD: "x"}, None, ()).kinds == ("",)
    assert not sinfo
    how = ("--gres-flags=enforce-binding",)  # says nothing of the card
    assert cards_of_slurm({CardWish(("v100",)): "x"}, "old", how).kinds == ("v100",)


def test_where_slurm_does_not_say_what_there_is_any_card_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*words: Any, **options: Any) -> Any:
        raise FileNotFoundError("sinfo")

    monkeypatch.setattr(pilot_cards.subprocess, "run", run)
    assert cards_of_slurm({H100: "x"}, None, ()).kinds == ("",)


def test_a_pilot_asks_for_its_card(tmp_path: Path) -> None:
    written = script("slurm", tmp_path, "--qos=long", card="a100")
    assert "#SBATCH --gres=gpu:a100:4" in written and "#SBATCH --qos=long" in written
    assert "#SBATCH --gres=gpu:4" not in written


class Some(Pilots):
    """Pilots of two types, on nodes with two cards each, as if they had been submitted."""

    def __init__(self, pilots: dict[str, str], most: int = 4) -> None:
        self._options = ClusterOptions("slurm", 0, most, gpus_per_node=2, cores_per_node=4)
        self._cards = PilotCards({A100: "a100", H100: "h100"})
        self._commands = 0
        self._kinds = dict(pilots)
        self._names = {f"n{number}": name for number, name in enumerate(pilots)}
        self.cluster = SimpleNamespace(plan=set(pilots), requested=set(pilots), observed=set())
        self.cluster.observed = set(pilots)


def test_each_type_is_asked_for_as_much_as_it_is_wanted() -> None:
    some = Some({"p0": "a100"})
    some._demand = Demand(0, frozenset({"n0"}), ((A100, 1), (H100, 3)), ("n0", "n0"))
    assert some._targets() == {"a100": 2, "h100": 2} and some.wanted == 4
    assert some._kind_of_next() == "h100"
    some._kinds |= {"p1": "h100", "p2": "h100"}
    some.cluster.plan |= {"p1", "p2"}
    assert some._kind_of_next() == "a100"
    some._demand, some._commands = Demand(), 9
    assert some.wanted == 3, "commands need no card"
    some = Some({"p0": "a100"})
    some._demand, some._commands = Demand(0, frozenset(), ((A100, 1), (H100, 3)), ()), 9
    assert some.wanted == 3, "and run on pilots of any"
    some._demand, some._commands = Demand(0, frozenset({"n0"}), (), ()), 0
    assert some._targets() == {"a100": 1, "h100": 0}, "it computes"


def test_a_pilot_in_the_way_of_another_card_is_given_back() -> None:
    some = Some({"p0": "a100", "p1": "h100"}, most=2)
    some._demand = Demand(0, frozenset({"n1"}), ((H100, 8),), ())
    assert some.in_the_way() == ["p0"] and some.idle(1) == ["p0"]
    some._demand = Demand(0, frozenset({"n0", "n1"}), ((H100, 8),), ())
    assert some.in_the_way() == [], "it computes"
    some._demand = Demand(0, frozenset({"n1"}), ((H100, 2),), ())
    assert some.in_the_way() == [], "nothing else is missing"
    some._demand = Demand(0, frozenset({"n1"}), ((H100, 8),), ())
    some._options = ClusterOptions("slurm", 0, 3, gpus_per_node=2)
    assert some.in_the_way() == [], "there is room for another one"
    some = Some({"p0": "a100", "p1": "a100", "p2": "h100"}, most=3)
    some._demand = Demand(0, frozenset({"n0", "n2"}), ((H100, 8),), ())
    assert some.in_the_way() == ["p1"], "the other one computes"
    some = Some({"p0": "a100", "p1": "h100"}, most=2)
    some._demand, some._commands = Demand(0, frozenset({"n1"}), ((H100, 8),), ()), 1
    assert some.in_the_way() == [] == some.idle(1), "commands may run anywhere"
    some = Some({"p0": "h100", "p1": "a100"})
    some._demand = Demand(0, frozenset(), ((H100, 2),), ())
    assert some.idle(1) == ["p1"], "the other one's card is wanted"


def test_it_is_given_back_once_it_has_been_so_for_a_while() -> None:
    some = Some({"p0": "a100", "p1": "h100"}, most=2)
    some._demand = Demand(0, frozenset({"n1"}), ((H100, 8),), ())

    class Adapting(PilotAdaptive):
        def __init__(self) -> None:
            cluster: Any = some.cluster
            super().__init__(cluster, pilots=some, minimum=0, maximum=2, wait_count=IDLE_TIMES)

    assert issubclass(PilotAdaptive, Adaptive)
    some.cluster.loop = SimpleNamespace(add_callback=lambda act: None)
    adapting = Adapting()

    def turns(count: int) -> list[dict[str, Any]]:
        return [asyncio.run(adapting.recommendations(2)) for _ in range(count)]

    assert turns(IDLE_TIMES - 1) == [{"status": "same"}] * (IDLE_TIMES - 1)
    assert turns(1) == [{"status": "down", "workers": ["p0"]}]
    some._demand = Demand()
    assert turns(1) == [{"status": "same"}] and not adapting._times
