"""Results that no job holds: the longest unused go first, and what is used again goes last."""

from __future__ import annotations

import pytest

from snakemake_executor_gpupool.scheduling import unheld
from snakemake_executor_gpupool.scheduling.results import WorkItem
from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.scheduling.unheld import UnheldResults


def item(name: str, size_bytes: int = 10) -> WorkItem:
    return WorkItem(name, "g", 1.0, 1, b"", name, (0, 1), 0, result=b"." * size_bytes)


def piece(name: str) -> SettledItems:
    return SettledItems([name], [b"." * 10], None, [name], [1], [1], [0.0])


def names(kept: UnheldResults) -> list[str]:
    return [each.name if isinstance(each, WorkItem) else each.names()[0] for each in kept]


def taken(kept: UnheldResults) -> list[str]:
    found = []
    while (each := kept.take_excess()) is not None:
        found.append(each.name if isinstance(each, WorkItem) else each.names()[0])
    return found


def test_the_longest_unused_go_first_one_by_one() -> None:
    kept = UnheldResults(45, 100)
    a, b, c, d = map(item, "abcd")
    kept.add([a, b])
    kept.add_piece(piece("p"))
    kept.add([c, d])
    assert (kept.size_bytes, kept.count) == (50, 5) and names(kept) == ["a", "b", "p", "c", "d"]
    assert taken(kept) == ["a"] and names(kept) == ["b", "p", "c", "d"]
    assert a.released is None and b.released is not None
    kept.add([item("e"), item("f")])
    assert taken(kept) == ["b", "p"] and (kept.size_bytes, kept.count) == (40, 4)


def test_what_was_used_again_goes_last_and_counts_once() -> None:
    kept = UnheldResults(1000, 3)
    a, b, c = map(item, "abc")
    first = piece("p")
    kept.add_piece(first)
    kept.add([a, b])
    kept.add([a])
    kept.used(first)
    kept.used(piece("not here"))
    assert names(kept) == ["b", "a", "p"] and kept.count == 3
    kept.add([c])
    assert taken(kept) == ["b"], "as many as may be, too"


def test_some_may_go_whatever_the_bound() -> None:
    kept = UnheldResults(1000, 1000)
    items = [item(name) for name in "abab"]
    kept.add(items)
    kept.add_piece(piece("p"))
    gone = kept.take_all(lambda each: isinstance(each, SettledItems) or each.key == "a")
    assert gone[:2] == [items[0], items[2]] and len(gone) == 3
    assert names(kept) == ["b", "b"] and (kept.size_bytes, kept.count) == (20, 2)
    assert items[0].released is None


def test_what_is_used_again_and_again_is_not_listed_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unheld, "MANY_OUTDATED", 4)
    kept = UnheldResults(1000, 1000)
    items = [item(name) for name in "abc"]
    for _ in range(50):
        kept.add(items)
    listed = [
        each
        for entry in kept._entries
        if isinstance(entry, unheld.Released)
        for each in entry.items
    ]
    assert len(listed) <= 2 * 3 + 4 + 3 and names(kept) == ["a", "b", "c"]
    assert (kept.size_bytes, kept.count) == (30, 3)
