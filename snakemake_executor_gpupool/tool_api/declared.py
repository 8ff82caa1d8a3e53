"""Params that a method can read only if the tool's class declares them.

One loaded model serves many jobs, and one result may serve several of them. The params that the
tool's class declares decide which jobs share. So the object that holds the model must not see any
others: it would see the value of whichever job came first.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from snakemake_executor_gpupool.errors import UndeclaredParam
from snakemake_executor_gpupool.tool_api.values import Params

#: Advice to a method of the object that holds the model.
_ELSEWHERE = "read it in read() or write(), which see every param of their job"
_MISSING: Any = object()


class Declaration:
    """Which params one method of a tool may read, and the refusal of the others.

    Parameters
    ----------
    tool
        The tool or its class: ``reload_on``, ``write_params`` and ``defaults`` are read from it.
    method
        ``"__init__"``, ``"load"`` or ``"run"``.
    """

    def __init__(self, tool: Any, method: str) -> None:
        self.tool_name = (tool if isinstance(tool, type) else type(tool)).__name__
        self.method = method
        self.reload_on = tuple(tool.reload_on)
        self.write_params = tuple(tool.write_params)
        self.defaults = tuple(tool.defaults)

    def allows(self, name: object) -> bool:
        """Return whether the method may read a param of that name, even if the job lacks it."""
        if name in self.reload_on:
            return True
        if self.method != "run" or name in self.write_params:
            return False
        return not self.defaults or name in self.defaults

    def refusal(self, name: str, default: Any = _MISSING) -> str:
        """Return a message: what was read, the consequence, and what to add to the class."""
        head = f"{self.method}() of {self.tool_name} reads the param {name!r}, which "
        if self.method != "run":
            return head + self._not_of_the_model(name)
        if name in self.write_params:
            rest = _tuple_text(other for other in self.write_params if other != name)
            return (
                f"{head}is in write_params: jobs that differ in it share results. Take it out: "
                f"write_params = {rest}{self._also_default(name, default)}"
            )
        return (
            f"{head}is not in defaults, so that jobs that differ in it share results. "
            f"Add it to the class: {_defaults_text(name, default)}"
        )

    def _not_of_the_model(self, name: str) -> str:
        line = f"reload_on = {_tuple_text((*self.reload_on, name))}"
        text = (
            "does not choose the model: jobs that differ in it share one. If it does choose the "
            f"model, add it to the class: {line}; otherwise "
        )
        in_run = Declaration.__new__(Declaration)
        in_run.__dict__.update(self.__dict__, method="run")
        return text + (
            f"read it in run(), as self.params.{name}" if in_run.allows(name) else _ELSEWHERE
        )

    def _also_default(self, name: str, default: Any) -> str:
        if not self.defaults or name in self.defaults:
            return ""
        return f", and name it: {_defaults_text(name, default)}"

    def refusal_of_all(self, hidden: tuple[str, ...]) -> str:
        """Return a message: the method has read all params at once, but may not see all."""
        own = "self.model_params()" if self.method != "run" else "self.run_params()"
        return (
            f"{self.method}() of {self.tool_name} reads all params at once, and of these it may "
            f"not read {', '.join(map(repr, hidden))}. Name the params that it needs, or take "
            f"{own}. The first one: {self.refusal(hidden[0])}"
        )


def _tuple_text(names: Any) -> str:
    words = [f'"{name}"' for name in names]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _defaults_text(name: str, default: Any) -> str:
    return f'defaults = {{..., "{name}": {None if default is _MISSING else default!r}}}'


class DeclaredParams(Params):
    """A job's params as one method may read them; the others are not in here.

    Only the names of the others are kept, for the message. Reading such a name is refused even if
    the job has no such param: its absence, too, is known of that job alone. Reading all params at
    once is refused if there are others. An error that the tool swallows is raised later: see
    :meth:`raise_if_misread`.

    Parameters
    ----------
    values
        The params of a job.
    declaration
        What may be read.
    hidden
        Names of further params that the job has.
    """

    def __init__(
        self, values: Mapping[str, Any], declaration: Declaration, hidden: tuple[str, ...] = ()
    ) -> None:
        allowed, hidden_names = {}, dict.fromkeys(hidden)
        for name, value in values.items():
            if declaration.allows(name):
                allowed[name] = value
            else:
                hidden_names[name] = None
        super().__init__(allowed)
        state = {
            "_declaration": declaration,
            "_hidden": tuple(name for name in hidden_names if not declaration.allows(name)),
            "_error": None,
            "_stale": "",
        }
        self.__dict__.update(state)

    # -- for gpupool -----------------------------------------------------------
    def seen_by(self, declaration: Declaration) -> DeclaredParams:
        """Return the same params for another method, which may read no more than this one."""
        return DeclaredParams(dict(_items(self)), declaration, self.__dict__["_hidden"])

    def over(self, defaults: Mapping[str, Any]) -> DeclaredParams:
        """Return these params, with default values for missing ones."""
        hidden, declaration = self.__dict__["_hidden"], self.__dict__["_declaration"]
        return DeclaredParams({**defaults, **dict(_items(self))}, declaration, hidden)

    def allowed(self) -> dict[str, Any]:
        """Return the params that may be read."""
        return dict(_items(self))

    def given_names(self) -> set[str]:
        """Return the names of all params, also of those that may not be read."""
        return {*dict.keys(self), *self.__dict__["_hidden"]}

    def end(self, why: str) -> None:
        """Refuse every later use of this object: it belonged to an earlier call."""
        self.__dict__["_stale"] = why

    def raise_if_misread(self) -> None:
        """Raise the error of a forbidden use that the tool has caught itself.

        Raises
        ------
        UndeclaredParam
            There was one.
        """
        error = self.__dict__["_error"]
        if error is not None:
            raise error

    # -- one param ----------------------------------------------------------------
    def _refuse(self, text: str) -> NoReturn:
        error = UndeclaredParam(text)
        self.__dict__["_error"] = self.__dict__["_error"] or error
        raise error

    def _check(self, name: object, default: Any = _MISSING) -> None:
        declaration = self.__dict__["_declaration"]
        if self.__dict__["_stale"]:
            self._refuse(
                f"{declaration.tool_name} reads the param {name!r} {self.__dict__['_stale']}"
            )
        if not declaration.allows(name):
            self._refuse(declaration.refusal(str(name), default))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol of Python, not a param
            raise AttributeError(name)
        self._check(name)
        try:
            return super().__getitem__(name)
        except KeyError:
            there = ", ".join(dict.keys(self))
            raise AttributeError(f"no param named {name!r}; there are: {there}") from None

    def __getitem__(self, name: Any) -> Any:
        self._check(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._check(name)
        return super().__contains__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        """Return a param, or ``default``."""
        self._check(name, default)
        return super().get(name, default)

    def pop(self, name: Any, *default: Any) -> Any:
        """Remove a param and return it, or ``default``."""
        self._check(name, *default)
        return super().pop(name, *default)

    def setdefault(self, name: Any, default: Any = None) -> Any:
        """Return a param, set to ``default`` if it is not there."""
        self._check(name, default)
        return super().setdefault(name, default)

    # -- all of them ----------------------------------------------------------------
    def _check_all(self) -> None:
        declaration, hidden = self.__dict__["_declaration"], self.__dict__["_hidden"]
        if self.__dict__["_stale"]:
            self._refuse(f"{declaration.tool_name} reads all params {self.__dict__['_stale']}")
        if hidden:
            self._refuse(declaration.refusal_of_all(hidden))

    # Python copies a dict by way of keys() and [] once its class has an __iter__ of its own.
    def __iter__(self) -> Iterator[str]:
        self._check_all()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._check_all()
        return super().__reversed__()

    def __len__(self) -> int:
        self._check_all()
        return super().__len__()

    def keys(self) -> Any:
        """Return the names."""
        self._check_all()
        return super().keys()

    def values(self) -> Any:
        """Return the values."""
        self._check_all()
        return super().values()

    def items(self) -> Any:
        """Return (name, value) pairs."""
        self._check_all()
        return super().items()

    def copy(self) -> Params:
        """Return a plain copy."""
        self._check_all()
        return Params(dict(_items(self)))

    def popitem(self) -> Any:
        """Remove and return the last (name, value) pair."""
        self._check_all()
        return super().popitem()

    def __copy__(self) -> Params:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Params:
        from copy import deepcopy

        return deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (Params, (dict(self.copy()),))

    def __eq__(self, other: object) -> bool:
        self._check_all()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as of every dict

    # Python 3.9 has these operators on dicts, and asks the right side first if it is a subclass.
    def __or__(self, other: Any) -> Any:
        return {**self.copy(), **other}

    def __ror__(self, other: Any) -> Any:
        return {**other, **self.copy()}

    def __repr__(self) -> str:
        self._check_all()
        return super().__repr__()

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)


def _items(params: dict[str, Any]) -> Any:
    """Return what is in a dict, whatever its class says of it."""
    return dict.items(params)


def given_names(params: Mapping[str, Any]) -> set[str]:
    """Return the names of all params that a job has."""
    return params.given_names() if isinstance(params, DeclaredParams) else set(params)
