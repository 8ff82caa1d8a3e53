"""The measured profile: kept, merged, and ignored where it is damaged (P2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakemake_executor_gpupool.records.profile import MOST_ENTRIES, Figures, Profile, profile_path
from snakemake_executor_gpupool.scheduling.models.memory_use import MemoryUse
from tests.unit.simulation import FakeItem, World


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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "entries": [1]}']
)
def test_a_damaged_profile_is_ignored_with_a_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    profile = Profile(path)
    assert profile["a"] == Figures() and str(path) in str(profile.warning)
    profile.note("a", Figures(load_s=1.0))
    profile.save()
    assert Profile(path)["a"] == Figures(load_s=1.0)


def test_figures_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    entry = {"load_s": -1, "s_per_cost": "fast", "peak_mib": 5, "unknown": 3}
    path.write_text(json.dumps({"version": 1, "entries": {"a": entry}}))
    assert Profile(path)["a"] == Figures(peak_mib=5)


def test_the_file_is_bounded(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile.json")
    for number in range(MOST_ENTRIES + 5):
        profile.note(str(number), Figures(load_s=1.0))
    profile.save()
    again = Profile(tmp_path / "profile.json")
    assert again["0"] == Figures() and again[str(MOST_ENTRIES + 4)] != Figures()


def test_where_it_lies() -> None:
    assert profile_path({"GPUPOOL_PROFILE": "off"}) is None
    assert profile_path({"GPUPOOL_PROFILE": "/x/p.json"}) == Path("/x/p.json")
    assert profile_path({"XDG_CACHE_HOME": "/c"}) == Path("/c/gpupool/profile.json")


def test_the_memory_need_grows_with_the_batches_still_to_come() -> None:  # D9
    assert MemoryUse().need_mib is None
    small = MemoryUse().loaded(2000, full_tokens=4096).computed(2100, tokens=1024)
    assert small.need_mib == 2400
    full = small.computed(2350, tokens=4096)
    assert full.need_mib == 2350
    assert MemoryUse().loaded(None, 64).computed(None, 64).need_mib is None, "a CPU has no figure"


def two_models(gpu_mib: int, **figures: int) -> World:
    """Two models with the same measured memory need, on one card that may be shared."""
    world = World(gpus=1, gpu_mib=gpu_mib, packing=True)
    world.scheduler._recall = lambda key: Figures(**figures)
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
        world = World(gpus=4, load_s=100.0, budget_tokens=1)
        world.scheduler._recall = lambda key: figures
        world.submit(1, [FakeItem(f"i{n}") for n in range(40)])
        world.run()
        return world.scheduler.dispatch.counts["model_loads"]

    assert loads(Figures()) == 4, "not knowing the load time, it guesses that many items pay"
    assert loads(Figures(load_s=1000.0, s_per_cost=1.0)) == 1
