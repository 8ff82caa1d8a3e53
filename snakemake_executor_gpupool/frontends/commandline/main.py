"""The ``gpupool`` command.

    gpupool run TOOL --input K=PATH --output K=PATH   one job, cold: a rule's shell: body
    gpupool check --rule NAME                         does a tool keep its contract
    gpupool serve                                     warm workers beyond one run
    gpupool plan [SNAKEMAKE ARGUMENTS]                what a run would do, and how long
    gpupool report [RUN] --output PATH                a run as one HTML file, or a trace
    gpupool top [RUN]                                 a run as it goes on
    gpupool why FILE                                  where an output came from
    gpupool crate RUN OUT                             a run as an RO-Crate
    gpupool verify [FILE...]                          outputs computed again, and compared
    gpupool devices                                   the devices of this machine
    gpupool tools                                     the installed tools
    gpupool replay FILE                               decide on a recorded run's events again

Exit codes: 0 done, 1 the work failed, 2 misuse. Whatever goes wrong is one line
on standard error; nothing heavy is imported before a subcommand needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_MISUSE,
    complain,
    open_standard_streams,
)

RUN_DESCRIPTION = """\
Do one job with one tool in this process, as the body of a rule does it under any
executor: load the model, read the inputs, run, write the outputs under temporary
names, rename them.

A value after K=V continues it as a list, which is how Snakemake expands one:
--param layers=6 12 and --input fasta=a.fa b.fa. Bare paths before any K=PATH are
positional. Values of --param are numbers, true, false, null, [a, list], {a: mapping},
or text; 'text' or "text" in quotes of its own is text whatever it looks like.
"""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage and leave."""
        self.exit(EXIT_MISUSE, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Lines(argparse.RawDescriptionHelpFormatter):
    """Keeps a description's lines. Made for each option, so it imports nothing for the width."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
        except (OSError, ValueError):
            columns = 80
        super().__init__(prog, width=max(columns, 40) - 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    open_standard_streams()
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except GpupoolError as error:
        complain(str(error))
        return EXIT_MISUSE
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a listing (head, say) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line; those of Snakemake, for a plan, as they are."""
    words = list(arguments)
    if words[:1] == ["run"]:
        # The others are not even imported: a client of a server is to be there at once.
        alone = OneLineParser("gpupool run", description=RUN_DESCRIPTION, formatter_class=_Lines)
        _fill_run(alone)
        return alone.parse_args(words[1:])
    parser = build_parser()
    snakemakes: list[str] = []
    if words[:1] == ["plan"]:
        from snakemake_executor_gpupool.frontends.commandline.commands import split_plan

        words, snakemakes = split_plan(words)
    options = parser.parse_args(words)
    options.snakemake = snakemakes
    return options


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    from snakemake_executor_gpupool.frontends.commandline import commands

    parser = OneLineParser(prog="gpupool", description="Warm model workers for Snakemake.")
    parser.add_argument("--version", action="version", version=f"gpupool {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    run = subparsers.add_parser(
        "run",
        help="do one job with one tool, cold",
        description=RUN_DESCRIPTION,
        formatter_class=_Lines,
    )
    _fill_run(run)
    commands.add_all(subparsers)
    return parser


def _fill_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tool", help="installed tool, package.module:Class, or path/to/file.py:Class")
    pairs: dict[str, Any] = {"nargs": "+", "action": "append", "default": []}
    add("--input", "-i", metavar="[K=]PATH", help="input files", **pairs)
    add("--output", "-o", metavar="[K=]PATH", help="output files", **pairs)
    add("--param", "-p", metavar="K=V", help="params of the tool", **pairs)
    add("--wildcard", metavar="K=V", help="wildcards of the rule", **pairs)
    add("--rule", default="", help="name of the rule, for messages")
    add("--threads", type=int, default=1, help="threads of the job (default: 1)")
    add("--device", help="cpu, cuda or cuda:0 (default: the first the tool can use)")
    add(
        "--reproducible",
        action="store_true",
        help="compute as a run with --gpupool-reproducible does: the same bits in any company",
    )
    add("--seed", help="what the seeds of items are made from (default: 0)")
    add("--log", metavar="PATH", help="file that takes all that the tool prints")
    add(
        "--server",
        nargs="?",
        const="auto",
        metavar="auto|on|off|PATH",
        help="have the job done by warm workers of a server: auto starts one if there is none, on "
        "uses the one that there is, PATH that of a directory (default: GPUPOOL_SERVER, else off)",
    )
    add("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    if options.server is not None or os.environ.get("GPUPOOL_SERVER"):
        from snakemake_executor_gpupool.frontends.commandline.served_run import run_served

        code = run_served(options)
        if code is not None:
            return code
    from snakemake_executor_gpupool.frontends.commandline.run import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
