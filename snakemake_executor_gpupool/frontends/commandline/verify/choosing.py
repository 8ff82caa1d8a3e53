"""Which jobs are done again: from the provenance of a workflow's outputs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_gpupool.errors import Uncontainable
from snakemake_executor_gpupool.frontends.images import read_image
from snakemake_executor_gpupool.records.provenance.reader import ProvenanceReader, Record
from snakemake_executor_gpupool.records.provenance.recorder import content_of, has_content
from snakemake_executor_gpupool.worker.file_hashes import hash_of


@dataclass(frozen=True)
class Recorded:
    """A job as it was recorded, with what it refers to.

    Attributes
    ----------
    directory
        What its paths start from.
    job, model, run
        Its records; empty where there is none.
    start
        How its container was started; empty: it ran in none.
    """

    directory: Path
    job: Record
    model: Record
    run: Record
    start: Record

    @property
    def recipe(self) -> Record:
        """What only doing it again needs."""
        recipe: Record = self.job.get("recipe", {})
        return recipe

    @property
    def container(self) -> Record:
        """The container that it ran in; empty: none."""
        container: Record = self.job.get("container", {})
        return container

    @property
    def outputs(self) -> list[str]:
        """Its outputs, as the rule has them."""
        return [str(output["output"]) for output in self.job.get("outputs", ())]

    @property
    def is_reproducible(self) -> bool:
        """Whether its run was."""
        return bool(self.run.get("mode") == "reproducible")

    @property
    def spec(self) -> str:
        """Its tool, as a process that knows nothing of the workflow can load it."""
        module, _, name = str(self.model.get("tool", "")).partition(":")
        file = str(self.model.get("file", ""))
        return f"{file}:{name}" if module.startswith("gpupool_tool_") else f"{module}:{name}"

    def place_of(self, path: str) -> Path:
        """Return where a file of it is."""
        return self.directory / path


def jobs_of(reader: ProvenanceReader, files: Sequence[str]) -> tuple[list[Recorded], list[str]]:
    """Return the newest job that wrote each file, and the files of which nothing is known."""
    directory = directory_of(reader)
    found: dict[str, Record] = {}
    unknown = []
    for file in files:
        path = os.path.abspath(file)  # noqa: PTH100 - links are part of its name
        names = (os.path.relpath(path, directory), path)
        pairs = (pair for name in names for pair in reader.outputs_at(name))
        job = next((job for _, job in pairs), None)
        if job is None:
            unknown.append(file)
        else:
            found[job["id"]] = job
    return [_whole(reader, directory, job) for job in found.values()], unknown


def newest_jobs(reader: ProvenanceReader) -> list[Recorded]:
    """Return the jobs that wrote what now lies there, each output's newest; none that are gone."""
    directory = directory_of(reader)
    by_output: dict[str, Record] = {}
    for record in reader:
        if record.get("record") == "job" and record.get("kind") == "served":
            for output in record.get("outputs", ()):
                by_output[str(output["output"])] = record
    newest: dict[str, Record] = {}
    for path, job in by_output.items():
        if (directory / path).exists():
            newest[job["id"]] = job
    return [_whole(reader, directory, job) for job in newest.values()]


def sampled(jobs: Sequence[Recorded], count: int, seed: int) -> Iterator[Recorded]:
    """Yield jobs in a random order, the same for the same seed; up to ``count`` are wanted."""
    order = sorted(jobs, key=lambda each: str(each.job["id"]))
    random.Random(seed).shuffle(order)  # noqa: S311 - which ones are looked at is no secret
    yield from order


def directory_of(reader: ProvenanceReader) -> Path:
    """Return the directory of the workflow that a file of provenance belongs to."""
    return Path(os.path.abspath(reader.path)).parents[2]  # noqa: PTH100 - links are part of it


def _whole(reader: ProvenanceReader, directory: Path, job: Record) -> Recorded:
    model = reader.by_id(str(job["model"])) if "model" in job else None
    container = job.get("container", {})
    start = reader.by_id(str(container["start"])) if "start" in container else None
    return Recorded(directory, job, model or {}, reader.run_of(job) or {}, start or {})


# -- whether it can be done again ------------------------------------------------------
def why_not(recorded: Recorded) -> str:
    """Return why a job cannot be done again; empty: nothing is known to be in the way."""
    return next(_reasons(recorded), "")


def _reasons(recorded: Recorded) -> Iterator[str]:
    job, model, recipe = recorded.job, recorded.model, recorded.recipe
    if job.get("kind") != "served":
        yield "its rule is not served, so its job runs under Snakemake alone"
    if not model.get("tool"):
        yield "which tool computed it was not recorded"
    if recipe.get("why_not"):
        yield str(recipe["why_not"])
    inputs = job.get("inputs", [])
    if len(inputs) < int(job.get("n_inputs", 0)):
        yield f"it has {job['n_inputs']} inputs, of which the first ones alone are recorded"
    for path in recorded.outputs:
        if not recorded.place_of(path).exists():
            yield f"output {path} is gone"
    if recorded.container:
        yield from _changed_image(recorded)
    else:
        for what, place in (("tool", model.get("file")), ("software", recipe.get("python"))):
            if place and not Path(place).exists():
                yield f"its {what}, {place}, is gone"
    yield from _changed_inputs(recorded, inputs)


def _changed_image(recorded: Recorded) -> Iterator[str]:
    image, before = recorded.container["path"], recorded.container["sha256"]
    if not recorded.start:
        yield "it ran in a container, and how that was started was not recorded"
    if not Path(image).exists():
        yield f"the image of its container, {image}, is gone"
        return
    try:
        _, now = read_image(image)
    except Uncontainable as error:
        yield str(error)
        return
    now = now.removeprefix("sha256:")
    if now != before:
        digests = f"{before[:12]}, now {now[:12]}"
        yield f"the image of its container, {image}, has changed since ({digests})"


def _changed_inputs(recorded: Recorded, inputs: Sequence[Record]) -> Iterator[str]:
    for each in inputs:
        path = str(each["input"])
        if not recorded.place_of(path).exists():
            yield f"input {path} is gone"
        elif "sha256" in each and not is_as_recorded(each, recorded.place_of(path)):
            yield f"input {path} has changed since"


def is_as_recorded(file: Record, place: Path) -> bool:
    """Tell whether a file has the content that is recorded."""
    return has_content(file, content_of(hash_of(str(place))))
