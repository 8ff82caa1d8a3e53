"""What a rule's resources say of devices: one grammar (D1)."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from snakemake.resources import Resource, Resources

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, gpus
from snakemake_executor_gpupool.frontends.snakemake.bundles import Bundle, joint_needs
from snakemake_executor_gpupool.frontends.snakemake.checks import rules_without_gpu
from snakemake_executor_gpupool.frontends.snakemake.needs import (
    GRAMMAR,
    NeedNotKnown,
    Needs,
    go_without_gpus,
    keep_words,
    needs_of,
)
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable

CARDS = [Device(f"cuda:{n}", "cuda", n, f"GPU-{n}", visible_id=str(n)) for n in range(4)]
GIB = 1024


def job(name: str = "r", tool: str | None = None, **said: Any) -> Any:
    """A job as Snakemake makes it: with resources that it has rounded, and the rule's own words."""
    resources = Resources.from_mapping(said)
    rule = SimpleNamespace(
        name=name, resources=resources, ruleinfo=SimpleNamespace(resources=((), said))
    )
    keep_words(SimpleNamespace(rules=[rule]))
    values = {key: value.evaluate(attempt=2).value for key, value in rule.resources.items()}
    found = {key: value for key, value in values.items() if value is not None}
    return SimpleNamespace(rule=rule, resources=found, params={}, wildcards_dict={"x": name})


@pytest.mark.parametrize(
    ("said", "spec", "vram_mib"),
    [
        ({}, None, None),
        ({"gpu": 0}, None, None),
        ({"gpu": 2}, gpus(2), None),
        ({"gpu": 2.0}, gpus(2), None),
        ({"gpu": "2"}, gpus(2), None),
        ({"gpu": ""}, None, None),
        ({"gpu": None, "device": None}, None, None),
        ({"gpu": lambda attempt: attempt}, gpus(2), None),
        ({"gpu": lambda: np.int64(3)}, gpus(3), None),
        ({"gpu": lambda: np.float64(1)}, gpus(1), None),
        ({"gpu": 10**12}, gpus(10**12), None),
        ({"gpu": 2, "device": "cpu"}, DeviceSpec("cpu"), None),
        ({"gpu": 2, "device": "cuda:1, 0"}, DeviceSpec("cuda", 2, ("cuda:0", "cuda:1")), None),
        ({"device": lambda attempt: f"cudax{attempt}"}, gpus(2), None),
        ({"vram_mb": 8000}, None, 8000),
        ({"vram_mb": 0}, None, None),
        ({"vram_mb": "8000"}, None, 8000),
        ({"vram_mb": "8GB"}, None, 7630),
        ({"vram_mb": "80 GiB"}, None, 80 * GIB),
        ({"vram_mb": "1.5GiB"}, None, 1536),
        ({"vram_mb": "'8GiB'"}, None, 8 * GIB),
        ({"vram_mb": lambda attempt: 1000.5 * attempt}, None, 2001),
        ({"vram_mb": lambda: 0.25}, None, 1),
        ({"vram_mb": lambda: "8GB"}, None, 7630),
    ],
)
def test_what_is_understood(said: dict[str, Any], spec: Any, vram_mib: int | None) -> None:
    assert needs_of(job(**said)) == Needs(spec, vram_mib)


@pytest.mark.parametrize(
    "said",
    [
        {"gpu": 0.5},
        {"gpu": 1.5},
        {"gpu": -1},
        {"gpu": True},
        {"gpu": False},
        {"gpu": "a100:1"},
        {"gpu": "-1"},
        {"gpu": "1e3"},
        {"gpu": "9" * 30},
        {"gpu": lambda: 0.5},
        {"gpu": lambda attempt: attempt / 4},
        {"gpu": lambda: math.inf},
        {"gpu": lambda: math.nan},
        {"gpu": lambda: [1]},
        {"gpu": lambda: np.True_},
        {"gpu": lambda: False},
        {"device": "0,1"},
        {"device": 0},
        {"device": True},
        {"device": "cuda:0,0"},
        {"device": lambda: 1},
        {"vram_mb": "8 apples"},
        {"vram_mb": -5},
        {"vram_mb": "-8GB"},
        {"vram_mb": True},
        {"vram_mb": lambda: math.inf},
        {"vram_mb": lambda: {"a": 1}},
        # The other one being right does not hide it.
        {"device": "cuda:0", "gpu": 0.5},
    ],
)
def test_what_is_not_fails_that_rule_with_the_grammar(said: dict[str, Any]) -> None:
    with pytest.raises(Unservable) as error:
        needs_of(job(**said))
    name = list(said)[-1]
    assert str(error.value).startswith(f"{name}=") and GRAMMAR in str(error.value)
    assert not isinstance(error.value, NeedNotKnown)


def test_what_cannot_be_known_yet_is_told_apart() -> None:
    unknown = job(gpu=1)
    unknown.resources["gpu"] = "<TBD>"
    with pytest.raises(NeedNotKnown, match="gpu cannot be evaluated"):
        needs_of(unknown)


def test_what_the_command_line_overrides_is_what_counts() -> None:
    overridden = job(gpu=0.5)
    resource = Resource.from_cli_expression("gpu", "2")
    overridden.rule.resources["gpu"], overridden.resources["gpu"] = resource, 2
    assert needs_of(overridden).gpus == 2


# -- jobs that a pipe or a service joins ---------------------------------------------------


def bundle(*jobs: Any) -> Bundle:
    return Bundle.of(jobs, [*CARDS, cpu_slot(0)])


def test_joined_jobs_hold_the_sum_and_each_sees_its_part() -> None:
    joined = bundle(job("a", gpu=1), job("b", device="cuda:1"), job("c"), job("d", gpu=2))
    assert joined.joint.spec == DeviceSpec("cuda", 4, ("cuda:0", "cuda:1", "cuda:2", "cuda:3"))
    parts = [[device.name for device in part] for part in joined.parts(CARDS)]
    assert parts == [["cuda:0"], ["cuda:1"], [], ["cuda:2", "cuda:3"]]


def test_joined_jobs_that_only_count_take_any() -> None:
    joined = bundle(job("a", gpu=1), job("b", device="cpu", gpu=3), job("c", gpu=1))
    assert joined.joint.spec == gpus(2)
    parts = [[device.name for device in part] for part in joined.parts(CARDS[2:])]
    assert parts == [["cuda:2"], [], ["cuda:3"]]


def test_joined_jobs_without_devices_hold_none() -> None:
    assert bundle(job("a"), job("b", gpu=0), job("c", device="cpu")).joint == Needs()


def test_memory_is_not_added_up_over_cards() -> None:
    needs = [("a", Needs(gpus(1), 30)), ("b", Needs(gpus(2), 50)), ("c", Needs(None, 900))]
    assert joint_needs(needs, CARDS).vram_mib == 50
    assert joint_needs([*needs, ("d", Needs(gpus(1)))], CARDS).vram_mib is None


def test_joined_jobs_cannot_have_one_card_twice() -> None:
    with pytest.raises(Unservable, match=r"rules a and b run at the same time.*cuda:1"):
        bundle(job("a", device="cuda:1"), job("b", device="cuda:0,1"))


def test_more_than_there_is_stays_more_than_there_is() -> None:
    spec = bundle(job("a", device="cuda:3"), job("b", gpu=9)).joint.spec
    assert spec is not None and spec.count == 10 and len(spec.names) == 4


def test_joined_jobs_are_on_one_machine() -> None:
    cards = [card.on(host) for host in ("n1", "n2") for card in CARDS]
    jobs = [job("a", device="n2/cuda:0"), job("b", gpu=1)]
    assert Bundle.of(jobs, cards).joint.spec == DeviceSpec(
        "cuda", 2, ("n2/cuda:0", "n2/cuda:1"), "n2"
    )
    with pytest.raises(Unservable, match=r"one machine.*n1 and n2"):
        Bundle.of([job("a", device="n1/cuda:0"), job("b", device="n2/cuda")], cards)


# -- what Snakemake and scripts see of it --------------------------------------------------


def test_snakemake_adds_up_what_the_rule_says_in_words() -> None:
    resources = job(vram_mb="8GB", gpu=0.5).resources
    assert resources["vram_mb"] + 1 == 7631 and resources["gpu"] + 1 == 1
    assert f"{resources['vram_mb']} {resources['gpu']}" == "8GB 0.5"
    plain = pickle.loads(pickle.dumps([resources["vram_mb"], resources["gpu"]]))
    assert plain == ["8GB", 0.5] and [type(value) for value in plain] == [str, float]


def test_a_workflow_may_go_on_without_the_gpus_that_it_asks_for() -> None:  # D12
    workflow = SimpleNamespace()

    def needs(**resources: Any) -> Needs:
        rule = SimpleNamespace(resources={}, workflow=workflow)
        return needs_of(SimpleNamespace(resources=resources, rule=rule))

    assert needs(gpu=2).gpus == 2
    go_without_gpus(workflow)
    assert needs(gpu=2, vram_mb=100) == Needs(None, 100) and needs(device="cuda:1") == Needs()
    assert needs(device="cpu:0").names == ("cpu:0",)
    with pytest.raises(Unservable, match="gpu='many'"):
        needs(gpu="many")


class CountingJob:
    """A job whose resources are counted when they are looked at."""

    is_local = False

    def __init__(self, rule: Any, resources: Callable[[], dict[str, object]]) -> None:
        self.rule, self._evaluate, self.looks = rule, resources, 0

    @property
    def resources(self) -> dict[str, object]:
        self.looks += 1
        return self._evaluate()


def unknown() -> dict[str, object]:
    raise FileNotFoundError("a file that a resource depends on")


def test_rules_that_ask_for_gpus_are_found_without_a_look_at_each_job() -> None:
    def jobs(
        name: str, value: object, *resources: Callable[[], dict[str, object]]
    ) -> list[CountingJob]:
        said = {} if value is None else {"gpu": Resource("gpu", value)}
        rule = SimpleNamespace(name=name, resources={"mem": Resource("mem", 1), **said})
        return [CountingJob(rule, each) for each in resources]

    def some() -> int:
        return 1

    one, none = (lambda: {"gpu": 1}), (lambda: {"gpu": 0})
    silent = jobs("silent", None, *[none] * 9)
    constant, zero = jobs("constant", 1, *[one] * 9), jobs("zero", 0, *[none] * 9)
    late, never = jobs("late", 1, unknown, unknown, one, one), jobs("never", 1, unknown, unknown)
    by_job = jobs("by_job", some, none, none, one, one)
    found = rules_without_gpu([*silent, *constant, *zero, *late, *never, *by_job])
    assert found == ". Rules that ask for one: by_job, constant, late"
    assert [job.looks for job in (*silent, *zero, *constant)] == [0] * 9 + ([1] + [0] * 8) * 2
    assert [job.looks for job in (*late, *by_job)] == [1, 1, 1, 0] * 2
    assert rules_without_gpu([*silent, *zero]) == ""
