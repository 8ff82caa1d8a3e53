"""The device manager's Python API, and the listing."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from snakemake_executor_gpupool import DeviceManager
from snakemake_executor_gpupool.devices import manager as manager_module
from snakemake_executor_gpupool.devices.device import OffloadStrategy
from snakemake_executor_gpupool.devices.locks import DeviceLocks
from snakemake_executor_gpupool.errors import (
    ConfigError,
    DeviceStringError,
    GpupoolError,
    ImpossibleRequest,
)
from snakemake_executor_gpupool.frontends.commandline.devices import list_devices

from .fake_nvml import LOST, FakeCard, FakeNvml

WAIT_S = 30  # how long a thread may take; reached only when a test fails


@pytest.fixture
def env(tmp_path):
    return {"GPUPOOL_SIMULATE": "2x16GiB", "GPUPOOL_LOCK_DIR": str(tmp_path / "locks")}


@pytest.fixture
def manager(env):
    manager = DeviceManager(env)
    yield manager
    manager.close()


@pytest.fixture
def instance(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    DeviceManager.reset_instance()
    yield DeviceManager.get_instance()
    DeviceManager.reset_instance()


def names(manager):
    return [device.name for device in manager.devices]


# --- one instance


def test_there_is_one_instance(instance):  # D3
    assert DeviceManager.get_instance() is instance
    DeviceManager.reset_instance()
    assert DeviceManager.get_instance() is not instance


def test_reset_lets_go_and_wakes_who_waits(instance, env):  # D3
    asking = threading.Event()

    def wait():
        asking.set()
        with instance.lease("cuda:0"):
            pytest.fail("granted after the reset")

    with ThreadPoolExecutor() as pool, instance.lease("cuda:0"):
        waiting = pool.submit(wait)
        assert asking.wait(WAIT_S)
        DeviceManager.reset_instance()
        with pytest.raises(GpupoolError, match="was reset"):
            waiting.result(WAIT_S)
    with DeviceManager.get_instance().lease("cudax2") as lease:
        assert lease.names == ("cuda:0", "cuda:1")


# --- leases


def test_a_lease_shows_a_child_its_devices(manager):  # S7 T3
    with manager.lease("cuda:1", owner="a script") as lease:
        assert lease.names == ("cuda:1",)
        assert lease.env["CUDA_VISIBLE_DEVICES"] == "1"
        assert manager.allocation_map() == {"cuda:0": [], "cuda:1": ["a script"]}
    assert manager.allocation_map() == {"cuda:0": [], "cuda:1": []}


def test_a_lease_ends_on_any_exit(manager):  # T3
    with pytest.raises(KeyError), manager.lease(2):
        raise KeyError
    with manager.lease(2, timeout_s=0):
        pass


def test_a_lease_is_waited_for(manager):  # D11
    got = threading.Event()

    def work():
        with manager.lease("cuda", timeout_s=WAIT_S):
            got.set()

    with ThreadPoolExecutor() as pool:
        with manager.lease(2):
            later = pool.submit(work)
            assert not got.is_set()
        later.result(WAIT_S)
    assert got.is_set()


def test_no_two_threads_ever_hold_one_device(manager):  # D11 S7
    holding, most, guard = dict.fromkeys(["cuda:0", "cuda:1"], 0), [0], threading.Lock()

    def work(number):
        with manager.lease(1 + number % 2, timeout_s=WAIT_S) as lease:
            with guard:
                for name in lease.names:
                    holding[name] += 1
                most[0] = max(most[0], *holding.values())
            with guard:
                for name in lease.names:
                    holding[name] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(60)))
    assert most == [1]
    assert not any(manager.allocation_map().values())


def test_waiting_no_longer_than_told(manager):  # D11
    with (
        manager.lease(2, owner="first"),
        pytest.raises(TimeoutError, match=r"second waited 0 s for cuda \(cuda:0: first; cuda:1"),
        manager.lease("cuda", owner="second", timeout_s=0),
    ):
        pass
    with manager.lease(2, timeout_s=0):  # whoever gave up is no longer in line
        pass


def test_what_can_never_be_is_said_at_once(manager):  # D10
    with pytest.raises(ImpossibleRequest, match="asks for cudax3"), manager.lease(3):
        pass
    with pytest.raises(DeviceStringError), manager.lease("gpu"):
        pass
    assert not any(manager.allocation_map().values())


def test_the_cpu_is_always_to_be_had(manager):  # D12
    with manager.lease("cpu") as lease, manager.lease("cpu"):
        assert lease.env["CUDA_VISIBLE_DEVICES"] == ""


# --- other processes


def test_a_device_of_another_run_is_waited_for(env, manager, monkeypatch):  # D13
    monkeypatch.setattr(manager_module, "FOREIGN_POLL_S", 0.01)
    other = DeviceLocks(env)
    for device in manager.devices:
        other.try_acquire(device)
    with (
        pytest.raises(TimeoutError, match="cuda:1: another process"),
        manager.lease("cuda", timeout_s=0.02),
    ):
        pass

    def work():
        with manager.lease("cuda:1", timeout_s=WAIT_S) as lease:
            assert other.is_held(lease.devices[0])
            return lease.names

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(work)
        other.release(manager.devices[1])
        assert waiting.result(WAIT_S) == ("cuda:1",)
    assert not other.is_held(manager.devices[1])
    other.close()


def test_a_free_device_is_taken_instead_of_another_runs(env, manager):  # D13
    other = DeviceLocks(env)
    other.try_acquire(manager.devices[0])
    with manager.lease("cuda", timeout_s=0) as lease:
        assert lease.names == ("cuda:1",)
        assert other.is_held(manager.devices[1])
    assert not other.is_held(manager.devices[1])
    other.close()


def test_a_card_that_falls_off_the_bus_is_passed_over(env):  # D12
    library = FakeNvml(FakeCard("GPU-a"), FakeCard("GPU-b"))
    manager = DeviceManager({"GPUPOOL_LOCK_DIR": env["GPUPOOL_LOCK_DIR"]}, library)
    assert names(manager) == ["cuda:0", "cuda:1"]
    library.cards[0].error = LOST
    with manager.lease("cuda", timeout_s=0) as lease:
        assert lease.names == ("cuda:1",)
    with pytest.raises(ImpossibleRequest, match="managed here: cuda:1"), manager.lease(2):
        pass
    manager.close()


# --- configuration


def test_configure_narrows_and_restores(manager):  # D3
    manager.configure(managed_devices=["cuda:1"])
    assert names(manager) == ["cuda:1"]
    with manager.lease("cuda") as lease:
        assert lease.names == ("cuda:1",)
    with pytest.raises(ImpossibleRequest, match="managed here: cuda:1"), manager.lease("cuda:0"):
        pass
    manager.configure(managed_devices=None)
    assert names(manager) == ["cuda:0", "cuda:1"]
    manager.configure(managed_devices="cuda:0,cpu:2")
    assert names(manager) == ["cuda:0", "cpu:0", "cpu:1"]


def test_none_restores_all_whatever_the_environment_says(env):  # D3
    manager = DeviceManager(env | {"GPUPOOL_MANAGED_DEVICES": "cuda:1"})
    assert names(manager) == ["cuda:1"]
    manager.configure(managed_devices=None)
    assert names(manager) == ["cuda:0", "cuda:1"]
    manager.close()


def test_unknown_devices_are_refused_and_nothing_changes(manager):  # D3
    with pytest.raises(ConfigError, match=r"configure\(\): .* names cuda:9"):
        manager.configure(managed_devices=["cuda:9"], offload_strategy="cpu")
    assert names(manager) == ["cuda:0", "cuda:1"]
    assert manager.settings.offload_strategy is OffloadStrategy.RESTART


def test_configuring_one_thing_leaves_the_others(manager):  # D4
    manager.configure(managed_devices=1)
    manager.configure(offload_strategy=OffloadStrategy.CPU)
    manager.configure(allow_multiple_per_device=True)
    assert names(manager) == ["cuda:0"]
    assert manager.settings.offload_strategy is OffloadStrategy.CPU
    assert manager.settings.allow_multiple_per_device
    assert manager.options.managed_devices == 1


def test_narrowing_while_leases_are_held(manager):  # D3
    with manager.lease("cuda:0", owner="job"):
        manager.configure(managed_devices=["cuda:1"])
        assert manager.allocation_map() == {"cuda:0": ["job"], "cuda:1": []}
    assert manager.allocation_map() == {"cuda:1": []}


def test_packing_leases_with_known_needs(manager):  # D9
    manager.configure(managed_devices=["cuda:0"], allow_multiple_per_device=True)
    with manager.lease(vram_mib=8000, timeout_s=0), manager.lease(vram_mib=8000, timeout_s=0):
        with pytest.raises(TimeoutError), manager.lease(vram_mib=8000, timeout_s=0):
            pass
        with pytest.raises(TimeoutError), manager.lease(timeout_s=0):
            pass


def test_warnings_mark_simulation(manager):  # D14
    assert "simulated" in manager.warnings[0]


# --- the listing


def test_listing_as_a_table(env, manager):  # D13 D14
    with manager.lease("cuda:0"):
        text = list_devices(False, env | {"GPUPOOL_MANAGED_DEVICES": "cuda:0,cpu:1"})
    header, first, second, cpu, note = text.splitlines()
    assert header.split()[0] == "device"
    assert first.startswith("cuda:0  simulated GPU (SIMULATED)  - / 16384")
    assert "gpupool (process " in first
    assert first.split()[-2:] == ["yes", "SIM-0"]
    assert second.split()[-3:] == ["-", "no", "SIM-1"]
    assert cpu.startswith("cpu:0")
    assert note.startswith("note: 2 simulated GPUs")


def test_listing_as_json(env):  # D12
    library = FakeNvml(FakeCard("GPU-a", mode=3), FakeCard("GPU-b"))
    library.cards[0].pids = {42: None}
    library.cards[0].used_mib = 7000
    real = {"GPUPOOL_LOCK_DIR": env["GPUPOOL_LOCK_DIR"]}
    rows = json.loads(list_devices(True, real, library))["devices"]
    assert rows[0] == {
        "device": "cuda:0",
        "index": 0,
        "name": "A100",
        "uuid": "GPU-a",
        "memory_used_mib": 7000,
        "memory_total_mib": 81920,
        "holder": "process 42",
        "managed": True,
        "simulated": False,
        "exclusive_process": True,
        "mig": False,
    }
    assert rows[1]["holder"] is None


def test_listing_leaves_no_lock_files(env, tmp_path):  # D13
    list_devices(False, env)
    assert list((tmp_path / "locks").iterdir()) == []


def test_listing_without_any_gpu_says_why():  # D12
    text = list_devices(False, {"CUDA_VISIBLE_DEVICES": ""})
    assert text.splitlines()[1].startswith("cpu:0")
    assert text.splitlines()[-1] == "note: no GPU: CUDA_VISIBLE_DEVICES='' hides every GPU"


def test_listing_shows_a_card_that_is_lost(env):  # D12
    library = FakeNvml(FakeCard("GPU-a"))
    alive = library.nvmlDeviceGetHandleByUUID

    def dies(uuid):
        library.cards[0].error = LOST
        return alive(uuid)

    library.nvmlDeviceGetHandleByUUID = dies
    text = list_devices(False, {"GPUPOOL_LOCK_DIR": env["GPUPOOL_LOCK_DIR"]}, library)
    assert "fell off the bus" in text


@pytest.mark.parametrize("options", [{"managed_devices": []}, {"offload_strategy": ""}])
def test_an_empty_option_is_malformed_and_not_a_missing_one(manager, options):  # D3
    before = manager.options
    with pytest.raises(ConfigError):
        manager.configure(**options)
    assert manager.options == before
