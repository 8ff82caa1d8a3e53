"""The ``gpupool`` command.

    gpupool run TOOL --input K=PATH --output K=PATH   one job, cold: a rule's shell: body
    gpupool check TOOL --input K=PATH                 does a tool keep its contract
    gpupool devices                                   the devices of this machine
    gpupool tools                                     the installed tools

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

EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_INTERRUPTED = 0, 1, 2, 130

RUN_DESCRIPTION = """\
Do one job with one tool in this process, as the body of a rule does it under any
executor: load the model, read the inputs, run, write the outputs under temporary
names, rename them.

A value after K=V continues it as a list, which is how Snakemake expands one:
--param layers=6 12 and --input fasta=a.fa b.fa. Bare paths before any K=PATH are
positional. Values of --param are numbers, true, false, null, [lists], or text.
"""


CHECK_DESCRIPTION = """\
Try a tool on sample input and say what it does wrong, in words: results of the wrong
number or order, or that depend on their batch, on the load or on a move; duplicates
that are none; params that would be mixed up; items or results that cannot travel;
outputs that are missing or elsewhere. Then say what the pool would make of the input.

Give an input as a job has it, small, with items of different sizes, and the params of
the rule. Each --vary K=V also tries another value of a param.
"""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage and leave."""
        self.exit(EXIT_MISUSE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = build_parser().parse_args(arguments)
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


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"gpupool: {' '.join(message.split())}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = OneLineParser(prog="gpupool", description="Warm model workers for Snakemake.")
    parser.add_argument("--version", action="version", version=f"gpupool {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_check(commands)
    _add_listing(commands, "devices", "list the devices of this machine", _devices)
    _add_listing(commands, "tools", "list the installed tools", _tools)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="do one job with one tool, cold",
        description=RUN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tool", help="installed tool, package.module:Class, or path/to/file.py:Class")
    pairs = {"nargs": "+", "action": "append", "default": []}
    add("--input", "-i", metavar="[K=]PATH", help="input files", **pairs)
    add("--output", "-o", metavar="[K=]PATH", help="output files", **pairs)
    add("--param", "-p", metavar="K=V", help="params of the tool", **pairs)
    add("--wildcard", metavar="K=V", help="wildcards of the rule", **pairs)
    add("--rule", default="", help="name of the rule, for messages")
    add("--threads", type=int, default=1, help="threads of the job (default: 1)")
    add("--device", help="cpu, cuda or cuda:0 (default: the first the tool can use)")
    add("--log", metavar="PATH", help="file that takes all that the tool prints")
    add("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(command=_run)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="try whether a tool keeps its contract",
        description=CHECK_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tool", help="installed tool, package.module:Class, or path/to/file.py:Class")
    pairs = {"nargs": "+", "action": "append", "default": []}
    add("--input", "-i", metavar="[K=]PATH", help="input files of one job", **pairs)
    add("--output", "-o", metavar="[K=]PATH", help="its output files; nothing is kept", **pairs)
    add("--param", "-p", metavar="K=V", help="params of the tool", **pairs)
    add("--vary", metavar="K=V", help="another value of a param to try", **pairs)
    add("--wildcard", metavar="K=V", help="wildcards of the rule", **pairs)
    add("--device", default="cpu", help="cpu, cuda or cuda:0 (default: cpu)")
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        help="by how much two results may differ, relative to the larger of 1 and their size "
        "(default: 1e-4)",
    )
    add("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_check)


def _add_listing(commands: Any, name: str, text: str, command: Callable[..., int]) -> None:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=command)


def _run(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.run import run

    return run(options)


def _check(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.check_command import check

    return check(options)


def _devices(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.devices import list_devices

    print(list_devices(options.json, os.environ))
    return EXIT_DONE


def _tools(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.tools import list_tools

    print(list_tools(options.json))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
