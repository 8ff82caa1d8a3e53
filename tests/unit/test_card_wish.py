"""Which model of card a request wants (K2)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator, DeviceRequest
from snakemake_executor_gpupool.devices.card_wish import (
    CardWish,
    is_model,
    maker_in,
    parse_makers,
    parse_models,
)
from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, gpus, parse_device
from snakemake_executor_gpupool.devices.kinds import maker_of
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.errors import DeviceStringError, ImpossibleRequest
from snakemake_executor_gpupool.frontends.snakemake.bundles import Bundle
from snakemake_executor_gpupool.frontends.snakemake.checks import device_problem
from snakemake_executor_gpupool.frontends.snakemake.needs import Needs, go_without_gpus, needs_of
from snakemake_executor_gpupool.frontends.snakemake.software import Unservable
from snakemake_executor_gpupool.scheduling.device_requests import DeviceRequests
from snakemake_executor_gpupool.wire.described import ToolInfo
from snakemake_executor_gpupool.wire.requests import Request, ToolRef
from tests.unit.allocator_driver import Driver
from tests.unit.test_needs import job

#: Names as NVML, or the files that ROCm reads, give them.
A100 = "NVIDIA A100-SXM4-80GB"
SLICE = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"


@pytest.mark.parametrize(
    ("name", "ours", "others"),
    [
        (A100,
         "a100; A100; NVIDIA A100-SXM4-80GB; nvidia_a100; a100_80gb; A100 80G; tesla_a100",
         "a10; a100x; 100; a1000; a100_40gb; amd a100; h100; sxm; geforce; a100 mig; 1g.5gb"),
        ("NVIDIA A10", "a10; nvidia a10", "a100; a1; a10g"),
        ("NVIDIA H100 80GB HBM3", "h100; H100_80GB; h100 hbm3", "h200; gh100"),
        ("NVIDIA GH200 480GB", "gh200", "h200; h100"),
        ("Tesla V100-SXM2-16GB", "v100; tesla_v100; v100_16gb", "v100s; v100_32gb"),
        ("NVIDIA L40S", "l40s", "l40; l4"),
        ("NVIDIA GeForce RTX 4090",
         "rtx 4090; rtx4090; 4090; geforce_rtx_4090; rtx; RTX-4090",
         "rtx 4090 d; rtx 4080; 409; rtx 40"),
        ("NVIDIA GeForce RTX 4090 D", "rtx 4090 d; 4090d", "rtx 4090; 4090"),
        ("NVIDIA GeForce RTX 2080 Ti", "2080ti; rtx_2080_ti; rtx2080ti", "rtx2080; 2080"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "4070 ti super", "4070 ti; 4070 super; 4070"),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", "rtx 3080 laptop", "rtx 3080"),
        ("Quadro RTX 6000", "rtx6000; quadro rtx 6000", "a6000; rtx pro 6000"),
        ("NVIDIA RTX A6000", "a6000; rtx_a6000", "rtx 6000; 6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx 6000 ada; rtx6000ada", "rtx6000; quadro rtx 6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx pro 6000", "rtx 6000; rtx6000"),
        (SLICE, "1g.5gb; a100_1g.5gb; a100 mig", "a100; 2g.5gb; 1g.10gb; a100_40gb"),
        ("AMD Instinct MI250X / MI250", "mi250x; mi250; amd mi250; mi 250", "mi25; mi210"),
        ("AMD Instinct MI300X", "mi300x; instinct mi300x", "mi300; mi300a; nvidia mi300x"),
        ("AMD Radeon PRO W7900", "w7900; radeon w7900", "w7800"),
        ("AMD Radeon RX 7900 XTX", "7900 xtx; rx7900xtx", "rx 7900; 7900 xt"),
        ("simulated A10", "a10", "a100"),
    ],
)  # fmt: skip
def test_a_card_is_named_by_whole_words_of_its_name(
    name: str, ours: str, others: str
) -> None:  # K2
    maker = maker_in(name) or "nvidia"

    def is_one(text: str) -> bool:
        return any(is_model(model, name, None, maker) for model in parse_models(text))

    assert [text for text in ours.split("; ") if not is_one(text)] == []
    assert [text for text in others.split("; ") if is_one(text)] == []
    alternatives = f"{others}; {ours}".replace(";", ",")
    assert is_one(alternatives)
    assert not is_one(others.replace(";", "|"))


def test_a_size_that_the_name_does_not_hold_is_the_memorys() -> None:
    assert is_model("h100 80gb", "NVIDIA H100 PCIe", 81_559)
    assert not is_model("h100 80gb", "NVIDIA H100 NVL", 95_830)
    assert is_model("rtx 3090 24gb", "NVIDIA GeForce RTX 3090", 24_576)
    assert not is_model("rtx 3090 24gb", "NVIDIA GeForce RTX 3090", None)


def test_manufacturers() -> None:
    assert parse_makers("NVIDIA Corporation") == ("nvidia",)
    assert parse_makers("Advanced Micro Devices, Inc.") == ("amd",)
    assert parse_makers("amd|Nvidia") == ("amd", "nvidia")
    for text in ("nvidea", ",", "nvidia a100"):
        with pytest.raises(DeviceStringError, match="no manufacturer"):
            parse_makers(text)
    for text in (",", " - ", "a100,--"):
        with pytest.raises(DeviceStringError, match="no model"):
            parse_models(text)
    cards = simulated_devices({"GPUPOOL_SIMULATE": "1:AMD Instinct MI210,1:A100,1"})
    assert list(map(maker_of, cards)) == ["amd", "nvidia", "nvidia"]


# --- what a rule says


H100, RTX = CardWish(("h100",)), CardWish(("4090",))


@pytest.mark.parametrize(
    ("said", "needs"),
    [
        ({"gpu": 2, "gpu_model": "H100"}, Needs(gpus(2, H100), None, H100)),
        ({"gpu_model": "H100 "}, Needs(gpus(1, H100), None, H100, False)),
        ({"gpu_model": 4090}, Needs(gpus(1, RTX), None, RTX, False)),
        ({"gpu_manufacturer": "NVIDIA"}, Needs(None, None, CardWish((), ("nvidia",)))),
        ({"gpu": 0, "gpu_model": "h100"}, Needs()),
        ({"gpu": "", "gpu_model": "any"}, Needs()),
        ({"gpu": 1, "gpu_model": "any"}, Needs(gpus(1))),
        ({"device": "cpu", "gpu_model": "h100"}, Needs(DeviceSpec("cpu"))),
        ({"device": "cuda:1", "gpu_model": "h100"},
         Needs(replace(parse_device("cuda:1"), card=H100), None, H100)),
    ],
)  # fmt: skip
def test_what_a_rule_says(said: dict[str, object], needs: Needs) -> None:  # K2
    assert needs_of(job(**said)) == needs


def test_what_is_malformed_is_refused_and_shows_the_grammar() -> None:
    for said in ({"gpu_model": "--"}, {"gpu_manufacturer": "nvidea"}):
        with pytest.raises(Unservable, match=r'not understood.*gpu_model="a100,h100"'):
            needs_of(job(gpu=1, **said))


def test_where_rules_go_without_gpus_the_card_does_not_count_either() -> None:
    wants = job(gpu_model="h100")
    wants.rule.workflow = SimpleNamespace()
    go_without_gpus(wants.rule.workflow)
    assert needs_of(wants) == Needs()


# --- which card it gets

UNLIKE = simulated_devices({"GPUPOOL_SIMULATE": "1x24GiB:RTX 4090,2x80GiB:A100,1x40GiB:A100"})


def test_a_request_gets_a_card_of_its_model_or_waits_for_one() -> None:  # K2
    pool = Driver(devices=list(UNLIKE))

    def ask(name: str, spec: DeviceSpec) -> list[str]:
        return pool.short(pool.allocator.request(DeviceRequest(name, spec, "lease"), pool.tick()))

    a100 = CardWish(parse_models("a100"))
    assert ask("a", gpus(2, CardWish(parse_models("a100_80gb")))) == ["a on cuda:1,cuda:2"]
    assert ask("b", gpus(1, a100)) == ["b on cuda:3"]
    assert ask("c", gpus(1, a100)) == [], "a card of another model is free"
    assert ask("d", gpus(1)) == ["d on cuda:0"]
    assert pool.gone("b") == ["c on cuda:3"]
    (never,) = ask("e", gpus(4, a100))
    assert "simulated RTX 4090 (cuda:0), simulated A100 (cuda:1, cuda:2, cuda:3)" in never
    assert len(pool.allocator.like(gpus(1, a100))) == 3
    (never,) = pool.ask("f", "cudax2", "lease", vram_mib=100_000)
    assert "at most 81920 MiB" in never
    (never,) = pool.ask("g", "cudax3", "lease", vram_mib=60_000)
    assert never.startswith(
        "g never: g asks for cudax3 with 60000 MiB each, but of these only cuda:1"
    )


def test_memory_alone_chooses_the_smallest_card_that_is_large_enough() -> None:  # K2
    pool = Driver(devices=sorted(UNLIKE, key=lambda card: card.name, reverse=True))
    assert pool.lease("a", vram_mib=30_000) == ["a on cuda:3"]
    assert pool.lease("b", vram_mib=30_000) == ["b on cuda:1"]
    assert pool.lease("c", vram_mib=10_000) == ["c on cuda:0"]
    assert pool.lease("d", vram_mib=10_000) == ["d on cuda:2"]
    assert pool.gone("c") == []
    assert pool.lease("e", vram_mib=30_000) == [], "the free card is too small"


def test_a_card_that_may_join_later_may_be_any() -> None:
    allocator = Allocator([cpu_slot(0)])
    allocator.expect([Device("pilot/cuda:0", "cuda", 0)], 0.0)
    assert allocator.request(DeviceRequest("a", gpus(1, H100), "lease"), 0.0) == []
    joined = Device("n1/cuda:0", "cuda", 0, "GPU-1", 1, A100, "0")
    assert allocator.join([joined], 1.0) == [], "it is no H100, and another may come"
    (refused,) = allocator.expect([], 2.0)
    assert A100 in refused.reason  # type: ignore[union-attr]


# --- served rules


def tool_info(devices: tuple[str, ...], count: int = 1) -> ToolInfo:
    return ToolInfo(True, True, devices, count, False, None, 600.0, False)


def request(**fields: object) -> Request:
    return Request(1, "r", ToolRef("t.py:T", "", "python"), b"", b"", "/", **fields)  # type: ignore[arg-type]


def test_a_served_rule_without_a_number_takes_as_many_as_its_tool() -> None:
    requests = DeviceRequests(Allocator([*UNLIKE, cpu_slot(0)]))
    wish = CardWish(parse_models("a100"))
    two = tool_info(("cuda", "cpu"), 2)
    assert requests.spec_for(request(card=wish), two) == gpus(2, wish)
    assert requests.spec_for(request(card=wish, devices=gpus(1, wish)), two) == gpus(1, wish)
    assert requests.spec_for(request(), two) == gpus(2)
    with pytest.raises(ImpossibleRequest, match=r"asks for a GPU \(a100\)"):
        requests.spec_for(request(card=wish), tool_info(("cpu",)))
    no_gpu = DeviceRequests(Allocator([cpu_slot(0)]))
    with pytest.raises(ImpossibleRequest):
        no_gpu.spec_for(request(card=wish), two)
    assert requests.label(gpus(1, wish)) == "cudax1:simulated A100", "figures are of that card"


def test_who_asks_for_a_card_does_not_take_what_another_has_computed() -> None:
    spaces = {request(card=card).space for card in (CardWish(), H100, CardWish(("a100",)))}
    assert len(spaces) == 3
    assert request().space == "", "as it was"


# --- refused at start, and jobs that run together


def config(devices: object = UNLIKE) -> SimpleNamespace:
    return SimpleNamespace(gpus=list(devices), devices=list(devices), expected=())  # type: ignore[call-overload]


def test_what_is_not_there_is_refused_with_what_is() -> None:  # K2
    problem = device_problem(needs_of(job(gpu=1, gpu_model="h100,mi300x")), config())  # type: ignore[arg-type]
    assert problem is not None
    assert problem.startswith(
        'asks for gpu_model="h100,mi300x" and gpu=1, but there is only simulated RTX 4090 '
        "(cuda:0), simulated A100 (cuda:1, cuda:2, cuda:3). Name one of these in gpu_model"
    )
    named = device_problem(needs_of(job(device="cuda:0", gpu_model="a100")), config())  # type: ignore[arg-type]
    assert named is not None and "there is only simulated RTX 4090 (cuda:0)." in named
    assert device_problem(needs_of(job(gpu=3, gpu_model="a100")), config()) is None  # type: ignore[arg-type]
    amd = device_problem(needs_of(job(gpu=1, gpu_manufacturer="amd")), config())  # type: ignore[arg-type]
    assert amd is not None and 'gpu_manufacturer="amd"' in amd
    nothing = device_problem(needs_of(job(gpu=1, gpu_model="a100")), config(()))  # type: ignore[arg-type]
    assert nothing is not None and nothing.endswith("there is no GPU")


def test_jobs_that_run_together_get_the_cards_that_each_asks_for() -> None:
    jobs = [job("a", gpu=1), job("b", gpu=1, gpu_model="a100_80gb"), job("c", gpu_model="4090")]
    bundle = Bundle.of(jobs, [*UNLIKE, cpu_slot(0)])
    assert bundle.joint.spec is not None and bundle.joint.gpus == 3
    granted = [card for card in UNLIKE if card.name in bundle.joint.names]
    parts = [[card.model_name for card in part] for part in bundle.parts(granted)]
    assert parts[1:] == [["simulated A100"], ["simulated RTX 4090"]] and len(parts[0]) == 1
    alike = Bundle.of([job("a", gpu=1, gpu_model="a100"), job("b", gpu_model="A100")], UNLIKE)
    assert alike.joint.spec == gpus(2, CardWish(("a100",))), "any two of them"
    with pytest.raises(Unservable, match=r"a: cuda \(h100\); b: cuda.*simulated RTX 4090"):
        Bundle.of([job("a", gpu_model="h100"), job("b", gpu=1)], UNLIKE)


def test_a_job_makes_room_for_one_that_needs_its_card() -> None:
    big = simulated_devices({"GPUPOOL_SIMULATE": "1x24GiB,1x80GiB"})
    bundle = Bundle.of([job("a", gpu_model="any", gpu=1), job("b", gpu=1, vram_mb=60000)], big)
    parts = bundle.parts(reversed(big))
    assert [[card.name for card in part] for part in parts] == [["cuda:0"], ["cuda:1"]]


def test_what_a_tool_gets_changes_with_the_kinds_of_devices() -> None:
    allocator, info = Allocator([cpu_slot(0)]), tool_info(("cuda", "cpu"))
    requests = DeviceRequests(allocator)
    assert [requests.spec_for(request(), info).kind for _ in range(2)] == ["cpu", "cpu"]
    allocator.join([Device("n1/cuda:0", "cuda", 0, "GPU-1", 1, A100, "0")], 1.0)
    assert requests.spec_for(request(), info).kind == "cuda"
    assert requests.spec_for(request(), tool_info(("cpu",))).kind == "cpu", "of each tool its own"
