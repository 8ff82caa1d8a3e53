"""``gpupool tools``: the installed tools, and the params of each."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from snakemake_executor_gpupool.errors import UnknownTool
from snakemake_executor_gpupool.tool_api.tool_spec import installed_tools, load_tool_class


def list_tools(as_json: bool) -> str:
    """Return the installed tools as text or as a JSON array.

    A tool that cannot be used is listed with the reason, so that one broken
    package does not hide the others.
    """
    tools = [_describe(name, points[0]) for name, points in installed_tools().items()]
    if as_json:
        return json.dumps(tools, indent=2, default=str)
    return "\n\n".join(map(_as_text, tools)) or "no tools are installed"


def _describe(name: str, point: importlib.metadata.EntryPoint) -> dict[str, Any]:
    package = getattr(point, "dist", None)
    described: dict[str, Any] = {
        "name": name,
        "package": f"{package.name} {package.version}" if package else None,
        "class": point.value,
    }
    try:
        tool = load_tool_class(name)
    except UnknownTool as error:
        return {**described, "error": str(error)}
    return {
        **described,
        "version": str(tool.version),
        "summary": (tool.__doc__ or "").strip().partition("\n")[0],
        "devices": list(tool.devices),
        "deterministic": bool(tool.deterministic),
        "params": dict(tool.defaults),
    }


def _as_text(tool: dict[str, Any]) -> str:
    head = f"{tool['name']}  ({tool['package']}, {tool['class']})"
    if "error" in tool:
        return f"{head}\n  cannot be used: {tool['error']}"
    duplicates = "computed once" if tool["deterministic"] else "computed each (not deterministic)"
    lines = [
        f"version     {tool['version']}",
        f"devices     {', '.join(tool['devices'])}",
        f"duplicates  {duplicates}",
        *_param_lines(tool["params"]),
    ]
    if tool["summary"]:
        lines.insert(0, tool["summary"])
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _param_lines(params: dict[str, Any]) -> list[str]:
    lines = [f"{name}={json.dumps(value, default=str)}" for name, value in params.items()]
    heads = ["params      ", *[" " * 12] * (len(lines) - 1)]
    return [head + line for head, line in zip(heads, lines, strict=False)]
