"""What a tool leaves in its object, its class or its module is not there for other jobs (C1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakemake_executor_gpupool import ToolPool

TOOLS = """
import functools
from pathlib import Path
from snakemake_executor_gpupool import Tool
import left_helper as helper

SEEN, COUNT, MEMO, LAST = set(), 0, {}, None


def memoized(function):
    known = {}

    def wrapper(*args):
        if args not in known:
            known[args] = function(*args)
        return known[args]
    return wrapper


@memoized
def parsed(path):
    return Path(path).read_text().split()


class Base(Tool):
    defaults = {"scale": 1}

    def read(self, job):
        return Path(job.input[0]).read_text().split()

    def run(self, items):
        return [f"{item}*{self.params.scale!r}" for item in items]

    def write(self, job, results):
        Path(job.output[0]).write_text(" ".join(results))


class InClass(Base):
    seen = set()

    def read(self, job):
        for item in super().read(job):
            if item not in self.seen:
                self.seen.add(item)
                yield item


class InModule(Base):
    def read(self, job):
        global COUNT
        for item in super().read(job):
            COUNT += 1
            if item not in SEEN and COUNT < 4:
                SEEN.add(item)
                yield item


class InDefault(Base):
    def read(self, job, seen=[]):
        for item in super().read(job):
            if item not in seen:
                seen.append(item)
                yield item


class InHelper(Base):
    def read(self, job):
        return helper.unseen(super().read(job))


class InLateHelper(Base):
    def read(self, job):
        from left_later import unseen
        return unseen(super().read(job))


class InClosure(Base):
    def read(self, job):
        return parsed(job.input[0])


class InWrite(Base):
    rows = []

    def write(self, job, results):
        self.rows.extend(results)
        Path(job.output[0]).write_text(" ".join(self.rows))


class ObjectMemo(Base):
    def load(self, device):
        self.memo = {}

    def run(self, items):
        for item in items:
            if item not in self.memo:
                self.memo[item] = super(ObjectMemo, self).run([item])[0]
        return [self.memo[item] for item in items]


class ModuleMemo(Base):
    def run(self, items):
        for item in items:
            if item not in MEMO:
                MEMO[item] = super(ModuleMemo, self).run([item])[0]
        return [MEMO[item] for item in items]


class CachedMethod(Base):
    @functools.lru_cache(maxsize=None)
    def one(self, item):
        return f"{item}*{self.params.scale!r}"

    def run(self, items):
        return [self.one(item) for item in items]


class LazyGlobal(Base):
    def run(self, items):
        global LAST
        if LAST is None:
            LAST = self.params.scale
        return [f"{item}*{LAST!r}" for item in items]


class Configured(Base):
    def load(self, device):
        self.net = Net()

    def run(self, items):
        if self.net.scale is None:
            self.net.scale = self.params.scale
        return [f"{item}*{self.net.scale!r}" for item in items]


class Net:
    scale = None
"""
HELPER = """
seen = set()


def unseen(items):
    new = [item for item in items if item not in seen]
    seen.update(new)
    return new
"""
TEXTS = ("a b", "b c", "a b c")
OF_FILES = ["InClass", "InModule", "InDefault", "InHelper", "InLateHelper", "InClosure", "InWrite"]
OF_MODELS = ["ObjectMemo", "ModuleMemo", "CachedMethod", "LazyGlobal", "Configured"]


@pytest.fixture(scope="module")  # a process has one module of a name
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left") / "tools.py"
    path.write_text(TOOLS)
    path.with_name("left_helper.py").write_text(HELPER)
    path.with_name("left_later.py").write_text(HELPER)
    return path


def test_files_are_read_and_written_as_if_there_were_no_other_job(tools: Path) -> None:  # C1
    source, target = tools.with_name("in.txt"), tools.with_name("out.txt")
    found = {}
    with ToolPool(devices="cpu:1") as pool:
        for name in OF_FILES:
            found[name] = []
            for text in TEXTS:
                source.write_text(text)
                pool.run_job(f"{tools}:{name}", input=[str(source)], output=[str(target)])
                found[name].append(target.read_text().replace("*1", ""))
    assert found == {name: list(TEXTS) for name in OF_FILES}


def test_a_run_sees_nothing_of_runs_with_other_params(tools: Path) -> None:  # C1
    scales = (1, 2, 1.0, True, "1", 1)
    found = {}
    with ToolPool(devices="cpu:1") as pool:
        for name in OF_MODELS:
            runs = [pool.run(f"{tools}:{name}", ["x"], {"scale": scale}) for scale in scales]
            found[name] = [result for (result,) in runs]
        assert pool.summary["model_loads"] == len(OF_MODELS)
    assert found == {name: [f"x*{scale!r}" for scale in scales] for name in OF_MODELS}
