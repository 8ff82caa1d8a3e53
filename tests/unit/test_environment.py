"""Where device settings come from, and what a child process is shown."""

import os
from dataclasses import replace

import pytest

from snakemake_executor_gpupool.devices.device import Device, OffloadStrategy, cpu_slot
from snakemake_executor_gpupool.devices.process_environment import (
    hide_devices,
    own_environment,
    show_devices,
)
from snakemake_executor_gpupool.devices.settings import (
    DeviceOptions,
    DeviceSettings,
    managed_text,
    resolve,
    visible_env,
)
from snakemake_executor_gpupool.devices.visibility import CONTAINER_PREFIXES, env_of_parent
from snakemake_executor_gpupool.errors import ConfigError, DeviceStringError

RESTART, CPU = OffloadStrategy.RESTART, OffloadStrategy.CPU


def card(index, visible_id=None, **fields):
    return Device(f"cuda:{index}", "cuda", index, visible_id=visible_id or str(index), **fields)


def test_defaults():  # D4
    assert resolve({}) == DeviceSettings("auto", RESTART, False, "the default")


def test_each_place_is_overridden_by_the_one_before():  # D4
    env = {}
    assert resolve(env).managed == "auto"
    env["BIO_TOOLS_MANAGED_DEVICES"] = "cuda:1"
    assert resolve(env).managed == "cuda:1"
    env["GPUPOOL_MANAGED_DEVICES"] = "cuda:2"
    assert resolve(env).managed == "cuda:2"
    configured = DeviceOptions("cuda:3")
    assert resolve(env, configured=configured).managed == "cuda:3"
    assert resolve(env, "cuda:4", configured=configured).managed == "cuda:4"


def test_each_setting_has_its_own_order():  # D4
    env = {
        "GPUPOOL_OFFLOAD_STRATEGY": "cpu",
        "BIO_TOOLS_OFFLOAD_STRATEGY": "restart",
        "BIO_TOOLS_ALLOW_MULTI_DEVICE": "true",
    }
    settings = resolve(env, "2")
    assert settings == DeviceSettings("2", CPU, True, "the command line")
    settings = resolve(env, configured=DeviceOptions(allow_multiple=False))
    assert not settings.allow_multiple_per_device
    assert resolve(env, offload_strategy="restart").offload_strategy is RESTART
    assert resolve(env, allow_multiple=False).allow_multiple_per_device is False


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("on", True), ("0", False), ("no", False), ("", False)],
)
def test_booleans(text, value):  # D4
    assert resolve({"GPUPOOL_ALLOW_MULTI_DEVICE": text}).allow_multiple_per_device is value


def test_an_empty_variable_says_nothing():  # D4
    env = {"GPUPOOL_MANAGED_DEVICES": " ", "BIO_TOOLS_MANAGED_DEVICES": "cuda:1"}
    assert resolve(env).managed == "cuda:1"


def test_bare_numbers_are_indices_only_in_the_bio_tools_variable():  # D4
    assert resolve({"BIO_TOOLS_MANAGED_DEVICES": "0, 1"}).managed == "cuda:0, 1"
    assert resolve({"BIO_TOOLS_MANAGED_DEVICES": "1"}).managed == "cuda:1"
    assert resolve({"GPUPOOL_MANAGED_DEVICES": "1"}).managed == "1"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"GPUPOOL_OFFLOAD_STRATEGY": "disk"}, "GPUPOOL_OFFLOAD_STRATEGY: unknown offload"),
        ({"BIO_TOOLS_ALLOW_MULTI_DEVICE": "maybe"}, "BIO_TOOLS_ALLOW_MULTI_DEVICE: 'maybe'"),
    ],
)
def test_malformed_variables_are_named(env, message):  # D4
    with pytest.raises(ConfigError, match=message):
        resolve(env)


def test_what_is_overridden_is_not_even_read():  # D4
    assert resolve({"GPUPOOL_OFFLOAD_STRATEGY": "disk"}, offload_strategy="cpu")


def test_choosing_says_where_a_bad_value_came_from():  # D3 D4
    found = [card(0)]
    settings = resolve({"GPUPOOL_MANAGED_DEVICES": "cuda:7"})
    with pytest.raises(ConfigError, match="GPUPOOL_MANAGED_DEVICES: 'cuda:7' names cuda:7"):
        settings.choose(found)
    with pytest.raises(DeviceStringError, match=r"the command line: .* is not understood"):
        resolve({}, "gpu0").choose(found)
    assert resolve({}).choose(found) == (card(0),)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["cuda:0", "cuda:1"], "cuda:0,cuda:1"),
        ([0, 1], "cuda:0,cuda:1"),
        (["cuda:0", "cpu:2"], "cuda:0,cpu:2"),
        (2, "2"),
        ("auto", "auto"),
    ],
)
def test_managed_devices_from_python(value, text):  # D3
    assert managed_text(value) == text


def test_a_child_sees_exactly_its_devices():  # S7
    env = visible_env([card(0, "3"), card(1, "GPU-abc")])
    assert env["CUDA_VISIBLE_DEVICES"] == "3,GPU-abc"
    assert (env["HIP_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == ("-1", ""), "no AMD card"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_child_without_gpus_sees_none():  # D3 S7
    for devices in ([], [cpu_slot(0)]):
        env = visible_env(devices)
        assert plain(env) == {
            "CUDA_VISIBLE_DEVICES": "",
            "HIP_VISIBLE_DEVICES": "-1",
            "ROCR_VISIBLE_DEVICES": "",
            "NVIDIA_VISIBLE_DEVICES": "void",
            "GPUPOOL_LEASE": "",
            "GPUPOOL_MANAGED_DEVICES": "",
            "BIO_TOOLS_MANAGED_DEVICES": "",
        }


def plain(env):
    """The variables of a process itself, without those that set them in a container."""
    return {name: v for name, v in env.items() if not name.startswith(CONTAINER_PREFIXES)}


@pytest.mark.parametrize("prefix", ["APPTAINERENV_", "SINGULARITYENV_"])
def test_a_container_shows_what_the_process_around_it_sees(prefix):  # S7
    for devices in ([], [cpu_slot(0)], [card(1, "3")], [card(2, simulated=True)]):
        env = visible_env(devices)
        for name in set(plain(env)) - {"GPUPOOL_LEASE", "APPTAINER_NV", "SINGULARITY_NV"}:
            assert env[f"{prefix}{name}"] == env[name], "--cleanenv would keep it out"
        # Set where the lease is granted, and must not be hidden by what stands here.
        assert f"{prefix}GPUPOOL_LEASE" not in env
        assert ("APPTAINER_NV" in env) == (devices not in ([], [cpu_slot(0)]))
    amd = Device("rocm:1", "rocm", 1, visible_id="1")
    assert f"{prefix}ROCR_VISIBLE_DEVICES" not in visible_env([amd]), "it stays as the user has it"
    assert f"{prefix}ROCR_VISIBLE_DEVICES" not in env_of_parent([amd])
    assert visible_env([amd])["APPTAINER_ROCM"] == "1"
    assert env_of_parent([card(1)])[f"{prefix}CUDA_VISIBLE_DEVICES"] == ""


def test_container_runtimes_are_told_the_cards_themselves():  # S7
    env = visible_env([replace(card(1), uuid="GPU-1b"), replace(card(0), uuid="GPU-0a")])
    assert env["NVIDIA_VISIBLE_DEVICES"] == "GPU-1b,GPU-0a"


def test_a_process_hides_its_devices_from_what_it_starts(monkeypatch):  # D3 S7
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("GPUPOOL_MANAGED_DEVICES", "cuda:1")
    monkeypatch.delenv("ROCR_VISIBLE_DEVICES", raising=False)
    before = dict(os.environ)
    hide_devices()
    hide_devices()
    try:
        assert {name: os.environ[name] for name in visible_env(())} == visible_env(())
        assert own_environment() == before
        show_devices()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    finally:
        show_devices()
    assert dict(os.environ) == own_environment() == before
    show_devices()  # once too often changes nothing
    assert dict(os.environ) == before


def test_a_child_on_simulated_devices_knows_it():  # D14
    env = visible_env([card(2, simulated=True)])
    assert env["CUDA_VISIBLE_DEVICES"] == "2"
    assert env["GPUPOOL_SIMULATED"] == "1"
    assert "GPUPOOL_SIMULATED" not in visible_env([card(2)])
