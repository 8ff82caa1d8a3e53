"""``gpupool verify``: which outputs are what the tool computes, cold and alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.commandline.job_words import device_option
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_MISUSE,
    complain,
)
from snakemake_executor_gpupool.frontends.commandline.verify.again import (
    AGREES,
    DIFFERS,
    NOT_VERIFIED,
    Finding,
    Options,
    verified,
)
from snakemake_executor_gpupool.frontends.commandline.verify.choosing import (
    Recorded,
    jobs_of,
    newest_jobs,
    sampled,
    why_not,
)
from snakemake_executor_gpupool.records.provenance.reader import (
    PLACE,
    ProvenanceReader,
    find_file,
)

#: How many jobs are done again where nothing says which.
DEFAULT_SAMPLE = 10
UNKNOWN = "nothing is known of it: no run has recorded such an output"
_SAID = {
    "bits": "agrees to the bit",
    "values": "agrees in all values, in other bytes",
    "other": "DIFFERS in {}",
}


def verify(options: argparse.Namespace) -> int:
    """Verify the outputs that the options name; return the exit code."""
    how = Options(device_option(options.device), tolerance_option(options.tolerance))
    place = _place(options)
    started_s = time.perf_counter()
    findings: list[Finding] = []
    with ProvenanceReader(place) as reader:
        with reader.making_sense():
            jobs, unknown, skipped = _chosen(reader, options)
        findings += [
            Finding(
                file, NOT_VERIFIED, "nothing is known of it: no run has recorded such an output"
            )
            for file in unknown
        ]
        for job in jobs:
            for finding in verified(job, how, _kinds(reader, job)):
                findings.append(finding)
                if not options.json:
                    print("\n".join(lines_of(finding)), flush=True)
    return _ended(options, findings, skipped, time.perf_counter() - started_s)


def tolerance_option(text: str | None) -> tuple[float, float] | None:
    """Return the absolute and the relative part of a tolerance.

    Raises
    ------
    ConfigError
        It is not one number, or two.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        absolute, relative = numbers if len(numbers) == 2 else (numbers[0], 0.0)
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < float("inf") for number in numbers):
        raise ConfigError(
            f"--tolerance {text!r} is neither ABSOLUTE nor ABSOLUTE,RELATIVE: 1e-6, or 1e-6,1e-4"
        )
    return absolute, relative


def _place(options: argparse.Namespace) -> Path:
    start = Path(options.files[0]).absolute().parent if options.files else Path.cwd()
    place = Path(options.store) if options.store else find_file(start) or find_file(Path.cwd())
    if place is None:
        raise ConfigError(
            f"there is no {PLACE} here or above: verify in the directory of a workflow that has "
            "run, or name it with --store"
        )
    return place / PLACE if place.is_dir() else place


def _chosen(
    reader: ProvenanceReader, options: argparse.Namespace
) -> tuple[list[Recorded], list[str], list[str]]:
    """Return the jobs to do again, files of which nothing is known, and why others are left out."""
    if options.files:
        jobs, unknown = jobs_of(reader, options.files)
        if options.sample is not None:
            jobs = list(sampled(jobs, options.sample, options.seed))[: options.sample]
        return jobs, unknown, []
    wanted = DEFAULT_SAMPLE if options.sample is None else options.sample
    chosen: list[Recorded] = []
    skipped: list[str] = []
    for job in sampled(newest_jobs(reader), wanted, options.seed):
        if len(chosen) == wanted:
            break
        why = why_not(job)
        if why:
            skipped.append(f"{', '.join(job.outputs)}: {why}")
        else:
            chosen.append(job)
    return chosen, [], skipped


def _kinds(reader: ProvenanceReader, job: Recorded) -> list[str]:
    names = {str(name) for batch in reader.batches_of(job.job) for name in batch.get("devices", ())}
    return sorted({name.rpartition("/")[2].partition(":")[0] for name in names})


def _ended(
    options: argparse.Namespace, findings: list[Finding], skipped: list[str], seconds: float
) -> int:
    counts = {
        status: sum(finding.status == status for finding in findings)
        for status in (AGREES, DIFFERS, NOT_VERIFIED)
    }
    if options.json:
        outputs = [dataclasses.asdict(finding) for finding in findings]
        whole = {"outputs": outputs, "skipped": skipped, "seconds": round(seconds, 3)}
        json.dump(whole, sys.stdout, indent=2)
        print()
    else:
        for finding in findings:
            if finding.why == UNKNOWN:
                print("\n".join(lines_of(finding)))
        if skipped:
            print(f"left out, as they cannot be computed again: {len(skipped)}, {skipped[0]}")
        said = ", ".join(f"{count} {_word(status, count)}" for status, count in counts.items())
        print(f"{said} ({seconds:.1f} s)")
    if not counts[AGREES] and not counts[DIFFERS]:
        complain("nothing could be verified")
        return EXIT_MISUSE
    return EXIT_DONE if counts[AGREES] == len(findings) else EXIT_FAILED


def _word(status: str, count: int) -> str:
    return (
        status if count == 1 or status == NOT_VERIFIED else {AGREES: "agree"}.get(status, "differ")
    )


def lines_of(finding: Finding) -> Iterator[str]:
    """Yield what became of an output, as lines of text."""
    yield f"{finding.path}: {_said(finding)}"
    if finding.is_as_written is False:
        yield "  the file has changed since the run wrote it" + (
            "; what was computed now is what the run wrote" if finding.is_written_again else ""
        )
    for change in finding.changed:
        yield f"  changed since: {change}"


def _said(finding: Finding) -> str:
    if finding.status == NOT_VERIFIED:
        return f"not verified: {finding.why}"
    if finding.kind in _SAID:
        return _SAID[finding.kind].format(finding.why or "what is no number")
    amount = f"by {finding.largest:.2g} ({finding.relative:.1g} of the largest number beside it"
    amount += f", {finding.why})" if finding.why else ")"
    if finding.status == AGREES:
        return f"agrees: differs {amount}, allowed is {_shown(finding.tolerance)}"
    judged = f"allowed is {_shown(finding.tolerance)}"
    if finding.tolerance is None:
        judged = "the tool does not say what is allowed: judge by --tolerance"
    return f"DIFFERS {amount}, {judged}"


def _shown(tolerance: list[float] | None) -> str:
    absolute, relative = tolerance or (0.0, 0.0)
    if not absolute and not relative:
        return "nothing, as the run was reproducible or the tool is exact"
    return f"{absolute:g} + {relative:g} of that"
