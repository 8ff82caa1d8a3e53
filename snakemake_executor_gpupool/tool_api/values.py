"""The plain values that a tool works on. Standard library only, Python >= 3.9."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from snakemake_executor_gpupool.errors import InputError  # noqa: F401 - tools may import it from here

if TYPE_CHECKING:
    import pathlib


class Named(list):  # type: ignore[type-arg]  # entries of any kind
    """A list whose entries may have names, like a Snakemake ``input`` or ``output``.

    Parameters
    ----------
    values
        The flat list of entries.
    names
        For each name the half-open range of entries it covers, or the index of
        the single entry it stands for.

    Examples
    --------
    >>> files = Named(["a.fa", "x.txt", "y.txt"], {"fasta": 0, "notes": (1, 3)})
    >>> files.fasta, files[0], files["notes"], files.get("absent")
    ('a.fa', 'a.fa', ['x.txt', 'y.txt'], None)
    """

    def __init__(self, values: Iterable[Any] = (), names: Mapping[str, Any] | None = None) -> None:
        super().__init__(values)
        self._names = dict(names or {})

    def _named(self, name: str) -> Any:
        place = self._names[name]
        return self[place] if isinstance(place, int) else list(self[slice(*place)])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no entry named {name!r}; there are: {', '.join(self._names)}")
        return self._named(name)

    def __getitem__(self, key: Any) -> Any:
        return self._named(key) if isinstance(key, str) else super().__getitem__(key)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry of that name, or ``default``."""
        return self._named(name) if name in self._names else default

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self._names)

    def items(self) -> list[tuple[str, Any]]:
        """Return (name, entry) pairs of the named entries."""
        return [(name, self._named(name)) for name in self._names]

    def mapped(self, function: Callable[[Any], Any]) -> Named:
        """Return a copy whose every flat entry went through ``function``."""
        return Named([function(value) for value in self], self._names)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str | None, Any]]) -> Named:
        """Build from (name or None, value) pairs; a list or tuple value covers a range."""
        values: list[Any] = []
        names: dict[str, Any] = {}
        for name, value in pairs:
            start = len(values)
            if isinstance(value, (list, tuple)):
                values.extend(value)
                place: Any = (start, len(values))
            else:
                values.append(value)
                place = start
            if name is not None:
                names[name] = place
        return cls(values, names)

    def __reduce__(self) -> Any:
        return (Named, (list(self), self._names))


class Params(dict):  # type: ignore[type-arg]  # values of any kind
    """A mapping whose keys can also be read as attributes: ``params.model``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no param named {name!r}; there are: {', '.join(self)}") from None


class PortablePath:
    """A path that is pickled so that every Python reads it, as a :class:`pathlib.Path`.

    Python has moved the path classes between modules. Two of the same path are equal, and are shown
    as that path would be.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __fspath__(self) -> str:
        return self.text

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"PosixPath({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PortablePath) and self.text == other.text

    def __hash__(self) -> int:
        return hash((PortablePath, self.text))

    def __reduce__(self) -> Any:
        return (_as_path, (self.text,))


def _as_path(text: str) -> pathlib.Path:
    import pathlib  # here, since it is a tenth of what a client of a server has to load

    return pathlib.Path(text)


class Job:
    """One rule instance as a plain value, with the access a Snakemake script has.

    Attributes
    ----------
    rule : str
    wildcards : Params
        ``job.wildcards.sample``
    input, output, log : Named
        ``job.input.fasta``, ``job.input[0]``. In :meth:`Tool.write` the outputs
        have temporary names in the same directories and with the same base names;
        they are renamed once ``write`` has returned.
    params, resources : Params
    threads : int
    item_names : list of str
        In :meth:`Tool.write`: what :meth:`Tool.name` said of each item, in order.
    """

    def __init__(
        self,
        rule: str = "",
        wildcards: Mapping[str, Any] | None = None,
        input: Iterable[str] = (),
        output: Iterable[str] = (),
        params: Mapping[str, Any] | None = None,
        log: Iterable[str] = (),
        threads: int = 1,
        resources: Mapping[str, Any] | None = None,
        item_names: Sequence[str] = (),
    ) -> None:
        self.rule = rule
        self.wildcards = Params(wildcards or {})
        self.input = input if isinstance(input, Named) else Named(input)
        self.output = output if isinstance(output, Named) else Named(output)
        self.params = Params(params or {})
        self.log = log if isinstance(log, Named) else Named(log)
        self.threads = threads
        self.resources = Params(resources or {})
        self.item_names = list(item_names)

    def __str__(self) -> str:
        """Return rule and wildcards, as error messages name the job."""
        wildcards = ", ".join(f"{name}={value}" for name, value in self.wildcards.items())
        return f"rule {self.rule or '?'}" + (f" ({wildcards})" if wildcards else "")

    def replace(self, **changes: Any) -> Job:
        """Return a copy with some attributes changed.

        Raises
        ------
        KeyError
            There is no such attribute.
        """
        copy = Job.__new__(Job)
        copy.__dict__.update(self.__dict__)
        for name, value in changes.items():
            kind = self.__dict__[name].__class__
            copy.__dict__[name] = value if isinstance(value, kind) else kind(value)
        return copy
