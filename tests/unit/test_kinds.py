"""A kind of device is one object: one more is one class and one entry, and nothing else changes."""

import dataclasses

import pytest

from snakemake_executor_gpupool.devices.allocation.allocator import Allocator, DeviceRequest
from snakemake_executor_gpupool.devices.cores import choose_devices, worker_threads
from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.devices.device_kind import DeviceKind, ProbeResult
from snakemake_executor_gpupool.devices.device_spec import DeviceSpec, gpus, parse_device
from snakemake_executor_gpupool.devices.kinds import (
    KINDS,
    computes_on_cpu,
    is_gpu,
    kinds_for_tool,
    tool_device,
)
from snakemake_executor_gpupool.devices.managed_spec import parse_managed
from snakemake_executor_gpupool.devices.memory_release import MemoryRelease
from snakemake_executor_gpupool.devices.probe import (
    FOREIGN_MEMORY_MIB,
    Machine,
    compute_pids,
    filled_by_others,
    memory_used_mib,
    probe,
)
from snakemake_executor_gpupool.devices.settings import DeviceSettings
from snakemake_executor_gpupool.devices.visibility import env_of_parent, visible_env
from snakemake_executor_gpupool.errors import ConfigError, DeviceLost, DeviceStringError
from tests.unit.allocator_driver import Driver, gpu


class SysfsKind(DeviceKind):
    """Accelerators that a driver lists as files; made up."""

    word = "npu"
    tool_word = "npu"

    def __init__(self, root):
        self._root = str(root)

    def why_single(self, device):
        return "an npu is used alone" if device.is_mig else ""

    def shown(self, devices):
        return {"NPU_VISIBLE_DEVICES": ",".join(device.visible_id for device in devices)}

    def hidden(self):
        return {"NPU_VISIBLE_DEVICES": "none"}

    def find(self, env, system):
        names = system.list_directory(self._root)
        if not names:
            return ProbeResult((), (), "no npu driver")
        return ProbeResult(tuple(self._device(index, system) for index in range(len(names))))

    def _device(self, index, system):
        memory_mib = int(system.read_text(f"{self._root}/npu{index}/memory_mib"))
        return Device(f"npu:{index}", "npu", index, f"NPU-{index}", memory_mib, "NPU", str(index))

    def memory_used_mib(self, device, system):
        used = system.read_text(f"{self._root}/npu{device.index}/used_mib")
        if used is None:
            raise DeviceLost(f"{device.name} is gone")
        return int(used)

    def memory_by_pid(self, device, system):
        return {
            int(pid): None for pid in system.list_directory(f"{self._root}/npu{device.index}/by")
        }


def rocm(index):
    return Device(f"rocm:{index}", "rocm", index, f"AMD-{index}", 64_000, "MI250", str(index))


@pytest.fixture
def npus(tmp_path, monkeypatch):
    """Two npus with 32 GiB each, as files."""
    for index in range(2):
        card = tmp_path / f"npu{index}"
        (card / "by").mkdir(parents=True)
        (card / "memory_mib").write_text("32768\n")
        (card / "used_mib").write_text("0\n")
    monkeypatch.setitem(KINDS, "npu", SysfsKind(tmp_path))
    return tmp_path


NOTHING = {"CUDA_VISIBLE_DEVICES": ""}  # no card of this machine is among the devices found


def found():
    return probe(NOTHING).devices


def names(devices):
    return [device.name for device in devices]


# --- one more kind, from its files to its processes


def test_a_new_kind_is_found_and_looked_at(npus):  # D3
    assert names(found()) == ["npu:0", "npu:1"]
    assert [device.memory_mib for device in found()] == [32768, 32768]
    (npus / "npu1" / "used_mib").write_text(str(FOREIGN_MEMORY_MIB + 1))
    first, second = found()
    assert memory_used_mib(first) == 0 and not filled_by_others(first)
    assert filled_by_others(second)
    (npus / "npu1" / "by" / "42").touch()
    assert compute_pids(second) == (42,)
    assert not filled_by_others(second, ours=[42])
    (npus / "npu0" / "used_mib").unlink()
    with pytest.raises(DeviceLost, match="npu:0"):
        memory_used_mib(first)


def test_every_kind_says_why_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "npu", SysfsKind(tmp_path / "nothing"))
    why = probe(NOTHING).why_none
    assert "CUDA_VISIBLE_DEVICES='' hides every GPU" in why and "no npu driver" in why


def test_its_word_is_understood(npus):  # D1
    assert parse_device("npu") == DeviceSpec("npu")
    assert parse_device("npux2") == DeviceSpec("npu", 2)
    assert parse_device("n1/npu:1,0") == DeviceSpec("npu", 2, ("n1/npu:0", "n1/npu:1"), "n1")
    for text in ("npu:0,cuda:1", "npux0", "npu:0,0", "npu:"):
        with pytest.raises(DeviceStringError):
            parse_device(text)


@pytest.mark.parametrize(
    ("text", "managed"),
    [
        ("auto", "cuda:0 npu:0 npu:1"),
        ("all", "cuda:0 npu:0 npu:1"),
        ("npu", "npu:0 npu:1"),
        ("cuda", "cuda:0"),
        ("npux1", "npu:0"),
        ("npu:1", "npu:1"),
        ("npu:0,1,cpu:1", "npu:0 npu:1 cpu:0"),
        ("cuda:0,npu:1", "cuda:0 npu:1"),
        ("npu:1,npu:0,cuda:0", "npu:0 npu:1 cuda:0"),
    ],
)
def test_its_devices_can_be_managed(npus, text, managed):  # D3
    assert names(parse_managed(text, [gpu(0), *found()])) == managed.split()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("npu:2", r"names npu:2, but there is only npu:0 \(NPU\), npu:1 \(NPU\)"),
        ("npux3", "asks for 3 GPUs"),
        ("npu:0,npux1", "given twice"),
        ("npu,all", "given twice"),
        ("npu:", "not understood"),
        ("tpu", "not understood"),
    ],
)
def test_what_is_not_there_is_refused(npus, text, why):  # D3
    with pytest.raises(ConfigError, match=why):
        parse_managed(text, [gpu(0), *found()])


def test_its_devices_are_granted_waited_for_and_evicted(npus):  # D5 D7
    pool = Driver(devices=[gpu(0), *found()])
    assert pool.ask("a", "npux2") == ["a on npu:0,npu:1"]
    assert pool.ask("b", "cuda") == ["b on cuda:0"], "the other kind is not touched"
    assert pool.ask("c", "npu:1") == [], "it is held"
    assert pool.idle("a") == ["evict a: restart"]
    assert pool.gone("a") == ["c on npu:1"]
    assert pool.ask("d", "npu", vram_mib=40_000) == [
        "d never: d asks for npu with 40000 MiB each, but they have at most 32768 MiB; "
        "managed here: npu:0, npu:1"
    ]
    assert pool.allocator.count("npu") == 2 and pool.allocator.count("cuda") == 1


def test_what_cannot_be_used_together_is_not(npus):
    slices = [dataclasses.replace(device, is_mig=True) for device in found()]
    pool = Driver(devices=slices)
    assert pool.ask("a", "npu") == ["a on npu:0"]
    (why,) = pool.ask("b", "npux2")
    assert "but an npu is used alone" in why


def test_a_process_sees_exactly_its_devices_of_each_kind(npus):  # D3 S7
    first, second = found()
    shown = visible_env([second])
    assert shown["NPU_VISIBLE_DEVICES"] == "1"
    assert shown["CUDA_VISIBLE_DEVICES"] == "" and shown["HIP_VISIBLE_DEVICES"] == "-1"
    assert visible_env([first, second])["NPU_VISIBLE_DEVICES"] == "0,1"
    for devices in ([], [cpu_slot(0)], [gpu(0)]):
        assert visible_env(devices)["NPU_VISIBLE_DEVICES"] == "none"
    assert visible_env([gpu(3)])["CUDA_VISIBLE_DEVICES"] == "3"


def test_tools_and_threads_know_it(npus):
    first, second = found()
    assert tool_device([first, second]) == "npu:0,npu:1"
    assert tool_device([dataclasses.replace(first, simulated=True)]) == "cpu"
    assert is_gpu(first) and not computes_on_cpu(first)
    assert kinds_for_tool("npu", {"npu", "cpu"}) == ["npu"]
    settings = DeviceSettings()
    devices = choose_devices(settings, ProbeResult(found()), cores=8)
    assert names(devices) == ["npu:0", "npu:1", "cpu:0"]
    assert worker_threads(devices, 8) == 8


def test_its_memory_is_free_before_it_is_handed_on(npus):  # D10
    release = MemoryRelease()
    cards = found()
    release.arrived("w", cards)
    (npus / "npu0" / "by" / "7").touch()
    assert not release.is_rid_of(cards, 7)
    (npus / "npu0" / "by" / "7").unlink()
    assert release.is_rid_of(cards, 7)


# --- a second kind of GPU that requests for "cuda" may be given


def test_any_gpu_is_any_kind_that_serves_it():
    pool = Driver(devices=[rocm(0), rocm(1)])
    (granted,) = pool.allocator.request(DeviceRequest("a", gpus(1), "lease"), 0.0)
    assert names(granted.devices) == ["rocm:0"]
    assert pool.allocator.count("cuda") == 2 and pool.allocator.count("rocm") == 2
    assert pool.ask("b", "cuda:1")[0].startswith("b never: b asks for cuda:1")


def test_one_process_never_has_gpus_of_two_kinds():
    mixed = Driver(devices=[gpu(0), rocm(0), rocm(1)])
    assert mixed.ask("a", "cudax2") == ["a on rocm:0,rocm:1"]
    assert mixed.ask("b", "cudax3")[0].startswith("b never")
    lonely = Driver(devices=[gpu(0), rocm(0)])
    (why,) = lonely.ask("c", "cudax2")
    assert "c never: c asks for cudax2" in why


def test_a_variable_that_two_kinds_read_is_the_holders():  # S7
    env = visible_env([rocm(1)])
    assert env["HIP_VISIBLE_DEVICES"] == "1" and env["CUDA_VISIBLE_DEVICES"] == ""
    assert "ROCR_VISIBLE_DEVICES" not in env, "it would select twice"
    assert visible_env([gpu(1)])["ROCR_VISIBLE_DEVICES"] == "", "the other kind is hidden"
    assert visible_env(())["HIP_VISIBLE_DEVICES"] == "-1"
    parent = env_of_parent([rocm(1)])
    assert "ROCR_VISIBLE_DEVICES" not in parent and parent["HIP_VISIBLE_DEVICES"] == "-1"
    assert env_of_parent([gpu(0)])["CUDA_VISIBLE_DEVICES"] == ""
    assert env_of_parent([])["ROCR_VISIBLE_DEVICES"] == ""


def test_a_tool_for_cuda_runs_on_it():
    assert tool_device([rocm(4), rocm(5)]) == "cuda:0,cuda:1"
    assert kinds_for_tool("cuda", {"rocm", "cpu"}) == ["rocm"]
    assert kinds_for_tool("cuda", {"rocm", "cuda"}) == ["cuda", "rocm"]
    assert kinds_for_tool("cuda", {"cpu"}) == []


# --- what holds for every kind


def test_the_table_is_keyed_by_each_kinds_word():
    assert all(word == kind.word for word, kind in KINDS.items())
    assert [kind.word for kind in KINDS.values() if kind.is_host] == ["cpu"]


def test_what_a_kind_hides_by_it_also_shows_by_or_says_so():
    for kind in KINDS.values():
        if not kind.is_host:
            device = Device(f"{kind.word}:0", kind.word, 0, "U-0", 1, "card", "0")
            assert set(kind.hidden()) <= set(kind.shown([device])) | kind.stays_hidden


def test_a_new_devices_string_survives_an_allocator_without_that_kind(npus):
    (effect,) = Allocator([gpu(0)]).request(DeviceRequest("a", parse_device("npu"), "lease"), 0.0)
    assert effect.reason == "a asks for npu; managed here: no npu device"


# --- the machine, as kinds look at it


def test_what_is_missing_on_the_machine_is_no_error(tmp_path):
    machine = Machine()
    assert machine.read_text(str(tmp_path / "no file")) is None
    assert machine.list_directory(str(tmp_path / "no directory")) == ()
    assert machine.library("no_such_package_anywhere") is None
    (tmp_path / "b").write_text("2")
    (tmp_path / "a").write_bytes(b"\xff1")
    assert machine.list_directory(str(tmp_path)) == ("a", "b")
    assert machine.read_text(str(tmp_path / "b")) == "2"
    assert machine.read_text(str(tmp_path / "a")) is not None, "no text, and no error"
    assert machine.read_text(str(tmp_path)) is None, "a directory"


def test_a_given_library_is_used_for_its_name_alone():
    library = object()
    assert Machine(library).library("pynvml") is library
    assert Machine(library).library("json").__name__ == "json"
