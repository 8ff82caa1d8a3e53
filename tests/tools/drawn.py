"""The tool of workflows that a seed draws: lines in, lines out, faults where a line asks for them.

A line is a digest and the faults that travel with it: ``text|run@r2|write@r3``. What comes out
depends on all that a job declares and on nothing else, so any executor has to give the same bytes.
"""

import hashlib
from pathlib import Path

from snakemake_executor_gpupool import Tool


def lines_of(path):
    """Return the lines of a file, or those of the files of a directory with their names."""
    path = Path(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return [f"{each.relative_to(path)}:{line}" for each in files for line in lines_of(each)]
    return path.read_text().splitlines()


class Drawn(Tool):
    """Makes a digest of each line."""

    defaults = {"model": "m", "suffix": "", "stage": ""}
    max_short_tokens = 400

    def load(self, device):
        if self.params.model == "none":
            raise OSError("no such weights")
        self.loaded = self.params.model

    def read(self, job):
        print(f"SAY reading for {job.rule} {sorted(job.wildcards.items())}")
        lines = [line for path in job.input for line in lines_of(path)]
        if any(f"|read@{job.rule}" in line for line in lines):
            raise ValueError("unreadable")
        return lines

    def name(self, item):
        return item

    def tokens(self, item):
        return len(item)

    def run(self, items):
        results = []
        for item in items:
            text, *faults = item.split("|")
            if f"run@{self.params.stage}" in faults:
                raise ValueError("this line is bad")
            told = f"{self.loaded} {self.params.suffix} {text}"
            results.append("|".join([hashlib.sha1(told.encode()).hexdigest()[:10], *faults]))
        return results

    def write(self, job, results):
        print(f"SAY writing {len(results)} of {job.rule} {sorted(job.wildcards.items())}")
        if job.params.get("asks"):
            print(f"SAY attempt {job.resources['try_']} threads {job.threads}")
            if job.resources["try_"] < 2 and any(f"|late@{job.rule}" in line for line in results):
                raise ValueError("too early")
        if any(f"|write@{job.rule}" in line for line in results):
            Path(job.output[0]).write_text("half")
            raise ValueError("unwritable")
        for number, path in enumerate(map(Path, job.output)):
            self.write_one(job, number, path, results)
        if "shown" in job.params:
            print(f"SAY shown {job.params.shown!r}")
        if len(job.log) > 1:
            Path(job.log[1]).write_text(f"by hand, for {job.rule}\n")

    def write_one(self, job, number, path, results):
        text = "".join(f"{line}\n" for line in results)
        style = job.params.get("style", "plain")
        if path.name.endswith(".dir"):
            for place, line in enumerate(results):
                (path / f"deep{place % 2}").mkdir(parents=True, exist_ok=True)
                (path / f"deep{place % 2}" / f"{place}.txt").write_text(line + "\n")
            path.mkdir(exist_ok=True)
        elif path.name.endswith(".book"):
            with path.open("a") as book:
                book.write(f"{len(results)} lines\n{text}")
        elif not path.name.endswith(".flag"):
            path.write_text(text if not number else f"{style} {number}\n{text}")


Drawn.main(snakemake)  # noqa: F821
