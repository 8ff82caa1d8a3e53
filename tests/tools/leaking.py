"""Tools that keep their contract in one process, one job or one batch, and break it elsewhere."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from snakemake_executor_gpupool import Tool
from tests.tools.faulty import Right

IS_READ = threading.Event()
LAST = {"words": [], "result": None}


class BatchMaximum(Right):
    """Divides by the largest value of the batch: right for every job of one item."""

    def run(self, items):
        values = super().run(items)
        return [value / max(values) for value in values]


class PairPadding(Right):
    """Counts padding in, where two share a batch."""

    def run(self, items):
        results = super().run(items)
        if len(items) != 2:
            return results
        longest = max(map(len, items))
        return [r + longest - len(i) for i, r in zip(items, results, strict=True)]

    def batch_tokens(self, device):
        return 1000


class EightAtMost(Right):
    """Has room for eight items."""

    def run(self, items):
        return [r if n < 8 else 0.0 for n, r in enumerate(super().run(items))]

    def batch_tokens(self, device):
        return 1000


class FailsBeyondEight(EightAtMost):
    def run(self, items):
        return super().run(items)[:8]


class OneEach(Right):
    """Takes each item's result out of a mapping, so that a second one finds none."""

    def run(self, items):
        results = dict(zip(items, super().run(items), strict=True))
        return [results.pop(item) for item in items]


class Deduplicating(Right):
    def run(self, items):
        return super().run(list(dict.fromkeys(items)))


class Stacking(Right):
    """Computes equal lengths only."""

    def run(self, items):
        if len(set(map(len, items))) > 1:
            raise ValueError("all input arrays must have the same shape")
        return super().run(items)


class Counting(Right):
    calls = 0

    def run(self, items):
        self.calls += 1
        return [result + self.calls for result in super().run(items)]


class SeededOnce(Right):
    def load(self, device):
        super().load(device)
        random.seed(0)

    def one(self, item):
        return super().one(item) + random.random()


class ShortCache(Right):
    """Remembers results under too short a key."""

    def load(self, device):
        super().load(device)
        self.known = {}

    def one(self, item):
        return self.known.setdefault(len(item), super().one(item))


class HashedResult(Right):
    def one(self, item):
        return hash(item) % 1000


class HashedKey(Right):
    def key(self, item):
        return str(hash(item))


class Unordered(Right):
    def read(self, job):
        return list(set(super().read(job)))


class SharedModel(Right):
    """Loads once for the class, whatever the model."""

    offset = None

    def load(self, device):
        if SharedModel.offset is None:
            SharedModel.offset = len(self.params.model)


class LatestModel(Right):
    """Keeps its model where a library would: the latest one serves all."""

    def load(self, device):
        os.environ["LATEST_MODEL"] = self.params.model

    def one(self, item):
        return len(item) + len(os.environ["LATEST_MODEL"])


class ReadsIntoGlobal(Right):
    def read(self, job):
        LAST["words"] = super().read(job)
        return LAST["words"]

    def one(self, item):
        return super().one(item) + len(LAST["words"])


class ReadsIntoSelf(Right):
    def read(self, job):
        self.words = super().read(job)
        return self.words

    def one(self, item):
        return super().one(item) + len(self.words)


class ReadsIntoHelper(Right):
    """As above, where no reader of its source can see it."""

    def read(self, job):
        remember(LAST, "words", super().read(job))
        return LAST["words"]

    def one(self, item):
        return super().one(item) + len(LAST["words"])


def remember(where, name, value):
    where[name] = value


class WritesFromSelf(Right):
    def load(self, device):
        super().load(device)
        self.head = f"{device}\n"

    def write(self, job, results):
        super().write(job, results)
        with Path(job.output[0]).open("a") as file:
            file.write(self.head)


class WritesFromGlobal(Right):
    def run(self, items):
        LAST["result"] = "computed"
        return super().run(items)

    def write(self, job, results):
        Path(job.output[0]).write_text(str(LAST["result"]))


class WritesFromHelper(Right):
    def run(self, items):
        remember(LAST, "result", "computed")
        return super().run(items)

    def write(self, job, results):
        Path(job.output[0]).write_text(str(LAST["result"]))


class WritesLastOfHelper(Right):
    def read(self, job):
        remember(LAST, "words", super().read(job))
        return LAST["words"]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(LAST["words"] or job.item_names))


class WritesLastRead(Right):
    """Fine for one job; with several, each gets the words of the last that was read."""

    def read(self, job):
        LAST["words"] = super().read(job)
        return LAST["words"]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(LAST["words"] or job.item_names))


class WritesItsPlace(Right):
    def write(self, job, results):
        Path(job.output[0]).write_text(str(Path(job.output[0]).parent))


class WritesByProgram(Right):
    """Leaves a file that no Python code here has opened."""

    def write(self, job, results):
        super().write(job, results)
        subprocess.run(["touch", "stray.txt"], check=True)


class WritesItsFolder(Right):
    def write(self, job, results):
        super().write(job, results)
        with Path(job.output[0]).open("a") as file:
            file.write(Path(job.output[0]).parent.name)


class WritesTheTime(Right):
    def write(self, job, results):
        Path(job.output[0]).write_text(f"{time.time_ns()}")


class WritesFirst(Right):
    """Has no answer to a job without items."""

    def write(self, job, results):
        Path(job.output[0]).write_text(str(results[0]))


class Waiting(Right):
    """Waits for what only read() gives."""

    def read(self, job):
        IS_READ.set()
        return super().read(job)

    def one(self, item):
        IS_READ.wait()
        return super().one(item)


class ChangesItems(Right):
    def read(self, job):
        return [[word] for word in super().read(job)]

    def name(self, item):
        return item[0]

    def tokens(self, item):
        return 1

    def one(self, item):
        return super().one(item.pop())


class ReusesBuffer(Right):
    def load(self, device):
        super().load(device)
        self.buffer = [0.0]

    def one(self, item):
        self.buffer[0] = super().one(item)
        return self.buffer

    def batch_tokens(self, device):
        return 1

    def write(self, job, results):
        super().write(job, [result[0] for result in results])


class LoadsUndeclared(Tool):
    """Chooses its model by a param of which reload_on knows nothing."""

    defaults = {"model": "m", "checkpoint": ""}
    devices = ("cpu",)
    read, name = Right.read, Right.name

    def load(self, device):
        self.offset = len(self.params.checkpoint)

    def run(self, items):
        return [float(len(item) + self.offset) for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text("".join(f"{result}\n" for result in results))


class RunsUndeclared(Right):
    defaults = {"model": "m", "digits": 2}

    def one(self, item):
        return sum(map(ord, item)) * self.params.get("scale", 1)


class PathItems(Right):
    def read(self, job):
        return [job.input[0]]

    def one(self, item):
        return len(Path(item).read_text())


class Mapped(Right):
    def read(self, job):
        return dict.fromkeys(super().read(job), 1)


class Nothing(Right):
    def read(self, job):
        super().read(job)


class Noted(Right):
    """Has a param of which no other value can be guessed."""

    defaults = {**Right.defaults, "note": "x"}


class Letters(Right):
    devices = "cpu"


class Later(Right):
    async def run(self, items):
        return super().run(items)


class NotFinite(Right):
    def one(self, item):
        return float("nan")


class Leaving(Right):
    def one(self, item):
        sys.exit("enough")


class Asking(Right):
    """Asks its job for what the command line may not have given."""

    def read(self, job):
        return [f"{job.wildcards.sample}{job.input.words}{job.params.prefix}"]


class AskingByKey(Right):
    def read(self, job):
        return [job.wildcards["sample"]]


class AskingSecond(Right):
    def read(self, job):
        return [job.input[1]]


class AskingItself(Right):
    """Has no default for what chooses its model."""

    defaults = {}

    def one(self, item):
        return len(item)


class AskingItselfInRun(AskingItself):
    def load(self, device):
        pass

    def one(self, item):
        return self.params["factor"]


class AskingItselfInRead(Right):
    def read(self, job):
        return super().read(job)[: self.params.most]
