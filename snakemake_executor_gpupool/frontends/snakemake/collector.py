"""Python's garbage collector looks less often while Snakemake makes and works off a graph of jobs.

It looks through all objects again whenever their number has grown by a quarter, and next to nothing
of a graph is garbage: of the processor time of 5,000 jobs that do nothing a tenth went that way.
What a large graph is made of is left alone from its first jobs on, until the end.

What was imported before Snakemake reads the workflow lives as long as the process: half a million
objects, through which Python's last looks of all would go, a quarter of a second of each run. They
are left alone for good. After a large graph they are not: Python can only forget all exceptions.
"""

from __future__ import annotations

import atexit
import gc

#: So many new objects there are between two looks at the new ones; 700 are Python's own choice.
#: Older ones are looked at in proportion.
BETWEEN_LOOKS = 20_000
#: While a large graph is executed, those that have outlived one look are looked at again after so
#: many more looks; 10 are Python's own choice. Nearly all of them are what Snakemake keeps of jobs.
BEFORE_THE_NEXT = 100
#: A graph of so many jobs is large.
LARGE_GRAPH = 1000


class Collector:
    """The collector of this process; Snakemake's main thread calls.

    Every step may be called again, and without those before it.
    """

    def __init__(self) -> None:
        self._usual: tuple[int, int, int] | None = None
        self._is_holding = False

    def relax(self) -> None:
        """Look less often from now on. Somebody else's choice, if rarer or never, stays."""
        first, *older = usual = gc.get_threshold()
        if self._usual is None and 0 < first < BETWEEN_LOOKS:
            atexit.register(self.over)
            self._usual = usual
            gc.set_threshold(BETWEEN_LOOKS, *older)

    def pass_over_imports(self) -> None:
        """Leave what there is alone for good: nothing of a workflow is among it.

        Only for a program that runs one workflow and ends.
        """
        gc.freeze()

    def hold(self, jobs: int) -> None:
        """Leave what there is alone, if it is the graph of many jobs.

        Only the first time, since garbage would be held as well.
        """
        if jobs >= LARGE_GRAPH and self._usual is not None and not self._is_holding:
            self._is_holding = True
            gc.freeze()
            first, second, third = gc.get_threshold()
            if first == BETWEEN_LOOKS:
                gc.set_threshold(first, max(second, BEFORE_THE_NEXT), third)

    def over(self) -> None:
        """Look at everything again, and as often as before."""
        if self._is_holding:
            self._is_holding = False
            # Not left to the end of the process: what is never looked at is never closed.
            gc.unfreeze()
        if self._usual is not None:
            if gc.get_threshold()[0] == BETWEEN_LOOKS:
                gc.set_threshold(*self._usual)
            self._usual = None
            atexit.unregister(self.over)


COLLECTOR = Collector()
