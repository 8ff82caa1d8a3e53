"""The commands other than ``gpupool run``: their options, and what does them."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snakemake_executor_gpupool.frontends.commandline.output import EXIT_DONE
from snakemake_executor_gpupool.frontends.commandline.serve import add_serve

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


def add_all(commands: Any) -> None:
    """Add them to the command line's parser."""
    add_serve(commands)
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
        "found by its content. Exit codes: 0 it is as it was written, or its content was not "
        "recorded; 1 it has changed or is gone, or nothing is known of it; 2 misuse.",
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


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("takes seconds from 0.1 to 3600")
    return value


def _add_listing(commands: Any, name: str, text: str, command: Callable[..., int]) -> None:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=command)


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
