"""The public base class of a tool, and the plain values it works on.

This module runs inside worker processes, possibly under the Python (>= 3.9) of a
rule's own environment: it imports nothing outside the standard library.

A tool's life, whoever calls it::

    tool = MyTool(params)         params: the job's own over the tool's defaults
    tool.load("cuda:0")           once per worker
    items = list(tool.read(job))  in another process, while the model computes
    tool.params = ...; tool.run([item, item, ...])
    tool.write(job, results)      in the job's own item order
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.short_requests import ShortTokens, short_tokens


class InputError(ValueError):
    """A user's input or params are wrong; the message is shown as it is, without a traceback.

    Raise it from :meth:`Tool.read`, :meth:`Tool.load`, :meth:`Tool.run` or :meth:`Tool.write`
    with a text that names the file, what was expected and what to do.
    """


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

    The classes of paths have been in several modules.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> Any:
        return (_as_path, (self.text,))


def _as_path(text: str) -> pathlib.Path:
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
        """Name the job as an error message does: rule and wildcards."""
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
            made = self.__dict__[name].__class__
            copy.__dict__[name] = value if isinstance(value, made) else made(value)
        return copy


class Tool:
    """One model and how to serve it.

    Subclass it in a script of the workflow or in a package. Only :meth:`read`,
    :meth:`run` and :meth:`write` are required; :meth:`load` is where weights are
    read, and where heavy imports belong, so that reading stays light.

    Attributes
    ----------
    params : Params
        The job's params over :attr:`defaults`. Set before every call; in
        :meth:`run` they are those of the items at hand.
    device : str
        Where :meth:`load` or :meth:`to` last put the model: ``"cpu"`` or ``"cuda:0"``
        (logical index; a worker sees only its own devices). Several devices are
        separated by commas.
    """

    #: Params that choose the model: another value is another worker.
    reload_on: Sequence[str] = ("model",)
    #: Params for ``read`` and ``write`` alone (a format, a limit): what they change shows in the
    #: items or the files, so they neither reach ``run`` nor tell items apart.
    write_params: Sequence[str] = ()
    #: Default values of the tool's params. Where this is not empty, params it does not name
    #: (a rule's ``sample=...``, say) are for ``read`` and ``write`` alone.
    defaults: Mapping[str, Any] = {}
    #: False: duplicates are computed each for itself.
    deterministic: bool = True
    #: False: a fresh process for every micro-batch, ended after it.
    persistent: bool = True
    #: What the model can run on, the preferred first.
    devices: Sequence[str] = ("cuda", "cpu")
    #: How many devices one instance of the model needs.
    gpus_per_instance: int = 1
    #: The most tokens (padded, if ``pads``) of one micro-batch; a single item over it is refused.
    #: None: no bound.
    max_batch_tokens: int | None = None
    #: Up to how many tokens (items times the longest) a job is short: short jobs go before others,
    #: and through a chain of models in one dispatch. One number, or one for each value of the
    #: param ``precision``; 0: no job is. None: 128, and 1 for ``nf4`` (see :mod:`.merging`).
    max_short_tokens: ShortTokens = None
    #: Whether a batch is padded to its longest item.
    pads: bool = True
    #: Device memory that an instance needs, in MiB, if known.
    vram_mb: int | None = None
    #: A micro-batch that takes longer than this, and than 20 times what its cost lets expect,
    #: counts as hung: its worker is killed and its items are tried again.
    batch_limit_s: float = 600.0
    #: Version of the tool, for provenance and stores of results.
    version: str = "0"

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = Params({**self.defaults, **(params or {})})
        self.device = "cpu"

    # -- the model ---------------------------------------------------------
    def load(self, device: str) -> None:
        """Read the weights and put them on ``device``. Called once per worker."""

    def run(self, items: list[Any]) -> list[Any]:
        """Compute one result per item, in the same order.

        Results travel between processes: numpy arrays, tensors on the CPU and
        plain values do; device tensors and open files do not.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    # -- the files ---------------------------------------------------------
    def read(self, job: Job) -> Iterable[Any]:
        """Yield the job's items, in order. Called without a loaded model."""
        raise NotImplementedError(f"{type(self).__name__} has no read()")

    def write(self, job: Job, results: list[Any]) -> None:
        """Write ``job.output`` from the results, one per item, in the order of ``read``."""
        raise NotImplementedError(f"{type(self).__name__} has no write()")

    def item(self, value: Any) -> Any:
        """Return the item that a caller of the Python API means by a value: by default itself."""
        return value

    # -- what the pool should know of an item --------------------------------
    def key(self, item: Any) -> bytes | str:
        """Return what makes an item a duplicate of another: by default its whole content."""
        return content_hash(item)

    def name(self, item: Any) -> str:
        """Return what a message calls the item; empty: its position."""
        return ""

    def cost(self, item: Any) -> float:
        """Return the relative cost of an item, the weight in load balancing."""
        return 1.0

    def tokens(self, item: Any) -> int:
        """Return how much of a micro-batch's token budget an item takes."""
        return 1

    def batch_tokens(self, device: str) -> int:
        """Return the token budget of a micro-batch to start with on that kind of device."""
        return self.max_batch_tokens or 64

    # -- derived -------------------------------------------------------------
    def model_params(self) -> dict[str, Any]:
        """Return the params that choose the model."""
        return {name: self.params.get(name) for name in self.reload_on}

    def run_params(self) -> dict[str, Any]:
        """Return the params that matter to :meth:`run` beyond the model's."""
        known = set(self.defaults) if self.defaults else set(self.params)
        left_out = {*self.reload_on, *self.write_params, "gpupool_tool"}
        return {k: v for k, v in sorted(self.params.items()) if k in known - left_out}

    def short_tokens(self) -> int:
        """Return up to how many tokens a job is short, at its precision."""
        return short_tokens(self.max_short_tokens, str(self.params.get("precision", "")).lower())

    # -- cold ------------------------------------------------------------------
    @classmethod
    def main(cls, snakemake: Any) -> None:
        """Do the job of a Snakemake ``script:`` cold: load, read, run, write.

        The last line of a script that holds a tool: ``MyTool.main(snakemake)``. Nothing
        happens while the pool loads the script for its class, when ``snakemake`` is None.
        """
        if snakemake is None:
            return
        from snakemake_executor_gpupool.worker.cold import job_from_snakemake, run_cold

        run_cold(cls, job_from_snakemake(snakemake), device=os.environ.get("GPUPOOL_DEVICE"))

    def micro_batches(self, items: Sequence[Any], budget: int) -> Iterator[list[int]]:
        """Yield index lists of micro-batches, longest items first, within a token budget."""
        order = sorted(range(len(items)), key=lambda i: -self.tokens(items[i]))
        batch: list[int] = []
        longest = total = 0
        for index in order:
            tokens = self.tokens(items[index])
            longest, total = max(longest, tokens), total + tokens
            size = longest * (len(batch) + 1) if self.pads else total
            if batch and size > budget:
                yield batch
                batch, longest, total = [], tokens, tokens
            batch.append(index)
        if batch:
            yield batch
