"""What the processes of a rival take while it runs, and how far its log has come meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOK_S = 0.25
#: So many looks lie between two at memory and descriptors, which take longer.
THOROUGH = 4
TICKS = os.sysconf("SC_CLK_TCK")
PAGES_PER_MIB = 2**20 // os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class LogCount:
    """How often a text stands in the log."""

    text: bytes


@dataclass
class Use:
    """The most that the processes of one kind had at one moment, each figure by itself."""

    processes: int = 0
    memory_mib: float = 0.0
    descriptors: int = 0
    threads: int = 0

    def take(self, other: Use) -> None:
        """Keep what is more."""
        for name, value in vars(other).items():
            setattr(self, name, max(getattr(self, name), value))


class Watch:
    """Looks at this process's only child, and all that it starts, while a block runs.

    Parameters
    ----------
    log
        What the child prints to.
    counts
        What to count there.
    """

    def __init__(self, log: Path, counts: Sequence[LogCount]) -> None:
        self._log = log
        self._counts = counts
        self._read_bytes = 0
        self._rest = b""
        self._found = dict.fromkeys(counts, 0)
        #: How often each text had been found when so much processor time had been used.
        self._course: dict[LogCount, list[tuple[int, float]]] = {count: [] for count in counts}
        self._most: dict[str, Use] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def most(self, kind: str) -> Use:
        """Return the most that ``snakemake``, ``files`` or ``models`` had."""
        return self._most.get(kind, Use())

    def processor_s_at(self, what: LogCount, count: int) -> float:
        """Return how much processor time all had used when a text was there so many times."""
        course = self._course[what]
        place = bisect_left(course, count, key=lambda pair: pair[0])
        if place == len(course):
            return course[-1][1] if course else 0.0
        (before, from_s), (after, to_s) = course[place - 1] if place else (0, 0.0), course[place]
        return from_s + (to_s - from_s) * (count - before) / max(after - before, 1)

    def _run(self) -> None:
        number = 0
        while not self._is_over.wait(LOOK_S):
            with contextlib.suppress(OSError, ValueError, IndexError):
                self._look(thorough=number % THOROUGH == 0)
            number += 1

    def _look(self, *, thorough: bool) -> None:
        pids = list(_below(os.getpid()))
        # What has ended counts in its parent, once that has waited for it.
        used_s = sum(_processor_s(pid) for pid in pids)
        self._read_log()
        for count, course in self._course.items():
            if not course or self._found[count] > course[-1][0]:
                course.append((self._found[count], used_s))
        if thorough:
            now: dict[str, Use] = {}
            for pid in pids:
                with contextlib.suppress(OSError):
                    kind = "snakemake" if pid == pids[0] else _kind_of(pid)
                    _add(now.setdefault(kind, Use()), pid)
            for kind, use in now.items():
                self._most.setdefault(kind, Use()).take(use)

    def _read_log(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        self._read_bytes += len(new)
        lines, end, rest = (self._rest + new).rpartition(b"\n")
        for count in self._counts:
            self._found[count] += (lines + end).count(count.text)
        self._rest = end + rest  # the end of a line may begin what is looked for


def _below(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and theirs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                with contextlib.suppress(OSError):
                    yield from _below(child)


def _processor_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def _kind_of(pid: int) -> str:
    for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if pair.startswith(b"GPUPOOL_WORKER="):
            return "files" if b".files" in pair else "models"
    # For a moment a new process looks like the one that starts it: never count it with that.
    return "other"


def _add(use: Use, pid: int) -> None:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    use.processes += 1
    use.memory_mib += pages / PAGES_PER_MIB
    use.descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    use.threads += len(list(Path(f"/proc/{pid}/task").iterdir()))
