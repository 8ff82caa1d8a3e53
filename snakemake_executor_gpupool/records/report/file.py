"""The report as one file: the page's source, with its style, its script and a run's data in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import os
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.records.paths import open_private
from snakemake_executor_gpupool.records.report.data import report_data
from snakemake_executor_gpupool.records.runs.values import RunView

#: gzip's level: the highest takes twice as long for a hundredth less.
PACKING = 6
PAGE = Path(__file__).parent / "page"
#: In the order in which they are put together.
SCRIPTS = (
    *("basics.js", "data.js", "table.js", "lanes.js", "paint.js", "timeline.js"),
    *("timeline_input.js", "overview.js", "sections.js", "job.js", "main.js"),
)


def report_html(run: RunView, version: str) -> str:
    """Return the report of a run; ``version`` is gpupool's.

    The page may load nothing and run nothing but its own script, as its policy says: both are
    named by their hash, so that a browser refuses what a name or a message brings along.
    """
    return page_html(report_data(run), title=f"{run.run_id} · gpupool report", version=version)


def page_html(data: dict[str, Any], *, title: str, version: str) -> str:
    """Return the page with data in it."""
    style = (PAGE / "style.css").read_text(encoding="utf-8")
    parts = [(PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    values = {
        "policy": policy,
        "version": html.escape(version),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": _packed(data),
    }
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [values[name], rest]
    return "".join(filled)


def _digest(text: str) -> str:
    # The browser hashes what is between the tags, the line break after the first one included.
    return base64.b64encode(hashlib.sha256(f"\n{text}".encode()).digest()).decode()


def _packed(data: dict[str, Any]) -> str:
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a damaged line may say that something took NaN seconds
        text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), PACKING, mtime=0)).decode()


def _finite(value: Any) -> Any:
    """Return a value without the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(path: Path, text: str, *, is_private: bool) -> None:
    """Write a page, whole or not at all; its directory is made if it is not there.

    Parameters
    ----------
    is_private
        The file is for this user alone; otherwise for whom the user's mask says.

    Raises
    ------
    OSError
        It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with open(staged, "w", encoding="utf-8", opener=open_private if is_private else None) as f:
            f.write(text)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
