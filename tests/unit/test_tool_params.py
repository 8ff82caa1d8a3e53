"""What the object that holds a model may read and keep of params, job after job (C1)."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import pytest

from snakemake_executor_gpupool.errors import UndeclaredParam
from snakemake_executor_gpupool.tool_api.contract import checked_run
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.cold import compute
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files


class Scaled(Tool):
    """Declares a model, a scale and a number of digits."""

    defaults: ClassVar[dict[str, Any]] = {"model": "m", "scale": 1.0, "digits": 3}
    write_params = ("digits",)


def served(kind: type[Tool], *jobs: dict[str, Any]) -> list[Any]:
    """Load for the first job, then run one item for each: what a worker does."""
    loaded = LoadedTool(kind, jobs[0])
    loaded.load("cpu")
    return [checked_run(loaded.show(job), ["x"])[0] for job in jobs]


def test_run_sees_each_jobs_own_params() -> None:
    class Sees(Scaled):
        def run(self, items: list[Any]) -> list[Any]:
            return [self.params.scale] * len(items)

    assert served(Sees, {"scale": 1}, {"scale": 2}, {}) == [1, 2, 1.0]


def test_an_error_that_is_swallowed_is_raised_all_the_same() -> None:  # C1
    class Careless(Scaled):
        def load(self, device: str) -> None:
            try:
                self.digits = self.params.digits
            except Exception:
                self.digits = 3

        def run(self, items: list[Any]) -> list[Any]:
            try:
                return [self.params.digits] * len(items)
            except ValueError:
                return [3] * len(items)

    with pytest.raises(UndeclaredParam, match="load"):
        served(Careless, {})
    Careless.load = lambda self, device: None  # type: ignore[method-assign, assignment]
    with pytest.raises(UndeclaredParam, match="run"):
        served(Careless, {})


def test_one_call_settles_it_for_a_whole_batch() -> None:
    calls = []

    class Curious(Scaled):
        def run(self, items: list[Any]) -> list[Any]:
            calls.append(len(items))
            return [self.params.digits] * len(items)

    loaded = LoadedTool(Curious, {})
    loaded.load("cpu")
    outcomes = run_batch(loaded.show({}), list("abcdefgh"))
    assert calls == [8]
    assert {outcome.error["kind"] for outcome in outcomes if outcome.error} == {"contract"}


class CopiesByName(Scaled):
    def __init__(self, params: Any) -> None:
        self.scale = params["scale"]

    def run(self, items: list[Any]) -> list[Any]:
        return [self.scale] * len(items)


class CopiesAll(Scaled):
    def __init__(self, params: Any) -> None:
        super().__init__(params)
        vars(self).update(params)

    def run(self, items: list[Any]) -> list[Any]:
        return [self.scale] * len(items)  # type: ignore[attr-defined]


class CopiesOwn(Scaled):
    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.scale = self.params.scale

    def run(self, items: list[Any]) -> list[Any]:
        return [self.scale] * len(items)


class Swallows(Scaled):
    def __init__(self, params: Any) -> None:
        try:
            self.scale = params["scale"]
        except Exception:
            self.scale = 1.0


@pytest.mark.parametrize("kind", [CopiesByName, CopiesAll, CopiesOwn, Swallows])
def test_nothing_read_in_init_escapes(kind: type[Tool]) -> None:  # C1
    with pytest.raises(UndeclaredParam, match=r"__init__\(\) of \w+ .*'scale'"):
        served(kind, {"scale": 1}, {"scale": 2})
    with pytest.raises(UndeclaredParam):
        compute(for_files(kind, {"scale": 1}), {"scale": 1}, ["x"], "cpu")
    assert for_files(kind, {"scale": 1}).params.scale == 1


def test_init_may_keep_what_chooses_the_model_and_change_it() -> None:
    class Absolute(Scaled):
        def __init__(self, params: Any) -> None:
            super().__init__({**params, "model": f"/models/{params['model']}"})

        def load(self, device: str) -> None:
            self.loaded = self.params.model

        def run(self, items: list[Any]) -> list[Any]:
            return [(self.loaded, self.params.model)]

    assert served(Absolute, {"model": "a"}) == [("/models/a", "/models/a")]


@pytest.mark.parametrize("takes_params", [True, False])
def test_a_subclass_need_not_call_the_bases_init(takes_params: bool) -> None:  # C1
    class Own(Scaled):
        def run(self, items: list[Any]) -> list[Any]:
            return [(self.params.scale, self.device, self.cache)]  # type: ignore[attr-defined]

    def with_params(self: Any, params: Any) -> None:
        self.cache = {}

    def without(self: Any) -> None:
        self.cache = {}

    Own.__init__ = with_params if takes_params else without  # type: ignore[method-assign, assignment]
    assert served(Own, {"scale": 2}) == [(2, "cpu", {})]
    assert for_files(Own, {"scale": 2}).params == {"model": "m", "scale": 2, "digits": 3}


def test_an_init_that_takes_more_is_said() -> None:
    class Greedy(Tool):
        def __init__(self, params: Any, extra: Any) -> None:
            pass

    with pytest.raises(ValueError, match=r"def __init__\(self, params\)"):
        for_files(Greedy, {})


class Remembers(Scaled):
    """Keeps what it has made of its first job's params."""

    def run(self, items: list[Any]) -> list[Any]:
        if not hasattr(self, "factor"):
            self.factor = self.params.scale * 10
        return [self.factor] * len(items)


def test_what_a_run_keeps_goes_when_the_params_change() -> None:  # C1
    assert served(Remembers, {"scale": 1}, {"scale": 2}, {"scale": 1}) == [10, 20, 10]


class SeesAll(Tool):
    """Reads all at once, and has declared one."""

    defaults: ClassVar[dict[str, Any]] = {"model": "m"}

    def run(self, items: list[Any]) -> list[Any]:
        return [{**self.params}] * len(items)


def test_a_further_param_is_refused_after_jobs_without_it_too() -> None:  # C1
    assert served(SeesAll, {}, {}) == [{"model": "m"}] * 2
    for jobs in ([{}, {"scale": 2}], [{}, {}, {"scale": 2}], [{"scale": 2}, {}]):
        with pytest.raises(UndeclaredParam, match="'scale'"):
            served(SeesAll, *jobs)


def test_what_load_and_moves_keep_stays() -> None:
    class Moves(Remembers):
        def load(self, device: str) -> None:
            self.net = ["net"]

        def to(self, device: str) -> None:
            self.net = [*self.net, device]

    loaded = LoadedTool(Moves, {"scale": 1})
    loaded.load("cpu")
    assert checked_run(loaded.show({"scale": 1}), ["x"]) == [10]
    loaded.move("cuda:0")
    tool: Any = loaded.show({"scale": 2})
    assert checked_run(tool, ["x"]) == [20]
    assert (tool.net, tool.device) == (["net", "cuda:0"], "cuda:0")


def test_params_of_an_earlier_run_are_not_read_in_a_later_one() -> None:  # C1
    class Keeps(Scaled):
        kept: ClassVar[list[Any]] = []

        def run(self, items: list[Any]) -> list[Any]:
            if not self.kept:
                self.kept.append(self.params)
            return [self.kept[0].scale]

    loaded = LoadedTool(Keeps, {})
    loaded.load("cpu")
    assert checked_run(loaded.show({"scale": 1}), ["x"]) == [1]
    assert checked_run(loaded.show({"scale": 1}), ["x"]) == [1]
    with pytest.raises(UndeclaredParam, match="earlier run"):
        checked_run(loaded.show({"scale": 2}), ["x"])


def test_a_thread_that_outlives_load_reads_no_more_than_load() -> None:
    class Threads(Scaled):
        def load(self, device: str) -> None:
            self.go = threading.Event()
            self.thread = threading.Thread(target=self.late, args=(self.params,))
            self.thread.start()

        def late(self, params: Any) -> None:
            self.go.wait(10)
            try:
                self.scale = params.scale
            except UndeclaredParam as error:
                self.scale = error

        def run(self, items: list[Any]) -> list[Any]:
            self.go.set()
            self.thread.join()
            return [self.scale]

    assert isinstance(served(Threads, {"scale": 2})[0], UndeclaredParam)


def test_derived_params_can_be_asked_for_where_they_may_be_read() -> None:
    class Derives(Scaled):
        def load(self, device: str) -> None:
            self.seen = self.model_params()

        def run(self, items: list[Any]) -> list[Any]:
            return [(self.seen, self.run_params())]

    extra = {"sample": "s1", "scale": 2}
    assert served(Derives, extra) == [({"model": "m"}, {"scale": 2})]
    Derives.load = lambda self, device: self.run_params()  # type: ignore[method-assign, assignment]
    with pytest.raises(UndeclaredParam, match="'scale'"):
        served(Derives, extra)


def test_cold_and_served_refuse_alike(tmp_path: Any) -> None:  # C1 T5
    from snakemake_executor_gpupool.worker.cold import run_cold

    class Folds(Tool):
        def load(self, device: str) -> None:
            self.weights = self.params.checkpoint

        def read(self, job: Job) -> list[str]:
            return ["item"]

        def write(self, job: Job, results: list[Any]) -> None:
            raise AssertionError("there is nothing to write")

    with pytest.raises(UndeclaredParam, match='reload_on = \\("model", "checkpoint"\\)'):
        run_cold(Folds, Job(params={"checkpoint": "a.pt"}), "cpu")
