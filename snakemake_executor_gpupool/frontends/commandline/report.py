"""``gpupool report``: a run as one HTML file, or as a trace, made from its events."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE, EXIT_FAILED, complain
from snakemake_executor_gpupool.records.report.file import report_html, write_page
from snakemake_executor_gpupool.records.runs.files import find_run, is_live
from snakemake_executor_gpupool.records.runs.reader import read_run
from snakemake_executor_gpupool.records.runs.trace import trace_text

#: What stands for standard output.
STANDARD_OUTPUT = "-"


def report(options: argparse.Namespace) -> int:
    """Write the report of a run; return the exit code.

    Raises
    ------
    NoRun
        There is no such run.
    """
    directory = find_run(options.run)
    run = read_run(directory.resolve(), is_live=is_live(directory))
    what = "trace" if options.trace else "report"
    text = trace_text(run) if options.trace else [report_html(run, __version__)]
    if options.output == STANDARD_OUTPUT:
        sys.stdout.writelines(text)
        return EXIT_DONE
    default = directory / ("trace.json" if options.trace else "report.html")
    path = Path(options.output) if options.output else default
    try:
        write_page(path, "".join(text), is_private=not options.output)
    except OSError as error:
        way = "" if options.output else "; --output names another place"
        complain(f"the {what} {path} cannot be written: {error.strerror}{way}")
        return EXIT_FAILED
    if options.json:
        figures = {"run": run.run_id, "state": run.state.value, what: str(path)}
        print(json.dumps({**figures, "bytes": path.stat().st_size}))
    else:
        print(path)
    return EXIT_DONE
