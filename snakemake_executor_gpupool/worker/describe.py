"""Descriptions of tools, models and items for the coordinator, checked before they are sent.

A mistake of the tool's author is reported here as an error of the job; the coordinator would only
see a worker that breaks the protocol.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from snakemake_executor_gpupool.errors import ContractError, InputError
from snakemake_executor_gpupool.tool_api.content_hash import content_hash
from snakemake_executor_gpupool.tool_api.declared import Declaration
from snakemake_executor_gpupool.tool_api.params_read import reads_all_params
from snakemake_executor_gpupool.tool_api.reproducible import SHAPE, mode_here
from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.wire.bounds import (
    MAX_COST,
    MAX_GPUS,
    MAX_MIB,
    MAX_NAME,
    MAX_SECONDS,
    MAX_TEXT,
    MAX_TOKENS,
    MIN_COST,
    printable,
    shortened,
    tool_amount,
    tool_count,
)
from snakemake_executor_gpupool.wire.payload import PICKLE_PROTOCOL
from snakemake_executor_gpupool.worker.code_digest import code_digest
from snakemake_executor_gpupool.worker.named_files import (
    ITEM,
    MODEL,
    RUN_PARAM,
    contents_of,
    places_of_paths,
)

#: How many content hashes of params are cached.
MAX_HASHES = 1000
#: Of a tool that says nothing of it, so many items may go together on a CPU, if they are quick.
QUICK_TOKENS = 512
#: Characters of a model's label, which only messages use.
MAX_LABEL = 500

_HASHES: dict[bytes, str] = {}


def tool_info(tool_class: type[Tool]) -> dict[str, Any]:
    """Return what the coordinator needs to know about a tool's class.

    Raises
    ------
    ValueError
        An attribute is out of bounds; the message names it.
    """
    name = tool_class.__name__
    vram_mib = tool_class.vram_mb
    if vram_mib is not None:
        vram_mib = tool_count(vram_mib, f"{name}.vram_mb", 0, MAX_MIB)
    limit_s = tool_class.batch_limit_s
    if limit_s != float("inf"):
        limit_s = tool_amount(limit_s, f"{name}.batch_limit_s", MAX_SECONDS)
    if not limit_s:
        raise ValueError(f"{name}.batch_limit_s is 0; it must be more")
    return {
        "deterministic": bool(tool_class.deterministic),
        "persistent": bool(tool_class.persistent),
        "devices": list(tool_class.devices),
        "gpus_per_instance": tool_count(
            tool_class.gpus_per_instance, f"{name}.gpus_per_instance", 1, MAX_GPUS
        ),
        "pads": bool(tool_class.pads),
        "vram_mib": vram_mib,
        "batch_limit_s": min(limit_s, MAX_SECONDS),
        "can_move": callable(getattr(tool_class, "to", None)),
    }


def batch_budget(tool: Tool, device: str) -> int:
    """Return the token budget of a tool's micro-batches; at most what the protocol takes.

    Raises
    ------
    ValueError
        It is not a positive number.
    """
    if has_shapes(tool):
        return shape_budget(tool, device)
    what = f"{type(tool).__name__}.batch_tokens()"
    return tool_count(tool.batch_tokens(device), what, 1, clamp=True)


def quick_budget(tool: Tool, device: str) -> int:
    """Return how many tokens a micro-batch may have that takes next to no time.

    0: no more than usual. That is so for a tool that says how many go together, on a GPU, whose
    memory more items could fill in no time, and in a reproducible run.
    """
    says = ("tokens", "batch_tokens")
    # On the object, too: any of its methods may have put another one there.
    is_said = any(
        getattr(getattr(tool, name), "__func__", None) is not getattr(Tool, name) for name in says
    )
    if is_said or tool.max_batch_tokens or device != "cpu" or mode_here().is_reproducible:
        return 0
    return QUICK_TOKENS


def has_shapes(tool: Tool) -> bool:
    """Tell whether the run is reproducible, and the tool's batches have shapes of their own."""
    return tool.reproducible == SHAPE and mode_here().is_reproducible


def shape_budget(tool: Tool, device: str) -> int:
    """Return the tokens of a tool's batches in a reproducible run.

    Raises
    ------
    ValueError
        It is not a positive number.
    """
    what = f"{type(tool).__name__}.shape_tokens()"
    return tool_count(tool.shape_tokens(device), what, 1, clamp=True)


def rung_of(tool: Tool, item: Any) -> int:
    """Return an item's rung, as the object that is asked knows it.

    Raises
    ------
    ValueError
        It is no whole number from 0 on.
    """
    return max(tool_count(tool.rung(item), f"{type(tool).__name__}.rung()", 0), 1)


def describe_model(tool: Tool, outputs: Sequence[str] = ()) -> dict[str, Any]:
    """Return which model a tool's params choose, and which items may share a batch.

    Jobs with the same ``model`` share a model; with the same ``group`` too, they share results,
    within a run and, through a store of results, across runs.
    """
    kind: Any = type(tool)
    model = tool.model_params()
    ident = [kind.__module__, kind.__qualname__, tool.version, code_digest(kind)]
    files = [model, list(tool.extra_model_files())]
    ident += [model, contents_of(files, MODEL, outputs), _names_seen(tool, "load")]
    label = ", ".join(str(value) for value in model.values() if value is not None)
    what = f"{kind.__name__}.short_tokens()"
    return {
        "model": _hashed(ident),
        "model_label": printable(shortened(label, MAX_LABEL)),
        "group": group_of(tool, outputs),
        "short_tokens": tool_count(tool.short_tokens(), what, 0, clamp=True),
    }


def group_of(tool: Tool, outputs: Sequence[str] = ()) -> str:
    """Return which items may share a batch, as far as a tool's params say."""
    run = tool.run_params()
    return _hashed([run, contents_of(run, RUN_PARAM, outputs), _names_seen(tool, "run")])


def _names_seen(tool: Tool, method: str) -> list[str]:
    """Return the params that a method may not read, if it reads all params at once.

    Such a method is refused for jobs that have such params; so these jobs must not share a model
    with jobs that have none, or the order of jobs would matter.
    """
    declaration = Declaration(tool, method)
    others = sorted(name for name in tool.params if not declaration.allows(name))
    kind: Any = type(tool)
    return others if others and reads_all_params(kind, method) else []


def _hashed(value: Any) -> str:
    """Return a value's content hash; cached, as the jobs of a rule mostly have equal values."""
    data = pickle.dumps(value, PICKLE_PROTOCOL)
    if data not in _HASHES:
        if len(_HASHES) == MAX_HASHES:
            _HASHES.clear()
        _HASHES[data] = content_hash(value)
    return _HASHES[data]


def item_name(tool: Tool, item: Any, position: int) -> str:
    """Return an item's name for messages: the tool's, else its position."""
    name = tool.name(item) or f"#{position}"
    return name if type(name) is str else str(name)


class Described(NamedTuple):
    """What the coordinator knows of an item."""

    key: str
    cost: float
    tokens: int
    name: str


def describe_item(tool: Tool, item: Any, position: int) -> Described:
    """Return an item's key, cost, tokens and name.

    Raises
    ------
    InputError
        The item has more tokens than the tool takes.
    ValueError
        What the tool says of the item is out of bounds; the message names the method.
    """
    name = tool.name(item) or f"#{position}"
    name = name if type(name) is str else str(name)
    what = type(tool).__name__
    if len(name) > MAX_NAME:
        raise ValueError(
            f"{what}.name() of item #{position} has {len(name)} characters; "
            f"a name has at most {MAX_NAME}"
        )
    tokens = tool.tokens(item)
    if type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS:
        tokens = tool_count(tokens, f"{what}.tokens() of item {name}", 0)
    if tool.max_batch_tokens is not None and tokens > tool.max_batch_tokens:
        raise InputError(
            f"item {name} has {tokens} tokens; {what} takes at most "
            f"{tool.max_batch_tokens} in one batch"
        )
    if tool.reproducible == SHAPE and has_shapes(tool):
        tokens = rung_of(tool, item)  # what it takes of a batch; batches of a rung are cut full
    cost = tool.cost(item)
    if type(cost) is not float or not MIN_COST <= cost <= MAX_COST:
        cost = tool_amount(cost, f"{what}.cost() of item {name}", MAX_COST)
        cost = cost if cost >= MIN_COST else 0.0
    return Described(key_text(item_key(tool, item)), cost, tokens, name)


def describe_items(tool: Tool, items: Sequence[Any], first: int) -> list[Sequence[Any]]:
    """Return the keys, costs, tokens and names of items, as :func:`describe_item` has each.

    Methods that are those of every tool are not called for each item. ``first`` is the position of
    the first one.

    Raises
    ------
    InputError, ValueError
        As there.
    """
    least = tool.max_batch_tokens is None or tool.max_batch_tokens >= 1
    if not least or has_shapes(tool) or not _are_usual(tool, "name", "tokens", "cost"):
        described = [describe_item(tool, item, place) for place, item in enumerate(items, first)]
        return list(zip(*described)) or [()] * 4
    names = [f"#{place}" for place in range(first, first + len(items))]
    return [_keys_of(tool, items), [1.0] * len(items), [1] * len(items), names]


def _are_usual(tool: Tool, *methods: str) -> bool:
    """Tell whether a tool has no methods of its own in the place of these of every tool."""
    kind: Any = type(tool)
    own = any(getattr(kind, name) is not getattr(Tool, name) for name in methods)
    return not own and vars(tool).keys().isdisjoint(methods)


def _keys_of(tool: Tool, items: Sequence[Any]) -> list[str]:
    if {*map(type, items)} != {str} or not _are_usual(tool, "key"):
        return [key_text(item_key(tool, item)) for item in items]
    keys = [content_hash(item) for item in items]
    for place in places_of_paths(items):
        keys[place] = key_text(item_key(tool, items[place]))
    return keys


def columns_of(items: Sequence[Described]) -> dict[str, Any]:
    """Return items as :func:`describe_item` has them, as the columns of a frame.

    What all items cost, or how many tokens all have, is said once.
    """
    keys, costs, tokens, names = map(list, list(zip(*items)) or [()] * 4)
    columns = {"keys": keys, "costs": costs, "tokens": tokens, "names": names}
    for name, column in (("costs", costs), ("tokens", tokens)):
        if column and column.count(column[0]) == len(column):
            columns[name] = column[0]
    return columns


def item_key(tool: Tool, item: Any) -> str:
    """Return an item's key: items with equal keys are duplicates.

    It covers the content of files that the item names. If the tool defines ``key`` itself, only
    files that this key names count. A text is itself; of any other key a hash, which says its kind.

    Raises
    ------
    ContractError
        The tool returned None: all such items would count as duplicates.
    """
    key = tool.key(item)
    if key is None:
        raise ContractError(f"{type(tool).__name__}.key() returned None. Does it lack a return?")
    is_usual = type(tool).key is Tool.key
    files = contents_of(item if is_usual else key, ITEM)
    # The text of an array is rounded, and shortened; that of bytes may be another item's key.
    text: str = key if type(key) is str else content_hash(key)
    return content_hash([text, files]) if files else text


def key_text(key: str) -> str:
    """Return a key as text that passes through a frame unchanged, and is short enough."""
    if len(key) <= MAX_TEXT and key.isascii():  # what most are
        return key
    # JSON would join two adjacent surrogates into one character, another item's key.
    if len(key) > MAX_TEXT or not _is_encodable(key):
        return content_hash(key)
    return key


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def versions() -> dict[str, str]:
    """Return the versions of Python and of what tools compute with, as far as it is loaded."""
    found = {"python": "{}.{}.{}".format(*sys.version_info)}
    for name in ("torch", "transformers", "numpy"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)[:100]
    for name in ("cuda", "hip"):
        version = getattr(getattr(sys.modules.get("torch"), "version", None), name, None)
        if version is not None:
            found[name] = str(version)[:100]
    return found
