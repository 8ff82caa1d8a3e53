"""A tool that keeps its contract, and one for each way to break it."""

import itertools
import random
import threading
from pathlib import Path

from snakemake_executor_gpupool import InputError, Tool


class Right(Tool):
    """Scores words by the sum of their letters."""

    defaults = {"model": "m", "factor": 1.0, "digits": 2}
    write_params = ("digits",)
    devices = ("cpu",)

    def load(self, device):
        self.offset = len(self.params.model)

    def to(self, device):
        self.place = device

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def name(self, item):
        return item

    def tokens(self, item):
        return len(item)

    def batch_tokens(self, device):
        return 24

    def run(self, items):
        return [self.one(item) for item in items]

    def one(self, item):
        return self.params.factor * sum(map(ord, item)) + self.offset

    def write(self, job, results):
        lines = [f"{result:.{job.params.digits}f}\n" for result in results]
        Path(job.output[0]).write_text("".join(lines))


class TooFew(Right):
    def run(self, items):
        return super().run(items)[:-1] if len(items) > 1 else super().run(items)


class Sorted(Right):
    def run(self, items):
        return sorted(super().run(items))


class Company(Right):
    def run(self, items):
        return [result / len(items) for result in super().run(items)]


class Random(Right):
    def one(self, item):
        return random.random()


class Unseeded(Right):
    made = itertools.count()

    def load(self, device):
        self.offset = next(self.made)


class Forgetful(Right):
    """Comes back from the host without its weights."""

    def to(self, device):
        self.offset = 0


class CarelessKey(Right):
    def key(self, item):
        return item[:2]


class HiddenParam(Right):
    write_params = ("digits", "factor")


class LoadedParam(Right):
    def load(self, device):
        super().load(device)
        self.factor = self.params.factor

    def one(self, item):
        return self.factor * sum(map(ord, item))


class ProcessKey(Right):
    def read(self, job):
        return [{"word": word, "made": id(self)} for word in super().read(job)]

    def name(self, item):
        return item["word"]

    def tokens(self, item):
        return 1


class StuckItem(Right):
    def read(self, job):
        return [lambda word=word: word for word in super().read(job)]

    def name(self, item):
        return item()

    def tokens(self, item):
        return 1

    def key(self, item):
        return item()


class StuckResult(Right):
    stuck = threading.Lock()

    def one(self, item):
        return self.stuck


class Shifty(Right):
    """Its results are other values in another process."""

    class Result(float):
        def __reduce__(self):
            return float, (0.0,)

    def one(self, item):
        return self.Result(super().one(item))


class HalfWritten(Right):
    def write(self, job, results):
        pass


class Elsewhere(Right):
    def write(self, job, results):
        super().write(job, results)
        Path("elsewhere.txt").write_text("here")


class Beside(Right):
    def write(self, job, results):
        super().write(job, results)
        Path(job.output[0]).with_name("index.txt").write_text("here")


class Refusing(Right):
    def read(self, job):
        raise InputError(f"{job.input[0]}: is no word list")


class Unloadable(Right):
    def load(self, device):
        raise OSError("no weights")


class Cautious(Right):
    deterministic = False
