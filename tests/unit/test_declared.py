"""A tool reads the params that it has declared, in load and run, and no others (C1)."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import threading
import types
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import UndeclaredParam
from snakemake_executor_gpupool.tool_api.contract import checked_run
from snakemake_executor_gpupool.tool_api.declared import Declaration, DeclaredParams
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Job, Params
from snakemake_executor_gpupool.worker import baseline
from snakemake_executor_gpupool.worker.batch import run_batch
from snakemake_executor_gpupool.worker.cold import compute
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.loaded import LoadedTool, for_files


class Scaled(Tool):
    """Declares a model, a scale and a number of digits."""

    defaults: ClassVar[dict[str, Any]] = {"model": "m", "scale": 1.0, "digits": 3}
    write_params = ("digits",)


def params_of(method: str, tool: Any = Scaled, **values: Any) -> DeclaredParams:
    return DeclaredParams({**tool.defaults, **values}, Declaration(tool, method))


def updated(params: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found |= params
    return found


def matched(params: Any) -> Any:
    match params:
        case {"digits": digits}:
            return digits
    return None


def rest(params: Any) -> Any:
    match params:
        case {"model": _, **others}:
            return others
    return None


def called(**params: Any) -> Any:
    return params


#: Every way to look at one param, ``digits``.
BY_NAME: dict[str, Any] = {
    "attribute": lambda p: p.digits,
    "key": lambda p: p["digits"],
    "get": lambda p: p.get("digits"),
    "get with a default": lambda p: p.get("digits", 2),
    "getattr": lambda p: getattr(p, "digits", 2),
    "hasattr": lambda p: hasattr(p, "digits"),
    "in": lambda p: "digits" in p,
    "not in": lambda p: "digits" not in p,
    "pop": lambda p: p.pop("digits", None),
    "setdefault": lambda p: p.setdefault("digits", 2),
    "match": matched,
    "format_map": "{digits}".format_map,
    "percent": lambda p: "%(digits)s" % p,  # noqa: UP031
}
#: Every way to look at all of them.
WHOLE: dict[str, Any] = {
    "list": list,
    "set": set,
    "tuple": tuple,
    "sorted": sorted,
    "unpacked": lambda p: [*p],
    "dict": dict,
    "Params": Params,
    "**": lambda p: {**p},
    "call with **": lambda p: called(**p),
    "update": {}.update,
    "|": lambda p: p | {},
    "| on the right": lambda p: {} | p,
    "|=": updated,
    "keys": lambda p: p.keys(),
    "values": lambda p: p.values(),
    "items": lambda p: p.items(),
    "reversed": lambda p: list(reversed(p)),
    "copy": lambda p: p.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "json": json.dumps,
    "json with indent": lambda p: json.dumps(p, indent=1),
    "==": lambda p: p == {"model": "m"},
    "== on the right": lambda p: p == {"model": "m"},
    "!=": lambda p: p != {"model": "m"},
    "len": len,
    "bool": bool,
    "repr": repr,
    "str": str,
    "f-string": lambda p: f"{p}",
    "popitem": lambda p: p.popitem(),
    "match the rest": rest,
}


@pytest.mark.parametrize("way", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("values", [{}, {"digits": 5}])
def test_another_param_cannot_be_read(way: Any, values: dict[str, Any]) -> None:  # C1
    for method in ("__init__", "load", "run"):
        with pytest.raises(UndeclaredParam, match="'digits'"):
            way(params_of(method, **values))


@pytest.mark.parametrize("way", WHOLE.values(), ids=WHOLE)
def test_nor_can_all_be_read_at_once(way: Any) -> None:  # C1
    with pytest.raises(UndeclaredParam, match=r"load\(\) of Scaled .*'scale', 'digits'"):
        way(params_of("load"))
    with pytest.raises(UndeclaredParam, match=r"run\(\) of Scaled .*'digits'"):
        way(params_of("run"))


class Closed(Tool):
    """Declares all that it has."""

    defaults: ClassVar[dict[str, Any]] = {"model": "m", "digits": 3}
    reload_on = ("model", "digits")


@pytest.mark.parametrize("way", [*BY_NAME.values(), *WHOLE.values()], ids=[*BY_NAME, *WHOLE])
@pytest.mark.parametrize("method", ["load", "run"])
def test_what_is_declared_reads_as_ever(way: Any, method: str) -> None:
    plain = Params({"model": "m", "digits": 4})

    def outcome(params: Any) -> Any:
        found = way(params)
        if isinstance(found, bytes):
            return pickle.loads(found)
        return list(found) if not isinstance(found, (dict, str, int)) and found else found

    assert outcome(params_of(method, Closed, digits=4)) == outcome(plain)


def test_hidden_values_are_not_in_the_object() -> None:
    secret = "a value that nobody else has"
    params = params_of("run", digits=secret)
    assert secret not in str(vars(params)) + str(list(dict.items(params)))


def test_what_is_declared_but_not_given_is_missing_as_in_any_params() -> None:
    class NoDefaults(Tool):
        pass

    params = DeclaredParams({"scale": 2}, Declaration(NoDefaults, "load"))
    assert params.get("model") is None and "model" not in params
    with pytest.raises(AttributeError, match="no param named 'model'"):
        _ = params.model
    with pytest.raises(KeyError):
        params["model"]


@pytest.mark.parametrize(
    ("method", "name", "line"),
    [
        ("load", "checkpoint", 'reload_on = ("model", "checkpoint")'),
        ("load", "scale", "read it in run(), as self.params.scale"),
        ("__init__", "digits", "read it in read() or write()"),
        ("run", "other", 'defaults = {..., "other": 1.5}'),
        ("run", "digits", "write_params = ()"),
    ],
)
def test_the_error_names_the_line_to_add(method: str, name: str, line: str) -> None:  # C1
    with pytest.raises(UndeclaredParam) as error:
        params_of(method).get(name, 1.5)
    assert line in str(error.value) and repr(name) in str(error.value)


def test_a_tool_without_defaults_tells_items_apart_by_all_params() -> None:
    class NoDefaults(Tool):
        write_params = ("digits",)

    params = DeclaredParams({"scale": 2, "digits": 3}, Declaration(NoDefaults, "run"))
    assert params.scale == 2 and params.get("anything", 7) == 7
    with pytest.raises(UndeclaredParam):
        params.get("digits")


# -- whatever a method reads, jobs that share have the same there ------------------------
class Whole(Tool):
    """Reads all at once."""

    def load(self, device: str) -> None:
        dict(self.params)

    def run(self, items: list[Any]) -> list[Any]:
        return [dict(self.params)]


class WholeRun(Tool):
    """Reads all at once where it computes."""

    def run(self, items: list[Any]) -> list[Any]:
        return [dict(self.params)]


class Named(Tool):
    """Reads one by one."""

    def load(self, device: str) -> None:
        self.params.get("a")

    def run(self, items: list[Any]) -> list[Any]:
        return [self.params.b]


NAMES = ("model", "a", "b", "c")


def described(kind: type[Tool], jobs: Any) -> list[dict[str, Any]]:
    """Describe models of one class, whose code is always the same."""
    with mock.patch("snakemake_executor_gpupool.worker.describe.code_digest", return_value=""):
        return [describe_model(for_files(kind, job)) for job in jobs]


values = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1))
subset = st.lists(st.sampled_from(NAMES), unique=True).map(tuple)


@settings(max_examples=100, deadline=None)
@given(
    base=st.sampled_from([Whole, WholeRun, Named]),
    reload_on=subset,
    write_params=subset,
    defaults=values,
    jobs=st.tuples(values, values),
)
def test_jobs_that_share_see_the_same(
    base: Any, reload_on: Any, write_params: Any, defaults: ClassVar[dict[str, Any]], jobs: Any
) -> None:  # C1
    attributes = {"reload_on": reload_on, "write_params": write_params, "defaults": defaults}
    kind = type("Kind", (base,), attributes)
    keys = described(kind, jobs)

    def seen(job: dict[str, Any], method: str) -> list[Any]:
        found: list[Any] = []
        for way in [
            *(lambda p, n=n: p.get(n) for n in NAMES),
            *([dict] * (base is Whole or (base is WholeRun and method == "run"))),
        ]:
            try:
                found.append(way(params_of(method, kind, **job)))
            except UndeclaredParam:
                found.append("refused")
        return found

    if keys[0]["model"] == keys[1]["model"]:
        assert seen(jobs[0], "load") == seen(jobs[1], "load")
        if keys[0]["group"] == keys[1]["group"]:
            assert seen(jobs[0], "run") == seen(jobs[1], "run")


class Lazy(Tool):
    """Keeps what it has made of params."""

    def run(self, items: list[Any]) -> list[Any]:
        if not hasattr(self, "made"):
            self.made = (self.params.get("a"), self.params.get("b"))
        return [self.made]


def only_this_module(tool_class: type) -> list[types.ModuleType]:
    """The modules of a tool; those beside it are all tests, whose state takes long to keep."""
    return [sys.modules[__name__]]


@mock.patch.object(baseline, "own_modules", only_this_module)
@settings(max_examples=100, deadline=None)
@given(
    base=st.sampled_from([Whole, WholeRun, Named, Lazy]),
    reload_on=subset,
    write_params=subset,
    defaults=values,
    jobs=st.lists(values, min_size=2, max_size=5),
)
def test_a_loaded_tool_serves_each_job_as_if_it_were_the_first(
    base: Any, reload_on: Any, write_params: Any, defaults: Any, jobs: Any
) -> None:  # C1
    attributes = {"reload_on": reload_on, "write_params": write_params, "defaults": defaults}
    kind = type("Kind", (base,), attributes)
    keys = described(kind, jobs)
    jobs = [job for job, key in zip(jobs, keys, strict=True) if key["model"] == keys[0]["model"]]

    def outcome(call: Any) -> Any:
        try:
            return call()
        except (UndeclaredParam, AttributeError) as error:
            return type(error)

    def fresh(job: dict[str, Any]) -> Any:
        loaded = LoadedTool(kind, job)
        loaded.load("cpu")
        return checked_run(loaded.show(job), ["x"])

    try:
        shared = LoadedTool(kind, jobs[0])
        shared.load("cpu")
    except UndeclaredParam:
        assert all(outcome(lambda job=job: fresh(job)) is UndeclaredParam for job in jobs)
        return
    for job in jobs:
        served = outcome(lambda job=job: checked_run(shared.show(job), ["x"]))
        assert served == outcome(lambda job=job: fresh(job))


# -- the object that holds the model -----------------------------------------------------
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
