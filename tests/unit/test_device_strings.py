"""Device strings and managed-devices strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy
from snakemake_executor_gpupool.devices.device_spec import (
    DeviceSpec,
    gpus,
    parse_device,
    sorted_names,
)
from snakemake_executor_gpupool.devices.managed_spec import parse_managed
from snakemake_executor_gpupool.errors import ConfigError, DeviceStringError


def card(index):
    return Device(f"cuda:{index}", "cuda", index, f"GPU-{index}", model_name="A100")


FOUR = [card(index) for index in (3, 1, 0, 2)]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("cpu", DeviceSpec("cpu", 1)),
        ("cuda", DeviceSpec("cuda", 1)),
        ("cudax1", DeviceSpec("cuda", 1)),
        ("cudax4", DeviceSpec("cuda", 4)),
        ("cuda:3", DeviceSpec("cuda", 1, ("cuda:3",))),
        ("cuda:0,1", DeviceSpec("cuda", 2, ("cuda:0", "cuda:1"))),
        ("cuda:0,cuda:1", DeviceSpec("cuda", 2, ("cuda:0", "cuda:1"))),
        (" cuda : 1 , 0 ", DeviceSpec("cuda", 2, ("cuda:0", "cuda:1"))),
        ("cuda x 2", DeviceSpec("cuda", 2)),
        ("cuda:10,9", DeviceSpec("cuda", 2, ("cuda:9", "cuda:10"))),
        ("cpu:1", DeviceSpec("cpu", 1, ("cpu:1",))),
        ("cpu:0,1", DeviceSpec("cpu", 2, ("cpu:0", "cpu:1"))),
    ],
)
def test_device_strings(text, spec):  # D1
    assert parse_device(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cuda:",
        "0,1",
        "0",
        "cuda:-1",
        "cudax0",
        "cudax-1",
        "cudax",
        "cuda:0,",
        "cuda:0,,1",
        "cuda:0,0",
        "cuda:0,cuda:00",
        "cuda,cpu",
        "cuda:0,cpu:1",
        "cpux2",
        "gpu",
        "cuda:1.5",
        "cuda:²",
        "cuda:٣",
        "cuda:" + "9" * 5000,
        "CUDA",
        "auto",
        7,
        None,
        True,
    ],
)
def test_malformed_device_strings_show_the_grammar(text):  # D1
    with pytest.raises(DeviceStringError, match=r'"cudaxN" \(any N GPUs\)'):
        parse_device(text)


def test_no_gpus_at_all_is_no_request():  # D1
    with pytest.raises(DeviceStringError, match="'cudax0' is no device: at least 1 GPU"):
        parse_device("cudax0")


def test_a_duplicate_is_named():  # D1
    with pytest.raises(DeviceStringError, match="cuda:1 is named twice"):
        parse_device("cuda:1,cuda:1")


def test_gpu_count_equals_cudax():  # D1
    assert gpus(3) == parse_device("cudax3")
    assert gpus(1) == parse_device("cuda")


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True, None])
def test_a_count_of_gpus_is_a_whole_number(count):  # D1
    with pytest.raises(DeviceStringError, match="whole number of at least 1"):
        gpus(count)


@given(
    kind=st.sampled_from(["cuda", "cpu"]),
    indices=st.sets(st.integers(0, 999), max_size=5),
    count=st.integers(1, 99),
)
def test_what_is_printed_is_read_back(kind, indices, count):  # D1
    if indices:
        names = tuple(f"{kind}:{index}" for index in sorted(indices))
        spec = DeviceSpec(kind, len(names), names)
    else:
        spec = DeviceSpec(kind, count if kind == "cuda" else 1)
    assert parse_device(str(spec)) == spec


@given(st.text(alphabet="cudapx:,0123 -", max_size=20))
def test_any_text_is_a_device_or_an_error(text):  # D1
    try:
        spec = parse_device(text)
    except DeviceStringError:
        return
    assert spec.count >= 1
    assert len(set(spec.names)) in (0, spec.count)


def test_numeric_order():  # D2
    names = ["cuda:10", "cuda:9", "cpu:2", "n2/cuda:1", "n10/cuda:0"]
    assert sorted_names(names) == ["cpu:2", "cuda:9", "cuda:10", "n2/cuda:1", "n10/cuda:0"]


@pytest.mark.parametrize(
    ("text", "found", "names"),
    [
        ("auto", FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
        ("auto", [], "cpu:0"),
        ("all", FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
        ("cuda", FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
        ("2", FOUR, "cuda:0 cuda:1"),
        ("cudax2", FOUR, "cuda:0 cuda:1"),
        ("cuda:1,cuda:3", FOUR, "cuda:1 cuda:3"),
        ("cuda:3,1", FOUR, "cuda:1 cuda:3"),
        ("cpu", [], "cpu:0"),
        ("cpu:2", FOUR, "cpu:0 cpu:1"),
        ("cuda:0,1,cpu:2", FOUR, "cuda:0 cuda:1 cpu:0 cpu:1"),
        ("cpu:1, cuda:2", FOUR, "cuda:2 cpu:0"),
        ("all,cpu", FOUR[:1], "cuda:3 cpu:0"),
        (" 1 , cpu:1 ", FOUR, "cuda:0 cpu:0"),
        ("AUTO", FOUR, "cuda:0 cuda:1 cuda:2 cuda:3"),
    ],
)
def test_managed_devices(text, found, names):  # D3
    assert [device.name for device in parse_managed(text, found)] == names.split()


def test_auto_makes_as_many_cpu_slots_as_told():  # D3 D12
    assert len(parse_managed("auto", [], auto_cpu_slots=3)) == 3
    assert len(parse_managed("auto", FOUR, auto_cpu_slots=3)) == 4


def test_cards_that_are_left_out_keep_the_others_numbers():  # D2 D12
    assert [device.name for device in parse_managed("1", [card(1), card(2)])] == ["cuda:1"]


@pytest.mark.parametrize(
    ("text", "found", "message"),
    [
        ("cuda:0,7", FOUR, r"names cuda:7, but there is only cuda:0 \(A100\), cuda:1"),
        ("5", FOUR, "asks for 5 GPUs, but there is only cuda:0"),
        ("cuda:0", [], "names cuda:0, but no GPU is visible"),
        ("all", [], "asks for all GPUs, but no GPU is visible"),
    ],
)
def test_managed_devices_that_are_not_there(text, found, message):  # D3
    with pytest.raises(ConfigError, match=message):
        parse_managed(text, found)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0,1", "cuda:0,0", "cuda:0,auto", "auto,cpu", "all,2", "cpu:0", "cpu,cpu:2", "x",
     "cuda:", "cudax0", "cuda:0,,cpu:1"],
)  # fmt: skip
def test_malformed_managed_devices_show_the_grammar(text):  # D3
    with pytest.raises(DeviceStringError, match="managed devices are"):
        parse_managed(text, FOUR)


def test_offload_strategies():  # D4
    assert OffloadStrategy.parse(" CPU ") is OffloadStrategy.CPU
    assert OffloadStrategy.parse(OffloadStrategy.RESTART) is OffloadStrategy.RESTART
    with pytest.raises(ConfigError, match='"restart" or "cpu"'):
        OffloadStrategy.parse("disk")
