"""The methods of a tool: what they are called with, and which of them a class lacks.

It does not import :class:`~.tool.Tool`, which asks here for its own error messages.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import functools

from snakemake_executor_gpupool.tool_api.nearest import nearest
from snakemake_executor_gpupool.tool_api.source import own_classes

#: What each method is called with, beside the object.
METHODS = {
    "load": ("device",),
    "to": ("device",),
    "run": ("items",),
    "read": ("job",),
    "write": ("job", "results"),
    "item": ("value",),
    "key": ("item",),
    "name": ("item",),
    "cost": ("item",),
    "tokens": ("item",),
    "batch_tokens": ("device",),
    "rung": ("item",),
    "shape_tokens": ("device",),
    "extra_model_files": (),
    "result_tolerance": (),
}
#: Those without which no job can be done.
REQUIRED = ("read", "run", "write")


@functools.lru_cache(maxsize=256)
def missing_method(tool_class: type, base: type, names: tuple[str, ...] = REQUIRED) -> str:
    """Return a sentence on the required method that a class lacks; empty: it lacks none.

    A method that is still that of ``base``, which is ``Tool``, is one that it lacks.
    """
    for name in names:
        if getattr(tool_class, name) is getattr(base, name):
            (arguments, own) = METHODS[name], own_names(tool_class)
            near = nearest(name, [each for each in own if callable(getattr(tool_class, each))])
            meant = f"; is {near} it, misspelt?" if near else ""
            signature = ", ".join(("self", *arguments))
            return f"{tool_class.__name__} has no {name}(): add def {name}({signature}){meant}"
    return ""


def own_names(tool_class: type) -> set[str]:
    """Return the public names that a class and its bases define, beyond what all tools have."""
    names = {name for klass in own_classes(tool_class) for name in vars(klass)}
    return {name for name in names if not name.startswith("_")}
