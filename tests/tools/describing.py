"""A tool that writes down all that it is told of its job, into every output."""

import json
from pathlib import Path

from snakemake_executor_gpupool import Tool


class Describing(Tool):
    """Turns lines into capitals, and says for whom."""

    defaults = {"model": "m", "suffix": ""}

    def load(self, device):
        if self.params.model.endswith(".once") and not Path(self.params.model).exists():
            Path(self.params.model).touch()
            raise OSError("weights not there yet")

    def read(self, job):
        for path in job.input:
            yield from Path(path).read_text().splitlines()

    def run(self, items):
        if "bad" in items:
            raise ValueError("this line is bad")
        return [item.upper() + self.params.suffix for item in items]

    def write(self, job, results):
        description = {
            "rule": job.rule,
            "wildcards": job.wildcards,
            "input": [job.input, job.input.items()],
            "output": [[Path(path).name for path in job.output], job.output.keys()],
            "log": [job.log, job.log.items()],
            "params": job.params,
            "threads": job.threads,
            "resources": job.resources,
            "results": results,
        }
        text = json.dumps(description, indent=1, sort_keys=True, default=repr) + "\n"
        for path in map(Path, job.output):
            if path.name.startswith("folder"):
                path.mkdir()
                (path / "inside.json").write_text(text)
            if path.suffix == ".json":
                path.write_text(text)
        if len(job.log) > 1:
            Path(job.log[1]).write_text(f"by hand, for {job.wildcards}\n")
        print(f"describing {job.rule} with {len(results)} results")


Describing.main(snakemake)  # noqa: F821
