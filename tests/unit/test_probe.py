"""The probe, against a fake NVML library that can fail in every way the real one does."""

import subprocess
import sys

import pytest

from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.nvml import RETRY_DELAYS_S
from snakemake_executor_gpupool.devices.probe import (
    FOREIGN_MEMORY_MIB,
    compute_pids,
    filled_by_others,
    memory_by_pid,
    memory_used_mib,
    probe,
)
from snakemake_executor_gpupool.devices.simulate import simulated_devices
from snakemake_executor_gpupool.devices.visibility import visible_env
from snakemake_executor_gpupool.errors import ConfigError, DeviceLost

from .fake_nvml import (
    LOST,
    MISMATCH,
    NO_DRIVER,
    NO_LIBRARY,
    NO_PERMISSION,
    RESET_REQUIRED,
    UNKNOWN,
    FakeCard,
    FakeNvml,
)


def machine(count=4):
    return FakeNvml(*(FakeCard(f"GPU-{letter}000-1") for letter in "abcdefghijkl"[:count]))


def look(library, visible=None, **env):
    env = env if visible is None else {"CUDA_VISIBLE_DEVICES": visible, **env}
    result = probe(env, library, sleep=lambda _: None)
    return [(device.name, device.uuid[4], device.visible_id) for device in result.devices]


def test_all_cards_without_the_variable():  # D2
    result = probe({}, machine(2))
    assert result.warnings == ()
    assert result.devices == (
        Device("cuda:0", "cuda", 0, "GPU-a000-1", 81920, "A100", "0"),
        Device("cuda:1", "cuda", 1, "GPU-b000-1", 81920, "A100", "1"),
    )


def test_numeric_order():  # D2
    names = [device.name for device in probe({}, machine(12)).devices]
    assert names == [f"cuda:{index}" for index in range(12)]


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        ("2,0", [("cuda:0", "c", "2"), ("cuda:1", "a", "0")]),
        (" 1 , 3 ", [("cuda:0", "b", "1"), ("cuda:1", "d", "3")]),
        ("GPU-b000-1", [("cuda:0", "b", "GPU-b000-1")]),
        ("GPU-c", [("cuda:0", "c", "GPU-c")]),
        ("GPU-d000,0", [("cuda:0", "d", "GPU-d000"), ("cuda:1", "a", "0")]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", [("cuda:0", "b", "1")]),
        ("1,9,2", [("cuda:0", "b", "1")]),
        ("GPU-", []),
        ("1,,2", [("cuda:0", "b", "1")]),
        ("1,1", []),
        ("0,GPU-a", []),
    ],
)
def test_cuda_visible_devices(visible, seen):  # D2
    assert look(machine(4), visible) == seen


def test_an_ambiguous_prefix_names_nothing():  # D2
    library = FakeNvml(FakeCard("GPU-aa1"), FakeCard("GPU-aa2"))
    assert look(library, "GPU-aa") == []
    assert look(library, "GPU-aa2") == [("cuda:0", "a", "GPU-aa2")]


def test_an_unknown_entry_is_said():  # D2
    (warning,) = probe({"CUDA_VISIBLE_DEVICES": "1,9"}, machine(2)).warnings
    assert "'9' is no device of this machine" in warning


@pytest.mark.parametrize("visible", ["1,1", "0,GPU-a", "GPU-a000,GPU-a000-1"])
def test_one_card_named_twice_is_said(visible):  # D2
    result = probe({"CUDA_VISIBLE_DEVICES": visible}, machine(2))
    assert result.devices == ()
    assert result.warnings == ("CUDA_VISIBLE_DEVICES names one card twice: CUDA then shows none",)


def test_why_there_is_no_gpu():  # D12
    assert "hides every GPU" in probe({"CUDA_VISIBLE_DEVICES": ""}, machine()).why_none
    assert "names no usable GPU" in probe({"CUDA_VISIBLE_DEVICES": "9"}, machine()).why_none
    assert "reports no GPU" in probe({}, FakeNvml()).why_none
    assert probe({}, machine()).why_none == ""


def test_an_empty_variable_does_not_even_start_nvml():  # D2
    library = machine()
    probe({"CUDA_VISIBLE_DEVICES": ""}, library)
    assert library.inits == 0


def test_numbers_on_a_machine_of_different_models_are_doubtful():  # D2
    library = FakeNvml(FakeCard("GPU-a", "A100"), FakeCard("GPU-b", "T4"))
    assert "CUDA_DEVICE_ORDER" in probe({"CUDA_VISIBLE_DEVICES": "1"}, library).warnings[0]
    for env in (
        {},
        {"CUDA_VISIBLE_DEVICES": "GPU-b"},
        {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    ):
        assert probe(env, library).warnings == ()


# --- kinds of cards


def test_exclusive_process_is_seen():  # D12
    devices = probe({}, FakeNvml(FakeCard("GPU-a", mode=3), FakeCard("GPU-b"))).devices
    assert [device.exclusive_process for device in devices] == [True, False]


def test_prohibited_card_is_left_out_and_the_others_keep_their_numbers():  # D12
    result = probe({}, FakeNvml(FakeCard("GPU-a", mode=2), FakeCard("GPU-b")))
    assert [device.name for device in result.devices] == ["cuda:1"]
    assert result.warnings == ("cuda:0 is not used: its compute mode is Prohibited",)


def mig_machine():
    slices = [FakeCard("MIG-a1", "A100 MIG 3g.40gb", 40000), FakeCard("MIG-a2", total_mib=20000)]
    return FakeNvml(FakeCard("GPU-a", slices=slices), FakeCard("GPU-b"))


def test_mig_slices_are_devices_of_their_own():  # D12
    devices = probe({}, mig_machine()).devices
    assert [(d.name, d.visible_id, d.memory_mib, d.is_mig) for d in devices] == [
        ("cuda:0", "MIG-a1", 40000, True),
        ("cuda:1", "MIG-a2", 20000, True),
        ("cuda:2", "1", 81920, False),
    ]


def test_mig_uuids_in_the_variable():  # D2 D12
    result = probe({"CUDA_VISIBLE_DEVICES": "MIG-a2,1"}, mig_machine())
    assert [(device.uuid, device.visible_id) for device in result.devices] == [
        ("MIG-a2", "MIG-a2"),
        ("GPU-b", "1"),
    ]
    assert probe({"CUDA_VISIBLE_DEVICES": "MIG-"}, mig_machine()).devices == ()


def test_mig_without_slices_is_said():  # D12
    result = probe({}, FakeNvml(FakeCard("GPU-a", slices=[])))
    assert result.devices == ()
    assert "MIG is on, but no slice was made" in result.warnings[0]


def test_memory_that_nvml_cannot_tell():  # D12
    device = probe({}, FakeNvml(FakeCard("GPU-a", total_mib=None))).devices[0]
    assert device.memory_mib is None


# --- failures


def test_a_passing_error_at_start_is_retried():  # D12
    library = machine(1)
    library.start_errors = [UNKNOWN, UNKNOWN]
    slept = []
    result = probe({}, library, sleep=slept.append)
    assert len(result.devices) == 1
    assert slept == list(RETRY_DELAYS_S)


def test_a_lasting_error_is_said():  # D12
    library = machine(1)
    library.start_errors = [UNKNOWN] * 3
    result = probe({}, library, sleep=lambda _: None)
    assert result.devices == ()
    assert result.warnings == ("no GPU is used: NVML failed 3 times: NVML error 999",)


@pytest.mark.parametrize(
    ("code", "message", "news"),
    [
        (NO_LIBRARY, "no NVIDIA driver is installed", False),
        (NO_DRIVER, "installed but not loaded", True),
        (MISMATCH, "updated while it was loaded", True),
        (NO_PERMISSION, "may not talk to the NVIDIA driver", True),
    ],
)
def test_driver_missing_or_mismatched_is_said_and_not_retried(code, message, news):  # D12
    library = machine(1)
    library.start_errors = [code]
    result = probe({}, library, sleep=lambda _: pytest.fail("retried"))
    assert result.devices == ()
    assert message in result.why_none
    assert bool(result.warnings) is news


@pytest.mark.parametrize(
    ("code", "message"),
    [(LOST, "fell off the bus"), (RESET_REQUIRED, "needs a reset"), (NO_PERMISSION, "may not use")],
)
def test_a_broken_card_does_not_hide_the_others(code, message):  # D12
    library = FakeNvml(FakeCard("GPU-a", error=code), FakeCard("GPU-b"))
    result = probe({}, library, sleep=lambda _: pytest.fail("retried"))
    assert [device.name for device in result.devices] == ["cuda:1"]
    assert result.warnings[0].startswith("cuda:0 is not used: ")
    assert message in result.warnings[0]
    assert probe({"CUDA_VISIBLE_DEVICES": "1,0"}, library).devices[0].name == "cuda:0"


# --- looking again


def first(library):
    return probe({}, library).devices[0]


def test_memory_and_processes():  # D8 D12
    library = machine(1)
    library.cards[0].used_mib = 1234
    library.cards[0].pids = {9: 700, 7: None}
    assert memory_used_mib(first(library), library) == 1234
    assert compute_pids(first(library), library) == (7, 9)
    assert memory_by_pid(first(library), library) == {9: 700, 7: None}


def test_what_is_no_card_has_no_figures():  # D14
    for device in (cpu_slot(0), simulated_devices({"GPUPOOL_SIMULATE": "1x8GiB"})[0]):
        assert memory_used_mib(device, machine(1)) is None
        assert compute_pids(device, machine(1)) == ()
        assert not filled_by_others(device, machine(1))


def test_a_card_that_others_fill():  # D12
    library = machine(1)
    device = first(library)
    assert not filled_by_others(device, library)
    library.cards[0].used_mib = FOREIGN_MEMORY_MIB + 1
    assert filled_by_others(device, library)
    library.cards[0].pids = {42: None}
    assert filled_by_others(device, library, ours=[41])
    assert not filled_by_others(device, library, ours=[42])


@pytest.mark.parametrize("look_again", [memory_used_mib, compute_pids, filled_by_others])
def test_a_card_that_falls_off_the_bus(look_again):  # D12
    library = machine(1)
    device = first(library)
    library.cards[0].error = LOST
    with pytest.raises(DeviceLost, match=r"cuda:0 .*fell off the bus"):
        look_again(device, library)
    library.cards[0].error = UNKNOWN
    assert not look_again(device, library)


# --- simulation


class Untouchable:
    def __getattr__(self, name):
        raise AssertionError(f"NVML was touched: {name}")


def test_simulated_devices():  # D14
    result = probe({"GPUPOOL_SIMULATE": "4x80GiB", "CUDA_VISIBLE_DEVICES": ""}, Untouchable())
    assert [device.name for device in result.devices] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert all(device.simulated and device.uuid.startswith("SIM-") for device in result.devices)
    assert all(device.memory_mib == 80 * 1024 for device in result.devices)
    assert "simulated" in result.warnings[0]


@pytest.mark.parametrize(
    ("text", "count", "memory_mib"),
    [("2", 2, None), ("1x512MiB", 1, 512), ("2 x 1.5 GiB", 2, 1536), ("1x16GB", 1, 15259)],
)
def test_simulated_sizes(text, count, memory_mib):  # D14
    devices = simulated_devices({"GPUPOOL_SIMULATE": text})
    assert [device.memory_mib for device in devices] == [memory_mib] * count


@pytest.mark.parametrize("text", ["0", "x", "4x", "4x80", "4x80GiBs", "-1", "9999", "two"])
def test_malformed_simulation(text):  # D14
    with pytest.raises(ConfigError, match="4x80GiB"):
        probe({"GPUPOOL_SIMULATE": text})


def test_a_child_of_a_simulated_run_sees_its_own_devices_only():  # D14 S7
    env = {"GPUPOOL_SIMULATE": "4x80GiB"}
    child = env | visible_env(simulated_devices(env)[2:])
    devices = simulated_devices(child)
    assert [(d.name, d.uuid, d.visible_id) for d in devices] == [
        ("cuda:0", "SIM-2", "2"),
        ("cuda:1", "SIM-3", "3"),
    ]
    assert visible_env(devices[:1])["CUDA_VISIBLE_DEVICES"] == "2"


def test_a_job_of_a_simulated_run_without_devices_sees_none():  # D14 D3
    env = {"GPUPOOL_SIMULATE": "4x80GiB"}
    assert simulated_devices(env | {"CUDA_VISIBLE_DEVICES": ""})  # set for other programs
    assert simulated_devices(env | visible_env(())) == ()


# --- weight


def test_importing_the_package_is_light():  # S1
    code = (
        "import sys\n"
        "from snakemake_executor_gpupool.devices import manager, ownership\n"
        "from snakemake_executor_gpupool.frontends.commandline import devices\n"
        "heavy = {'pynvml', 'torch', 'numpy', 'snakemake'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
