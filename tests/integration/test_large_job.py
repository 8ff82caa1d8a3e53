"""One job of many items over real processes, more than may be work at a time (P5, P6, W2)."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from snakemake_executor_gpupool import ToolPool
from snakemake_executor_gpupool.errors import ContractError, JobFailed
from snakemake_executor_gpupool.scheduling import packed
from tests.waiting import eventually

TEXTUAL = f"{Path(__file__).parent.parent / 'tools' / 'textual.py'}:Textual"
ITEMS = 5_000


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Every other word is one of an earlier line."""
    words = [f"w{n if n % 2 else n // 4}" for n in range(ITEMS)]
    (tmp_path / "in.txt").write_text("".join(f"{word}\n" for word in words))
    return words


def test_a_large_job_is_written_whole_and_in_its_order(tmp_path: Path, words: list[str]) -> None:
    output = tmp_path / "out.txt"
    with mock.patch.object(packed, "MAX_OPEN", 1200), ToolPool(devices="cpu:1") as pool:
        pool.run_job(TEXTUAL, input=[str(tmp_path / "in.txt")], output=[str(output)])
        assert pool.run(TEXTUAL, words[::-1]) == [f"{word.upper()}.plain" for word in words[::-1]]
        summary = pool.summary
    assert output.read_text().splitlines() == [f"{word.upper()}.plain" for word in words]
    assert (summary["items"], summary["items_unique"]) == (2 * ITEMS, len(set(words)))


def test_a_bad_item_fails_a_large_job_which_leaves_nothing(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "in.txt").write_text("\n".join([*words[:4000], "bad", *words[4000:]]) + "\n")
    with mock.patch.object(packed, "MAX_OPEN", 1200), ToolPool(devices="cpu:1") as pool:
        output = tmp_path / "out" / "out.txt"
        with pytest.raises(JobFailed, match="item bad: ValueError: this line is bad"):
            pool.run_job(TEXTUAL, input=[str(tmp_path / "in.txt")], output=[str(output)])
        assert pool.run(TEXTUAL, words[:2]) == ["W0.plain", "W1.plain"]
    assert not output.parent.exists() or not list(output.parent.iterdir())


def test_a_call_of_which_a_late_item_cannot_be_sent_ends_and_leaves_the_pool_at_work() -> None:
    """Its first items are computed by then: nobody waits for them any more."""
    words: list[object] = [f"w{number}" for number in range(ITEMS)]
    with ToolPool(devices="cpu:1") as pool:
        with pytest.raises(ContractError, match=f"item #{ITEMS} "):
            pool.run(TEXTUAL, [*words, lambda: 0])
        assert pool.run(TEXTUAL, ["w4999", "new"]) == ["W4999.plain", "NEW.plain"]
        assert eventually(lambda: not pool._opened()._inbox.ask(lambda: in_flight(pool)))


def in_flight(pool: ToolPool) -> int:
    """Return how many calls a pool has; on its loop's thread."""
    return len(pool._opened()._loop.scheduler.jobs)
