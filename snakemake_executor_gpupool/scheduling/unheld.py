"""Results that no job holds any longer, kept within a bound for items yet to come. Pure.

What a job lets go of is one entry, however many results that are: an item notes its entry, and is
in no other one, though an older entry may still list it. A table by keys would take a hundred bytes
of each item, and most of the time that letting go of it takes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.scheduling.settled import SettledItems
from snakemake_executor_gpupool.wire.frames import blob_size, blobs_size

if TYPE_CHECKING:
    from snakemake_executor_gpupool.scheduling.results import WorkItem

#: Entries are tidied up once they list so many items more than twice those that are there.
MANY_OUTDATED = 4096


class Released:
    """Items whose results were let go of together; the last one was unused for longest."""

    __slots__ = ("items",)

    def __init__(self, items: list[WorkItem]) -> None:
        self.items = items


class UnheldResults:
    """The results of items, and pieces of large jobs, which go whole; the longest unused first.

    Parameters
    ----------
    most_bytes, most_items
        How much there may be; what is more, :meth:`take_excess` hands out.

    Attributes
    ----------
    size_bytes, count
        How many bytes there are, of how many items.
    """

    def __init__(self, most_bytes: int, most_items: int) -> None:
        self._most_bytes = most_bytes
        self._most_items = most_items
        self.size_bytes = self.count = 0
        self._entries: OrderedDict[Released | SettledItems, None] = OrderedDict()
        #: How many items are here by themselves, and how many are listed, some more than once.
        self._single = self._listed = 0

    def __iter__(self) -> Iterator[WorkItem | SettledItems]:
        for entry in self._entries:
            if isinstance(entry, SettledItems):
                yield entry
            else:
                yield from (item for item in reversed(entry.items) if item.released is entry)

    def add(self, items: Sequence[WorkItem]) -> None:
        """Take in items with results, or note that those that are here were used now."""
        if not items:
            return
        new = [item.result for item in items if item.released is None and item.result is not None]
        entry = Released([*reversed(items)])
        for item in items:
            item.released = entry
        self._entries[entry] = None
        self.size_bytes += blobs_size(new)
        self.count += len(new)
        self._single += len(new)
        self._listed += len(items)
        if self._listed > 2 * self._single + MANY_OUTDATED:
            self._tidy_up()

    def add_piece(self, piece: SettledItems) -> None:
        """Take in a piece."""
        self._entries[piece] = None
        self.size_bytes += piece.size_bytes
        self.count += len(piece)

    def used(self, piece: SettledItems) -> None:
        """Note that a piece was used now, if it is here."""
        if piece in self._entries:
            self._entries.move_to_end(piece)

    def take_excess(self) -> WorkItem | SettledItems | None:
        """Take out what was unused for longest; None: there is no more than may be."""
        while self._entries and self._is_full:
            entry = next(iter(self._entries))
            if isinstance(entry, SettledItems):
                self._remove_piece(entry)
                return entry
            while entry.items:
                item = entry.items.pop()
                self._listed -= 1
                if item.released is entry:
                    self._remove(item)
                    return item
            del self._entries[entry]
        return None

    def take_all(
        self, are_meant: Callable[[WorkItem | SettledItems], bool]
    ) -> list[WorkItem | SettledItems]:
        """Take out what is meant, whatever the bound."""
        taken = [each for each in self if are_meant(each)]
        for each in taken:
            if isinstance(each, SettledItems):
                self._remove_piece(each)
            else:
                self._remove(each)
        self._tidy_up()
        return taken

    @property
    def _is_full(self) -> bool:
        return self.size_bytes > self._most_bytes or self.count > self._most_items

    def _remove(self, item: WorkItem) -> None:
        item.released = None
        self.size_bytes -= blob_size(item.result)
        self.count -= 1
        self._single -= 1

    def _remove_piece(self, piece: SettledItems) -> None:
        del self._entries[piece]
        self.size_bytes -= piece.size_bytes
        self.count -= len(piece)

    def _tidy_up(self) -> None:
        """Forget what entries list that is not theirs any longer."""
        entries = [each for each in self._entries if isinstance(each, Released)]
        for entry in entries:
            entry.items = [item for item in entry.items if item.released is entry]
            if not entry.items:
                del self._entries[entry]
        self._listed = self._single
