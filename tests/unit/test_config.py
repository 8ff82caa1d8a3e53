"""Options and environment become one configuration (D3, D4, D12, D14)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snakemake_executor_gpupool import DeviceManager, OffloadStrategy
from snakemake_executor_gpupool.devices.cores import default_cpu_workers
from snakemake_executor_gpupool.devices.device import Device, cpu_slot
from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.runtime.config import Machines, build_config
from snakemake_executor_gpupool.tool_api.mode import Mode
from snakemake_executor_gpupool.wire.machine import processor

FOUR = {"GPUPOOL_SIMULATE": "4x16GiB"}


@pytest.fixture(autouse=True)
def fresh_manager() -> Iterator[None]:
    DeviceManager.reset_instance()
    yield
    DeviceManager.reset_instance()


def names(tmp_path: Path, env: dict[str, str], **options: object) -> list[str]:
    config = build_config(run_root=tmp_path, cores=8, env=env, **options)  # type: ignore[arg-type]
    return [device.name for device in config.devices]


def test_the_order_of_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D4
    monkeypatch.setenv("GPUPOOL_SIMULATE", "4x16GiB")
    env = {**FOUR, "BIO_TOOLS_MANAGED_DEVICES": "cuda:3"}
    assert names(tmp_path, env)[0] == "cuda:3"
    env["GPUPOOL_MANAGED_DEVICES"] = "cuda:2"
    assert names(tmp_path, env)[0] == "cuda:2"
    DeviceManager.get_instance().configure(managed_devices=["cuda:1"])
    assert names(tmp_path, env)[0] == "cuda:1"
    assert names(tmp_path, env, managed_devices="cuda:0")[0] == "cuda:0"


def test_simulated_devices_are_marked_and_share_the_cores(tmp_path: Path) -> None:  # D14
    config = build_config(run_root=tmp_path, cores=8, env=FOUR)
    assert [device.name for device in config.gpus] == [f"cuda:{n}" for n in range(4)]
    assert all(device.simulated for device in config.gpus)
    assert config.worker_threads == 2
    assert any("SIMULATED" in warning for warning in config.warnings)


def test_without_a_gpu_there_are_cpu_workers_and_one_warning(tmp_path: Path) -> None:  # D12
    config = build_config(run_root=tmp_path, cores=8, env={"CUDA_VISIBLE_DEVICES": ""})
    assert {device.kind for device in config.devices} == {"cpu"}
    assert len(config.devices) == default_cpu_workers(8)
    assert sum("no GPU" in warning for warning in config.warnings) == 1


def test_strategy_and_packing_come_from_the_environment(tmp_path: Path) -> None:  # D4
    env = {**FOUR, "GPUPOOL_OFFLOAD_STRATEGY": "cpu", "GPUPOOL_ALLOW_MULTI_DEVICE": "1"}
    settings = build_config(run_root=tmp_path, cores=8, env=env).device_settings
    assert settings.offload_strategy is OffloadStrategy.CPU
    assert settings.allow_multiple_per_device


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:  # D3
    with pytest.raises(ConfigError, match="cuda:7"):
        names(tmp_path, FOUR, managed_devices="cuda:7")


def mode(tmp_path: Path, env: dict[str, str], *models: str, **options: object) -> Mode:
    cards = tuple(Device(f"cuda:{n}", "cuda", n, model_name=m) for n, m in enumerate(models))
    machines = Machines((*cards, cpu_slot(0)))
    return build_config(run_root=tmp_path, env=env, find=lambda _: machines, **options).mode  # type: ignore[arg-type]


def test_options_go_before_the_environment_in_how_a_run_computes(tmp_path: Path) -> None:  # R5
    env = {"GPUPOOL_REPRODUCIBLE": "1", "GPUPOOL_SEED": "5"}
    assert mode(tmp_path, {}) == Mode()
    assert mode(tmp_path, env).is_reproducible and mode(tmp_path, env).seed == 5
    assert mode(tmp_path, env, reproducible=False, seed=7) == Mode(seed=7)
    assert mode(tmp_path, {}, reproducible=True).is_reproducible
    with pytest.raises(ConfigError, match="GPUPOOL_REPRODUCIBLE"):
        mode(tmp_path, {"GPUPOOL_REPRODUCIBLE": "yes"})


def test_a_reproducible_run_has_cards_of_one_model(tmp_path: Path) -> None:  # R5
    same = mode(tmp_path, {}, "A100", "A100", reproducible=True)
    assert "A100" in same.kind and same.kind.endswith(processor())
    assert mode(tmp_path, {}, "H100", reproducible=True).kind != same.kind
    with pytest.raises(ConfigError, match=r"cuda: A100, cuda: H100.*--gpupool-devices"):
        mode(tmp_path, {}, "A100", "H100", reproducible=True)
    assert mode(tmp_path, {}, "A100", "H100") == Mode()
