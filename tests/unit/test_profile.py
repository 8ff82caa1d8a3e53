"""The measured profile: kept, merged, and ignored where it is damaged (P2)."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snakemake_executor_gpupool.records import profile as profile_module
from snakemake_executor_gpupool.records.profile import MAX_ENTRIES, Profile, profile_path
from snakemake_executor_gpupool.scheduling.models.figures import Figures
from snakemake_executor_gpupool.scheduling.models.memory_use import MemoryUse
from snakemake_executor_gpupool.testing.simulation import World
from snakemake_executor_gpupool.testing.world_options import FakeItem

ROOT = Path(__file__).resolve().parents[2]


def test_figures_survive_and_merge(tmp_path: Path) -> None:
    path = tmp_path / "deep/profile.json"
    one, two = Profile(path), Profile(path)
    one.note("a", Figures(load_s=2.0))
    two.note("a", Figures(s_per_cost=0.5))
    two.note("b", Figures(peak_mib=100))
    one.save()
    two.save()
    again = Profile(path)
    assert again["a"] == Figures(load_s=2.0, s_per_cost=0.5)
    assert again["b"] == Figures(peak_mib=100)
    assert again["c"] == Figures()


DEEP = '{"version":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "entries": [1]}', DEEP, "1" * 9999]
)
def test_a_damaged_profile_is_ignored_with_a_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    profile = Profile(path)
    assert profile["a"] == Figures() and str(path) in str(profile.warning)
    profile.note("a", Figures(load_s=1.0))
    profile.save()
    assert Profile(path)["a"] == Figures(load_s=1.0)


@pytest.mark.parametrize("what", ["a pipe", "a directory", "a device", "bytes", "large"])
def test_what_is_no_profile_is_ignored_with_a_warning(tmp_path: Path, what: str) -> None:
    path = tmp_path / "profile.json"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a directory":
        path.mkdir()
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "large":
        path.touch()
        os.truncate(path, 2**40)
    else:
        path.write_bytes(b"\xff\xfe{}")
    before = path.lstat()
    profile = Profile(path)
    assert profile["a"] == Figures() and str(path) in str(profile.warning)
    profile.note("a", Figures(load_s=1.0))
    profile.save()
    if what.startswith("a "):
        assert path.lstat().st_ino == before.st_ino, "what is no file is not replaced by one"
    else:
        assert Profile(path)["a"] == Figures(load_s=1.0)


def test_a_link_to_a_profile_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.symlink_to("kept/elsewhere.json")
    profile = Profile(path)
    profile.note("a", Figures(load_s=1.0))
    profile.save()
    assert path.is_symlink() and (tmp_path / "kept/elsewhere.json").is_file()
    assert Profile(path)["a"] == Figures(load_s=1.0)


def test_a_directory_that_cannot_be_read_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    path = tmp_path / "closed/gpupool/profile.json"
    code = (
        "import os, sys, pathlib\n"
        "from snakemake_executor_gpupool.records.profile import Profile\n"
        "from snakemake_executor_gpupool.scheduling.models.figures import Figures\n"
        "os.chmod(sys.argv[1], 0)\n"
        "if os.geteuid() == 0: os.setresuid(12345, 12345, 12345)\n"
        "profile = Profile(pathlib.Path(sys.argv[2]))\n"
        "profile.note('a', Figures(load_s=1.0))\n"
        "profile.save()\n"
        "print(profile.warning)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "closed"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    (tmp_path / "closed").chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stdout


def test_a_lock_that_another_process_holds_costs_the_figures_and_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "LOCK_PATIENCE_S", 0.05)
    path = tmp_path / "profile.json"
    Profile(path).save()
    one, two = Profile(path), Profile(path)
    with (tmp_path / "profile.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        one.note("a", Figures(load_s=1.0))
        started_s = time.monotonic()
        one.save()
        assert time.monotonic() - started_s < 5
    assert not path.exists()
    two.note("a", Figures(load_s=1.0))
    two.save()
    assert Profile(path)["a"] == Figures(load_s=1.0)


def test_a_full_disk_costs_the_figures_and_leaves_nothing(small_disk: Path) -> None:
    path = small_disk / "profile.json"
    profile = Profile(path)
    profile.note("a", Figures(load_s=1.0))
    profile.save()
    before = path.read_bytes()
    (small_disk / "filler").write_bytes(b"x" * 120 * 1024)
    for number in range(2000):
        profile.note(f"{number}", Figures(load_s=1.0))
    profile.save()
    assert path.read_bytes() == before
    assert {each.name for each in small_disk.iterdir()} == {
        "profile.json",
        "profile.lock",
        "filler",
    }


def test_figures_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    entry = {"load_s": -1, "s_per_cost": "fast", "peak_mib": 4.2, "unknown": 3, "fixed_s": True}
    entry |= {"weights_mib": 1e300, "peak_tokens": 1e-300}
    path.write_text(json.dumps({"version": 1, "entries": {"a": entry}}))
    assert Profile(path)["a"] == Figures(peak_mib=5)


def test_the_file_is_bounded(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile.json")
    for number in range(MAX_ENTRIES + 5):
        profile.note(str(number), Figures(load_s=1.0))
    profile.save()
    again = Profile(tmp_path / "profile.json")
    assert again["0"] == Figures() and again[str(MAX_ENTRIES + 4)] != Figures()


def test_where_it_lies() -> None:
    assert profile_path({"GPUPOOL_PROFILE": "off"}) is None
    assert profile_path({"GPUPOOL_PROFILE": "/x/p.json"}) == Path("/x/p.json")
    assert profile_path({"XDG_CACHE_HOME": "/c"}) == Path("/c/gpupool/profile.json")


def test_without_a_home_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert profile_path({}) is None
    assert profile_path({"GPUPOOL_PROFILE": "/x/p.json"}) == Path("/x/p.json")


def test_the_memory_need_grows_with_the_batches_still_to_come() -> None:  # D9
    assert MemoryUse().need_mib is None
    small = MemoryUse().loaded(2000, full_tokens=4096).computed(2100, tokens=1024)
    assert small.need_mib == 2400
    full = small.computed(2350, tokens=4096)
    assert full.need_mib == 2350
    assert MemoryUse().loaded(None, 64).computed(None, 64).need_mib is None, "a CPU has no figure"


def two_models(gpu_mib: int, **figures: int) -> World:
    """Two models with the same measured memory need, on one card that may be shared."""
    known = dict.fromkeys(("one", "two"), Figures(**figures))
    world = World(gpus=1, gpu_mib=gpu_mib, packing=True, figures=known)
    world.submit(1, ["a"], model="one")
    world.run()
    world.submit(2, ["b"], model="two")
    world.run()
    return world


def test_models_are_packed_by_what_an_earlier_run_measured() -> None:  # D9
    assert two_models(16_000, peak_mib=7000).scheduler.dispatch.counts["evictions"] == 0
    assert two_models(16_000, peak_mib=9000).scheduler.dispatch.counts["evictions"] == 1


def test_a_measured_need_never_makes_a_request_impossible() -> None:  # D9
    world = two_models(16_000, peak_mib=15_900, weights_mib=9000, peak_tokens=10, full_tokens=20)
    assert world.reports == {1: None, 2: None}


def test_a_second_run_plans_by_what_the_first_measured() -> None:  # P2 P4
    def loads(figures: Figures) -> int:
        world = World(gpus=4, load_s=100.0, budget_tokens=1, figures={"m": figures})
        world.submit(1, [FakeItem(f"i{n}") for n in range(40)])
        world.run()
        return world.scheduler.dispatch.counts["model_loads"]

    assert loads(Figures()) == 4, "not knowing the load time, it guesses that many items pay"
    assert loads(Figures(load_s=1000.0, s_per_cost=1.0)) == 1
