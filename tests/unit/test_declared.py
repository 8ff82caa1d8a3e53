"""A tool reads the params that it has declared, in load and run, and no others (C1)."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any, ClassVar

import pytest

from snakemake_executor_gpupool.errors import UndeclaredParam
from snakemake_executor_gpupool.tool_api.declared import Declaration, DeclaredParams
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.values import Params


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
