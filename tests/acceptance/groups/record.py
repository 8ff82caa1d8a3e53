"""Records what groups do under ``cluster-generic``, whose jobs run here, one after the other.

python tests/acceptance/groups/record.py     needs snakemake-executor-plugin-cluster-generic

Each member writes down which of its group's files there are when it starts; these and all outputs
are what ``expected.json`` holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "expected.json"
SUBMIT = '#!/usr/bin/env bash\nbash "$1" > .snakemake/job.$$ 2>&1\necho $$\n'
CLUSTER = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", ".snakemake/submit")


def results(directory: Path) -> dict[str, str]:
    """Every file of a workflow's directory but its own and Snakemake's."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and ".snakemake" not in path.parts and path.name != "Snakefile"
    }


def main() -> None:
    """Run the groups, and keep what came of them."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for folder in ("seen", ".snakemake"):
            (directory / folder).mkdir()
        shutil.copy(HERE / "Snakefile", directory)
        submit = directory / ".snakemake/submit"
        submit.write_text(SUBMIT)
        submit.chmod(0o755)
        command = [sys.executable, "-m", "snakemake", *CLUSTER, "--jobs", "3"]
        subprocess.run(command, cwd=directory, check=True)
        EXPECTED.write_text(json.dumps(results(directory), indent=1) + "\n")


if __name__ == "__main__":
    main()
