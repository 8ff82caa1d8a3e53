"""A tool whose params say which mistake it makes; each is one that authors make."""

import collections
import threading
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Item:
    """An item of a class of the file's own, which travels."""

    def __init__(self, text, more=None):
        self.text = text
        self.more = more


class Unloadable:
    """Travels, and cannot be made again."""

    def __init__(self, text, extra):
        self.text = text

    def __reduce__(self):
        return Unloadable, (self.text,)


class Rows:
    """A data set for torch."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        if self.items[place] == "die":
            raise SystemExit(3)
        return len(self.items[place])


class Slips(Tool):
    """Echoes lines, but for what ``slip`` says."""

    defaults = {"model": "m", "slip": "", "calls": ""}

    def slip(self, method, name):
        """Return what takes the place of a method."""
        return getattr(self, name) if name.startswith(f"{method}_") else None

    def read(self, job):
        lines = Path(job.input[0]).read_text().split()
        slip = self.slip("read", job.params.slip)
        return slip(job, lines) if slip is not None else lines

    def run(self, items):
        if self.params.calls:
            with Path(self.params.calls).open("a") as file:
                file.write(f"{len(items)}\n")
        slip = self.slip("run", self.params.slip)
        return slip(items) if slip is not None else [str(item) for item in items]

    def write(self, job, results):
        slip = self.slip("write", job.params.slip)
        if slip is not None:
            slip(job, results)
        else:
            Path(job.output[0]).write_text("".join(f"{result}\n" for result in results))

    def batch_tokens(self, device):
        return 4

    # -- read ------------------------------------------------------------------------
    def read_nothing(self, job, lines):
        Path(job.input[0]).read_text()

    def read_dict(self, job, lines):
        return dict.fromkeys(lines, 1)

    def read_text(self, job, lines):
        return " ".join(lines)

    def read_set(self, job, lines):
        return set(lines)

    def read_file(self, job, lines):
        return Path(job.input[0]).open()

    def read_midway(self, job, lines):
        yield from lines[:2]
        raise ValueError("line 3 is odd")

    def read_array(self, job, lines):
        import numpy as np

        return np.array(lines)

    def read_open_files(self, job, lines):
        return [Path(job.input[0]).open() for _ in lines]

    def read_local_class(self, job, lines):
        class Row:
            pass

        return [(Row(), line) for line in lines]

    def read_local_tuple(self, job, lines):
        Row = collections.namedtuple("Row", "text")
        return [{"row": Row(line)} for line in lines]

    def read_lambda(self, job, lines):
        return [Item(line, lambda: 1) for line in lines]

    def read_generators(self, job, lines):
        return [(letter for letter in line) for line in lines]

    def read_locks(self, job, lines):
        return [Item(line, threading.Lock()) for line in lines]

    def read_unloadable(self, job, lines):
        return [Unloadable(line, 1) for line in lines]

    def read_snakemake(self, job, lines):
        return Path(snakemake.input[0]).read_text().split()  # noqa: F821 - as in a script

    # -- run -------------------------------------------------------------------------
    def run_none(self, items):
        [item.upper() for item in items]

    def run_dict(self, items):
        return {item: item for item in items}

    def run_joined(self, items):
        return "".join("x" for _ in items)

    def run_set(self, items):
        return set(items)

    def run_fewer(self, items):
        return items[1:]

    def run_generator(self, items):
        for item in items:
            yield item.upper()

    def run_tensor(self, items):
        import torch

        return torch.tensor([[float(len(item)), 1.0] for item in items])

    def run_numbers(self, items):
        import numpy as np

        return np.array([len(item) for item in items])

    def run_generators(self, items):
        return [(letter for letter in item) for item in items]

    def run_one_generator(self, items):
        return [(letter for letter in item) if item == "b" else item for item in items]

    def run_meta(self, items):
        import torch

        return [torch.zeros(1, device="meta") for item in items]

    def run_attribute(self, items):
        return [self.slipp for _ in items]

    def run_spawn(self, items):
        from torch.utils.data import DataLoader

        loader = DataLoader(Rows(items), num_workers=1, multiprocessing_context="spawn")
        return [int(each) for each in loader]

    # -- write -----------------------------------------------------------------------
    def write_nothing(self, job, results):
        Path(job.output[0]).write_text  # noqa: B018 - forgotten parentheses

    def write_suffix(self, job, results):
        Path(job.output[0] + ".npy").write_text("x")

    def write_direct(self, job, results):
        Path(job.params.place).write_text("x")

    def write_one(self, job, results):
        Path(job.output[0]).write_text("x")

    def write_more(self, job, results):
        for path in job.output:
            Path(path).write_text("x")
        Path(job.output[0]).with_suffix(".json").write_text("{}")

    def write_hidden(self, job, results):
        for path in job.output:
            Path(path).write_text("x")
        Path(job.output[0]).with_suffix(".lock").touch()
        Path(job.output[0]).with_name(".nfs1").write_text("x")

    def write_list(self, job, results):
        with open(job.output, "w") as file:  # noqa: PTH123
            file.write("x")

    def write_into(self, job, results):
        Path(job.output[0], "x").write_text("x")

    def write_attribute(self, job, results):
        Path(job.output[0]).write_text(getattr(self, "net"))  # noqa: B009 - no checker sees it
