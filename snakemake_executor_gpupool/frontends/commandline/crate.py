"""``gpupool crate RUN OUT``: a run as a Workflow Run RO-Crate, made from its provenance.

The crate follows the Provenance Run Crate profile: the workflow and its steps, one action for each
job, with the tool that did it, its files and params. Files are named where they lie; with
``--files`` those whose content is still what the run saw are copied into the crate. The run's own
records go along, since the profile has no words for batches and devices.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from snakemake_executor_gpupool.errors import GpupoolError
from snakemake_executor_gpupool.frontends.commandline.output import (
    EXIT_DONE,
    EXIT_MISUSE,
    complain,
)
from snakemake_executor_gpupool.records.provenance.reader import PLACE, ProvenanceReader, Record

#: Where Snakemake looks for a workflow.
SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
#: What stands for the newest run.
LATEST = "latest"
NO_LICENSE = "No license was stated for this crate."


class NoCrate(GpupoolError):
    """A crate cannot be written; the message says why, and what to do."""


def crate(options: argparse.Namespace) -> int:
    """Write a crate and print its path; return the exit code.

    Raises
    ------
    NoCrate, NoProvenance
        There is no such run, its Snakefile is not found, or the crate's place is taken.
    """
    if importlib.util.find_spec("rocrate") is None:
        complain("gpupool crate needs the package rocrate: pip install rocrate")
        return EXIT_MISUSE
    place = Path(options.store) if options.store else Path(PLACE)
    place = place / PLACE if place.is_dir() else place
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NoCrate(f"{out} is there already: name a directory that is empty, or not there")
    with ProvenanceReader(place) as reader, reader.making_sense():
        run = reader.run_named(None if options.run == LATEST else Path(options.run).name)
        if run is None:
            raise NoCrate(f"{place} knows no run {options.run}: gpupool why FILE names one")
        records = list(reader.of_run(run["id"]))
    workflow = place.absolute().parents[2]
    snakefile = find_snakefile(options.snakefile, run, workflow)
    from snakemake_executor_gpupool.frontends.commandline.crate_entities import Crate

    with reader.making_sense():
        made = Crate(run, records, workflow, with_files=options.files)
        if not made.jobs:
            raise NoCrate(f"run {run['run']} has recorded no job: there is nothing to tell")
        try:
            made.write(out, snakefile, options.license or NO_LICENSE)
        except OSError as error:
            raise NoCrate(f"the crate {out} cannot be written: {error.strerror}") from error
    if options.json:
        print(json.dumps({"run": run["run"], "crate": str(out), "jobs": len(made.jobs)}))
    else:
        print(out)
    return EXIT_DONE


def find_snakefile(given: str | None, run: Record, workflow: Path) -> Path:
    """Return the workflow's main file: as given, as the run has it, or where Snakemake looks.

    Raises
    ------
    NoCrate
        There is none.
    """
    noted = run.get("snakefile")
    names = [given] if given else [*([str(noted)] if noted else []), *SNAKEFILES]
    for name in names:
        if (workflow / name).is_file():
            return workflow / name
    raise NoCrate(f"there is no {' or '.join(names)} in {workflow}: --snakefile names the workflow")
