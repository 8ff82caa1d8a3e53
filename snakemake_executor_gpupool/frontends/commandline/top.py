"""``gpupool top``: a run as it goes on, in a terminal, from its files alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING

from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE
from snakemake_executor_gpupool.records.progress import format_seconds
from snakemake_executor_gpupool.records.runs.files import find_run, is_live
from snakemake_executor_gpupool.records.runs.live import WINDOW_S, DeviceNow, Snapshot, snapshot
from snakemake_executor_gpupool.records.runs.reader import RunReader
from snakemake_executor_gpupool.records.runs.states import RunState
from snakemake_executor_gpupool.wire.bounds import printable

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

#: Columns where the terminal does not say how wide it is.
WIDTH = 100
BAR_WIDTH = 10


class Watch:
    """Reads a run as it grows.

    Raises
    ------
    NoRun
        There is no such run.
    """

    def __init__(self, name: str | None) -> None:
        self._directory = find_run(name).resolve()
        self._reader = RunReader(self._directory)

    def look(self, now_s: float) -> Snapshot:
        """Return what the run is at; ``now_s`` is since the epoch."""
        goes_on = is_live(self._directory)
        # After the look at the lock: a run that has let it go has written its last line.
        self._reader.poll()
        if not goes_on:
            self._reader.finish()
            now_s = self._reader.run.end_s
        else:
            self._reader.add_notes()
        return snapshot(self._reader.run, now_s)


def top(options: argparse.Namespace) -> int:
    """Show a run until it ends; return the exit code.

    Raises
    ------
    NoRun
        There is no such run.
    """
    watch = Watch(options.run)
    if options.json:
        print(json.dumps(dataclasses.asdict(watch.look(time.time()))))
        return EXIT_DONE
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    if options.once or not console.is_terminal:
        console.print(frame(watch.look(time.time())))
        return EXIT_DONE
    from rich.live import Live

    shot = watch.look(time.time())
    with Live(frame(shot), console=console, screen=True, auto_refresh=False) as live:
        while shot.state == RunState.GOING.value:
            time.sleep(options.interval)
            shot = watch.look(time.time())
            live.update(frame(shot), refresh=True)
    console.print(frame(shot))
    return EXIT_DONE


def _shown(text: str) -> str:
    """Return a name or message of somebody else's as one line that no terminal obeys."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in printable(text)
    )


# -- one frame -----------------------------------------------------------------------
def frame(shot: Snapshot) -> Group:
    """Return what one look shows: the run, its devices, its rules, what happened last."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_head(shot), Text(), _devices(shot)]
    if shot.rules:
        parts += [Text(), _rules(shot)]
    if shot.events:
        parts += [Text(), _events(shot)]
    parts += [Text(f"note: {_shown(note)}", style="yellow") for note in shot.notes]
    return Group(*parts)


def _head(shot: Snapshot) -> Text:
    from rich.text import Text

    style = {"going": "green", "ended": "bold"}.get(shot.state, "bold red")
    head = Text.assemble(
        ("gpupool run ", "bold"), (_shown(shot.run), "bold"), "  ", (shot.state, style), "  "
    )
    head.append(format_seconds(shot.elapsed_s))
    if shot.simulated:
        head.append("  SIMULATED devices", "bold yellow")
    head.append(f"\njobs {shot.jobs_done} of {shot.jobs_known} submitted so far")
    head.append(f"   {shot.items_per_s:,.1f} items/s   {shot.tokens_per_s:,.0f} tokens/s")
    if shot.state == RunState.GOING.value:
        head.append(f"   {_eta(shot)}")
        if shot.silent_s > WINDOW_S:
            head.append(f"   nothing heard for {format_seconds(shot.silent_s)}", "yellow")
    return head


def _eta(shot: Snapshot) -> str:
    """Say how long the jobs that are known will take."""
    left = shot.remaining
    if left is None:
        return "ETA unknown"
    likely, low, high = map(format_seconds, (left.likely_s, left.low_s, left.high_s))
    return f"ETA {likely} ({low} to {high})"


def _table(*columns: tuple[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, align in columns:
        table.add_column(title, justify="right" if align == "right" else "left", overflow="fold")
    return table


def _devices(shot: Snapshot) -> Table:
    from rich.text import Text

    left = [(title, "left") for title in ("model", "doing", "batch")]
    table = _table(("device", ""), ("busy", ""), ("memory", "right"), *left)
    for device in shot.devices:
        about = (device.name, _bar(device.busy_share), _memory(device), device.model)
        cells = (*about, device.doing, device.batch)
        table.add_row(*(Text(_shown(cell)) for cell in cells))
    return table


def _bar(share: float) -> str:
    filled = round(BAR_WIDTH * share)
    return f"{'#' * filled}{'.' * (BAR_WIDTH - filled)} {100 * share:3.0f}%"


def _memory(device: DeviceNow) -> str:
    if device.memory_mib is None:
        return "-"
    used = f"{device.memory_mib / 1024:.1f}"
    if device.memory_total_mib is None:
        return f"{used} GiB"
    return f"{used}/{device.memory_total_mib / 1024:.0f} GiB"


def _rules(shot: Snapshot) -> Table:
    from rich.text import Text

    numbers = [("done", "right"), ("running", "right"), ("waiting", "right"), ("failed", "right")]
    table = _table(("rule", ""), *numbers)
    for rule in shot.rules:
        failed = Text(str(rule.failed), style="bold red" if rule.failed else "")
        counts = (str(rule.done), str(rule.running), str(rule.waiting))
        table.add_row(Text(_shown(rule.rule)), *counts, failed)
    return table


def _events(shot: Snapshot) -> Table:
    from rich.text import Text

    table = _table(("ago", "right"), ("what happened", ""))
    for ago_s, text in shot.events:
        table.add_row(format_seconds(ago_s), Text(_shown(text)))
    return table
