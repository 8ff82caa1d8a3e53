"""What libraries generate is told from a user's files by where it lies, not by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_gpupool.worker.generated import is_generated, is_kernel
from snakemake_executor_gpupool.worker.observed import Observer
from snakemake_executor_gpupool.worker.unchanged import is_local


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME", "CUDA_CACHE_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PYTORCH_KERNEL_CACHE_PATH", "HF_MODULES_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.setenv("LOGNAME", "one")
    monkeypatch.setenv("TMPDIR", "/scratch")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/data/torchinductor_runs/tool.py",
        "/data/.triton/helper.py",
        "/data/triton_ops/tool.py",
        "/data/triton_helper.py",
        "/data/transformers_modules/helper.py",
        "/scratch/torchinductor_demo/tool.py",
        "/home/one/.nvidia/table.txt",
        "/library/table.txt",
        "/lib_of_mine/table.txt",
        "/usr/library/table.txt",
        "/run/media/one/disk/table.txt",
    ],
)
def test_a_users_own_files_count_whatever_they_are_called(path: str) -> None:  # C2 G4
    assert is_local(path) and not is_generated(path)
    assert not Observer().is_ignored(path)


@pytest.mark.parametrize(
    "path",
    [
        "/scratch/torchinductor_one/ab/cab7.py",
        "/home/one/.triton/cache/D2N/launcher.so",
        "/home/one/.cache/torch/kernels/a",
        "/home/one/.nv/ComputeCache/index",
    ],
)
def test_compiled_kernels_do_not(path: str) -> None:
    assert is_generated(path) and Observer().is_ignored(path)


def test_where_a_library_is_told_to_put_them_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_generated("/home/one/.cache/huggingface/modules/transformers_modules/m/model.py")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/fast/kernels")
    assert is_kernel("/fast/kernels/ab/cab7.py") and not is_kernel("/fast/kernels_of_mine/a.py")


def test_a_place_that_a_process_works_in_has_no_kernels_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # C2 G4
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert not is_kernel(str(tmp_path / "table.txt"))


@pytest.mark.parametrize("path", ["/lib/x.so", "/usr/lib/x.so", "/usr/lib64", "/etc/hosts", "/run"])
def test_files_of_the_machine_do_not_count(path: str) -> None:
    assert Observer().is_ignored(path)
