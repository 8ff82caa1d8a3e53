"""Whether write() writes its outputs, all of them, and nothing else."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.check.trial import Trial
from snakemake_executor_gpupool.tool_api.values import Params

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Watch:
    """Notes which files this process opens for writing, while it is on.

    Sees what Python code opens; not what a library writes from C, nor what a child does.
    """

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []
        # A hook cannot be taken out again; it does nothing while the watch is off.
        sys.addaudithook(self._saw)

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or event != "open":
            return
        path, _, flags = arguments
        if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & WRITING_FLAGS:
            self.opened.append(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - as it was


def writing(trial: Trial) -> Iterator[str]:
    """write() writes its outputs, all of them, and nothing else."""
    if not trial.job.output:
        trial.notes.append("write() was not tried: name the rule's outputs with --output")
        return
    results, watch = list(trial.results), Watch()
    tool = trial.tool_class(trial.job.params)
    names = [meta["name"] for meta in trial.metas]
    with tempfile.TemporaryDirectory(prefix="gpupool-check-") as directory:
        scratch = Path(directory).resolve()
        places = {
            path: scratch / str(n) / Path(path).name for n, path in enumerate(trial.job.output)
        }
        for place in places.values():
            place.parent.mkdir()
        outputs = trial.job.output.mapped(lambda path: str(places[path]))
        watch.on = True
        try:
            params = Params(tool.params)
            tool.write(trial.job.replace(output=outputs, item_names=names, params=params), results)
        finally:
            watch.on = False
        missing = [path for path, place in places.items() if not place.exists()]
        known = {*places.values(), *(place.parent for place in places.values())}
        beside = sorted(path.name for path in scratch.glob("*/*") if path not in known)
        elsewhere = sorted({path for path in watch.opened if is_elsewhere(Path(path), scratch)})
    if missing:
        yield f"write() did not write {', '.join(missing)}"
    if beside:
        yield f"write() left {', '.join(beside)} beside its outputs, which would be lost"
    if elsewhere:
        yield f"write() wrote to {', '.join(elsewhere)}; it may write job.output alone"


def is_elsewhere(path: Path, scratch: Path) -> bool:
    """Tell whether a file that was written is still there, and is no output and no cache."""
    known = (scratch, Path("/dev"), Path("/proc"))
    is_cache = {"__pycache__", ".cache"} & set(path.parts)
    return path.exists() and not is_cache and not any(path.is_relative_to(k) for k in known)
