"""What ``read`` and ``run`` of a tool may return: accepted, or refused in one sentence.

Workers, cold jobs and ``gpupool check`` all call a tool through these functions.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import ContractError
from snakemake_executor_gpupool.tool_api.declared import DeclaredParams


class NoList(NamedTuple):
    """Describes a value that is not an ordered collection.

    Attributes
    ----------
    what
        Its kind, and what would be taken as its entries.
    instead
        What to write instead, as code; or empty.
    advice
        Other advice, as a sentence; or empty.
    """

    what: str
    instead: str = ""
    advice: str = ""

    def sentence(self, verb: str) -> str:
        """Return the advice, with a space before it; empty if there is none."""
        return f" {verb} {self.instead}" if self.instead else f" {self.advice}".rstrip()


def items_of(tool: Any, job: Any) -> Iterator[Any]:
    """Yield a job's items.

    Raises
    ------
    ContractError
        ``read`` did not return an ordered collection, or the class lacks ``read`` or ``write``.
    """
    items = tool.read(job)
    problem = why_no_list(items)
    if problem is not None:
        raise ContractError(
            f"{type(tool).__name__}.read() returned {problem.what}; it must return or yield the "
            f"items of the job, in order.{problem.sentence('Return')}"
        )
    return iter(items if shape_of(items) is None else _rows(items))


def all_items(tool: Any, job: Any) -> list[Any]:
    """Return a job's items; a generator that reuses objects does not change them later."""
    items = items_of(tool, job)
    return list(copied(items) if isinstance(items, types.GeneratorType) else items)


def copied(values: Iterable[Any]) -> Iterator[Any]:
    """Yield copies of values, as a generator may reuse its objects."""
    for value in values:
        try:
            yield copy.deepcopy(value)
        except Exception:  # it cannot be copied: sending it reports that
            yield value


def checked_run(tool: Any, items: list[Any]) -> list[Any]:
    """Return what ``run`` returns, as one result per item.

    Raises
    ------
    ContractError
        It is not such a list, nor anything that can be taken for one.
    UndeclaredParam
        It has read a param that does not tell its items apart, even if it has caught the error.
    """
    shown = tool.params
    results = results_of(tool, tool.run(items), len(items))
    if isinstance(shown, DeclaredParams):
        shown.raise_if_misread()
    return results


def results_of(tool: Any, returned: Any, expected: int) -> list[Any]:
    """Return the results of a call of ``run`` as a list of one per item.

    A list or another iterable with an order is taken as it is, an array or a tensor along its
    first axis.

    Raises
    ------
    ContractError
        It is anything else, or does not have one result per item.
    """
    results: list[Any] = returned
    if not isinstance(returned, list):
        results = _as_list(tool, returned, expected)
    if len(results) != expected:
        raise _no_results(
            tool,
            expected,
            f"{len(results)}",
            "For an item without a result raise InputError, or put None in its place",
        )
    return results


def _as_list(tool: Any, returned: Any, expected: int) -> list[Any]:
    problem = why_no_list(returned) or _why_ambiguous(returned, expected)
    if problem is not None:
        raise _no_results(tool, expected, problem.what, problem.sentence("Return").strip())
    if isinstance(returned, tuple):
        return list(returned)
    shape = shape_of(returned)
    if shape is None:
        results = list(copied(itertools.islice(returned, expected + 1)))
        if len(results) > expected:
            what = f"{_kind(returned)} of more"
            raise _no_results(tool, expected, what, "It has to end where the items do")
        return results
    if shape[0] != expected:
        which = shape.index(expected) if expected in shape else None
        turn = f"; here axis {which} is as long as the items" if which else ""
        what = f"{_kind(returned)} of shape {shape}"
        raise _no_results(tool, expected, what, f"Its first axis has to be that of the items{turn}")
    return _rows(returned)


def _rows(array: Any) -> list[Any]:
    """Return the rows of an array or a tensor."""
    if type(array).__module__.partition(".")[0] == "torch":
        # Pickling a view would include the whole tensor.
        return [row.detach().clone() for row in array]
    return list(array)


def _no_results(tool: Any, expected: int, what: str, instead: str) -> ContractError:
    return ContractError(
        f"{type(tool).__name__}.run() got {expected} item{'s' * (expected != 1)} and returned "
        f"{what}; it must return a list of one result per item, in the same order. {instead}"
    )


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array or a tensor; None: it is neither."""
    kind = type(value)
    if not (hasattr(kind, "shape") and hasattr(kind, "dtype")):
        return None
    return tuple(value.shape)


def why_no_list(value: Any) -> NoList | None:
    """Return what a value is instead of an ordered collection; None: it is one."""
    if isinstance(value, (list, tuple)):
        return None
    named = _why_no_list_of_these(value)
    if named is not None:
        return named
    if shape_of(value) == ():
        return NoList(f"{_kind(value)} without any axis", "one entry for each")
    try:
        iter(value)
    except TypeError:
        return NoList(_kind(value), "a list, also of a single one")
    return None


def _why_no_list_of_these(value: Any) -> NoList | None:
    """Do so for kinds that Python would iterate over, and for common slips."""
    if value is None:
        return NoList("None", advice="Does it lack a return or a yield?")
    if isinstance(value, str):
        return NoList("one text, whose letters would count", "text.splitlines(), or [text]")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return NoList(f"{_kind(value)}, whose bytes would count", "data.splitlines(), or [data]")
    if isinstance(value, Mapping):
        what = f"{_kind(value)}, whose keys alone would count"
        return NoList(what, "list(d.values()), or list(d.items())")
    if isinstance(value, (set, frozenset)):
        return NoList(f"{_kind(value)}, which has no order", "sorted(...) of it")
    if hasattr(type(value), "columns") and hasattr(type(value), "shape"):
        return NoList(
            f"{_kind(value)}, the names of whose columns would count",
            "a column, table['NAME'].tolist(), or rows, "
            "list(table.itertuples(index=False, name=None))",
        )
    if isinstance(value, io.IOBase) or hasattr(type(value), "readline"):
        value.close()  # nobody is going to read it
        return NoList("an open file", "what is in it: file.read().splitlines()")
    return _why_not_called(value)


def _why_not_called(value: Any) -> NoList | None:
    if inspect.iscoroutine(value):
        value.close()  # nobody is going to wait for it
        return NoList("a coroutine", advice="Write def, without async")
    if inspect.isasyncgen(value) or inspect.isawaitable(value):
        return NoList(_kind(value), advice="Write def, without async")
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinMethodType)):
        name = value.__name__
        return NoList(f"the function {name}, which was not called", advice=f"Write {name}()")
    return None


def _why_ambiguous(value: Any, expected: int) -> NoList | None:
    """Do so for a tuple that seems to hold several values, not one result per item."""
    if not isinstance(value, tuple):
        return None
    fields = getattr(value, "_fields", None)
    if fields is not None:
        what = f"a {type(value).__name__} of {', '.join(fields)}"
        return NoList(what, "a list, with these for each item")
    shapes = [shape_of(each) for each in value]
    if expected > 1 and len(value) == expected and all(s and s[0] == expected for s in shapes):
        return NoList(
            f"a tuple of {expected} arrays of {expected} rows each, which may be meant in two ways",
            "list(zip(a, b)) if each row belongs to an item, else a list",
        )
    return None


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
