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
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_MISUSE,
    complain,
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


SERVE_DESCRIPTION = """\
Serve jobs of gpupool run from warm workers that outlive any run, until nobody has had a job for
long. One server serves one user's processes on this machine that have the same gpupool, Python
and devices. GPUPOOL_SERVER=auto, or gpupool run --server, starts one by itself.
"""


CHECK_DESCRIPTION = """\
Try a tool on the jobs of a rule, or on sample input, and say of each part of its contract
whether it is ok, wrong, or not tested, and why not: results that depend on their batch, on
other jobs, on the process or on what was computed before; duplicates that are none; params
that would be mixed up; items or results that cannot travel; outputs that are missing or
elsewhere. Then say what the pool would make of the input.

  gpupool check --rule NAME              up to 8 jobs of a rule of the workflow here; TOOL is
                                         the rule's gpupool_tool, unless it is named
  gpupool check TOOL --input PATH...     one job for each --input; an --output for each of
                                         them, or one for all; --param and --wildcard for all
                                         (a wildcard may have a value for each)

Inputs should be small, with items of different sizes. Params that do not choose the model
are varied where another value is known or can be guessed; --vary K=V tries one of yours.
Exit codes: 0 nothing is wrong, 1 something is, 2 misuse.
"""


PLAN_DESCRIPTION = """\
Say what `snakemake --executor gpupool ARGUMENTS` would do, without doing any of it: which rules
would be served by which tool, in how many models, loads and batches, on which devices, how long
it should take, and what cannot run and why. The graph is the one of `snakemake -n ARGUMENTS`. Times
are what earlier runs have measured; of what was never run it is said that there is no figure.

  gpupool plan --cores 4 --configfile config.yaml
  gpupool plan --devices 2 --devices 4 --cores 4    and what other devices would bring

Nothing is started in the workflow's directory, locked or left there. The options below are
gpupool's; all others, and all after --, are snakemake's.
Exit codes: 0 all jobs can be done, 1 some cannot, 2 misuse, or no graph.
"""


VERIFY_DESCRIPTION = """\
Do jobs again, each cold and alone in a fresh process, in a temporary directory, and compare what
comes out with the outputs that lie there: to the bit for reproducible runs, else within the
tool's tolerance. Say which agree, by how much others differ, and what has changed meanwhile:
the tool's code, weights, software. Jobs whose inputs are gone or have changed are not compared.

Exit codes: 0 all agree, 1 some do not, or could not be verified, 2 nothing could be verified.
"""


REPLAY_DESCRIPTION = """\
Decide again on the events of a run that was recorded with GPUPOOL_RECORD=1, and compare with
what was decided then: the same events must lead to the same effects. The first difference is
shown with its event. Nothing is started, read or written.

Exit codes: 0 all is the same, 1 something differs, 2 the file is no recording, or damaged.
"""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error without the usage and leave."""
        self.exit(EXIT_MISUSE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
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
    parser = build_parser()
    words = list(arguments)
    snakemakes: list[str] = []
    if words[:1] == ["plan"]:
        words, snakemakes = split_plan(words)
    options = parser.parse_args(words)
    options.snakemake = snakemakes
    return options


def split_plan(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of ``gpupool plan`` that are gpupool's, and those that are Snakemake's."""
    own, others = list(words[:1]), list[str]()
    rest = iter(words[1:])
    for word in rest:
        name, equals, _ = word.partition("=")
        if word == "--":
            others += rest
        elif word in ("--json", "-h", "--help"):
            own.append(word)
        elif name in ("--devices", "--sample"):
            own += [word] if equals else [word, *itertools.islice(rest, 1)]
        else:
            others.append(word)
    return own, others


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = OneLineParser(prog="gpupool", description="Warm model workers for Snakemake.")
    parser.add_argument("--version", action="version", version=f"gpupool {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_serve(commands)
    _add_check(commands)
    _add_plan(commands)
    _add_report(commands)
    _add_top(commands)
    _add_why(commands)
    _add_crate(commands)
    _add_verify(commands)
    _add_listing(commands, "devices", "list the devices of this machine", _devices)
    _add_listing(commands, "tools", "list the installed tools", _tools)
    _add_replay(commands)
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


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve the jobs of other processes from warm workers",
        description=SERVE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--status", action="store_true", help="say how the server is, and end; 1: there is none")
    add("--stop", action="store_true", help="have it end once the jobs in flight have")
    add("--json", action="store_true", help="with --status and --stop: as JSON")
    add(
        "--idle-timeout",
        type=_timeout,
        default=300.0,
        metavar="S",
        help="seconds without a job after which the processes of a tool end (default: 300)",
    )
    add(
        "--server-idle-timeout",
        type=_timeout,
        default=1800.0,
        metavar="S",
        help="seconds without a job after which the server ends (default: 1800)",
    )
    add("--devices", metavar="DEVICES", help="as --gpupool-devices of the executor")
    add("--offload-strategy", metavar="HOW", help="as --gpupool-offload-strategy")
    add("--allow-multiple-per-device", action="store_true", help="as the executor's option")
    add("--cache", metavar="DIR", help="directory of results kept across runs")
    add("--directory", metavar="DIR", help="the server's own directory (default: one in /tmp)")
    parser.set_defaults(command=_serve)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="try whether a tool keeps its contract",
        description=CHECK_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    tool = "installed tool, package.module:Class, or path/to/file.py:Class"
    add("tool", nargs="?", help=f"{tool} (default: the rule's)")
    pairs = {"nargs": "+", "action": "append", "default": []}
    add("--rule", metavar="NAME", help="take the jobs from this rule of a workflow")
    add("--snakefile", "-s", metavar="PATH", help="its Snakefile (default: as snakemake does)")
    add("--configfile", metavar="PATH", nargs="+", default=[], help="its configuration files")
    add("--config", metavar="K=V", nargs="+", default=[], help="its configuration")
    add("--directory", "-d", metavar="DIR", help="its working directory (default: this one)")
    add("--input", "-i", metavar="[K=]PATH", help="input files of one job", **pairs)
    add("--output", "-o", metavar="[K=]PATH", help="its output files; nothing is kept", **pairs)
    add("--param", "-p", metavar="K=V", help="params of the tool, as gpupool run reads", **pairs)
    add("--vary", metavar="K=V", help="another value of a param to try", **pairs)
    add("--wildcard", metavar="K=V", help="wildcards: of the jobs, or which jobs", **pairs)
    add("--device", default="cpu", help="cpu, cuda or cuda:0 (default: cpu)")
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        help="by how much numbers of two results may differ, relative to the larger of their own "
        "size and of the largest there, which counts as 1 at most (default: 1e-4)",
    )
    add("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_check)


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="what a run would do, and how long it would take",
        usage="gpupool plan [--json] [--devices SPEC] [--sample N] [SNAKEMAKE ARGUMENTS]",
        description=PLAN_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--devices",
        metavar="SPEC",
        action="append",
        default=[],
        help="also say how it would be on other devices, which need not be there: a number, of "
        "the kind that the pool has; cpu:N; or as in 4x80GiB (may be repeated)",
    )
    add(
        "--sample",
        metavar="N",
        type=_count,
        default=200,
        help="of each rule, read the inputs of at most so many jobs (default: 200; 0: none)",
    )
    add("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(command=_plan)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("takes a number from 0 on")
    return int(text)


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="a run as one HTML file",
        description="Write the report of a run, which goes on or has ended, as one HTML file that "
        "needs nothing else, and print its path.",
    )
    add = parser.add_argument
    add("run", nargs="?", metavar="RUN", help="a run's name or directory (default: the newest)")
    add(
        "--output",
        "-o",
        metavar="PATH",
        help="the file; - for standard output (default: report.html, or trace.json, in the run's "
        "directory)",
    )
    add(
        "--trace",
        action="store_true",
        help="write the run's timeline for https://ui.perfetto.dev or chrome://tracing instead",
    )
    add("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(command=_report)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="compute outputs again, cold and alone, and compare",
        description=VERIFY_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", metavar="FILE", nargs="*", help="outputs of runs (default: a sample of all)")
    add("--sample", metavar="N", type=_count, help="so many jobs, at random (default: 10)")
    add("--seed", metavar="S", type=int, default=0, help="another seed, another sample")
    add("--device", help="cpu, cuda or cuda:0 (default: of the kind that each job had)")
    add(
        "--tolerance",
        metavar="ABS[,REL]",
        help="by how much numbers may differ: ABS, and REL of the largest number beside them "
        "(default: the tool's; nothing, if the run was reproducible)",
    )
    add(
        "--store",
        metavar="PATH",
        help="the provenance of a workflow, or its directory (default: above FILE, else here)",
    )
    add("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_verify)


def _add_why(commands: Any) -> None:
    parser = commands.add_parser(
        "why",
        help="where an output came from",
        description="Say where a file came from: which job wrote it, from what, with which code, "
        "weights, software and devices, and whether it has changed since. A file that was moved is "
        "found by its content. Exit codes: 0 it is as it was written, or its content was not put "
        "down; 1 it has changed or is gone, or nothing is known of it; 2 misuse.",
    )
    parser.add_argument("file", metavar="FILE", help="an output of a run, wherever it is now")
    parser.add_argument(
        "--store",
        metavar="PATH",
        help="the provenance of a workflow, or its directory (default: above FILE, else here)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_why)


def _add_replay(commands: Any) -> None:
    parser = commands.add_parser(
        "replay",
        help="decide on a recorded run's events again",
        description=REPLAY_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="recording, or a run's directory or name"
    )
    parser.add_argument("--print", action="store_true", help="print every event and effect")
    parser.set_defaults(command=_replay)


def _add_top(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="a run as it goes on",
        description="Show a run as it goes on: devices, rules, rates, how long it will take, what "
        "happened last. It reads the run's files alone, so any terminal that sees these will do.",
    )
    add = parser.add_argument
    add("run", nargs="?", metavar="RUN", help="a run's name or directory (default: the newest)")
    add("--once", action="store_true", help="print one frame as text, and end")
    add("--json", action="store_true", help="print one frame as a JSON object, and end")
    add("--interval", type=_seconds, default=1.0, metavar="S", help="between looks (default: 1)")
    parser.set_defaults(command=_top)


def _timeout(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 1e7:
        raise argparse.ArgumentTypeError("takes seconds from 0.1 to 1e7")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("takes seconds from 0.1 to 3600")
    return value


def _add_listing(commands: Any, name: str, text: str, command: Callable[..., int]) -> None:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=command)


def _run(options: argparse.Namespace) -> int:
    if options.server is not None or os.environ.get("GPUPOOL_SERVER"):
        from snakemake_executor_gpupool.frontends.commandline.served_run import run_served

        code = run_served(options)
        if code is not None:
            return code
    from snakemake_executor_gpupool.frontends.commandline.run import run

    return run(options)


def _serve(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.serve import serve_command

    return serve_command(options)


def _check(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.check_command import check

    return check(options)


def _plan(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.plan.command import plan

    return plan(options)


def _top(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.top import top

    return top(options)


def _report(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.report import report

    return report(options)


def _add_crate(commands: Any) -> None:
    parser = commands.add_parser(
        "crate",
        help="a run as an RO-Crate",
        description="Write a run as a Workflow Run RO-Crate (Provenance Run Crate profile), from "
        "its provenance alone: the run's directory may be gone. Needs the package rocrate.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's name; latest: the newest")
    add("out", metavar="OUT", help="the crate's directory, which must be empty or not there")
    add("--store", metavar="PATH", help="the provenance of a workflow, or its directory")
    add("--snakefile", "-s", metavar="PATH", help="the workflow (default: as the run had it)")
    add("--license", metavar="TEXT", help="URL or name of the licence of the crate")
    add("--files", action="store_true", help="copy the files that are still what the run saw")
    add("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(command=_crate)


def _crate(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.crate import crate

    return crate(options)


def _verify(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.verify.command import verify

    return verify(options)


def _why(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.why import why

    return why(options)


def _replay(options: argparse.Namespace) -> int:
    from snakemake_executor_gpupool.frontends.commandline.replay import replay

    return replay(options.file, show=options.print)


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
