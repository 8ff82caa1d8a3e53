"""``gpupool verify`` on outputs of a real run, as they are and after what may befall them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance.running import GPUPOOL, Workflow

SNAKEFILE = """
rule all:
    input: expand("out/{i}.npz", i=range(6))
rule scale:
    input:
        table="in/{i}.txt",
        more=["in/common.txt"],
    output:
        arrays="out/{i}.npz",
        text="out/{i}.tsv",
        flag=touch("out/{i}.flag"),
    params: model="w.txt", sample=lambda wildcards: f"s{wildcards.i}"
    resources: gpupool_tool="scale.py:Scale"
    script: "scale.py"
"""
TOOL = '''
import numpy as np
from pathlib import Path
import factors
from snakemake_executor_gpupool import Tool
from snakemake_executor_gpupool.tool_api.tolerance import Tolerance

class Scale(Tool):
    """Multiplies numbers by a factor."""

    defaults = {"model": ""}
    tolerance = Tolerance(0.0, 1e-4)

    def load(self, device):
        self.weight = float(Path(self.params.model).read_text())

    def read(self, job):
        yield from map(float, Path(job.input.table).read_text().split())

    def run(self, items):
        return [np.full(3, item * self.weight * factors.FACTOR) for item in items]

    def write(self, job, results):
        np.savez(job.output.arrays, **{f"a{n}": r for n, r in enumerate(results)})
        lines = [f"{job.params.sample}\\t{r[0]:.6f}\\n" for r in results]
        Path(job.output.text).write_text("".join(lines))
'''


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("verified"), TOOL)


def run_in(directory: Path, tool: str, *words: str) -> Path:
    """Run the workflow in a directory."""
    workflow = Workflow(directory, SNAKEFILE)
    files = {f"in/{i}.txt": f"{i}.5 {i}.25\n" for i in range(6)}
    files |= {"w.txt": "3", "in/common.txt": "x", "scale.py": tool, "factors.py": "FACTOR = 2.0\n"}
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    done = workflow.run(*GPUPOOL, "--gpupool-devices", "cpu:1", *words)
    assert done.code == 0, done.text
    return directory


def verified(directory: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "snakemake_executor_gpupool.frontends.commandline.main"]
    done = subprocess.run(
        [*command, "verify", *words, "--json"],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    return done.returncode, {each["path"]: each for each in found["outputs"]}, done.stderr


def resave(path: Path, by: float) -> None:
    """Change one number of a file."""
    arrays = dict(np.load(path))
    arrays["a1"][2] *= 1 + by
    np.savez(path, **arrays)


def test_what_a_run_has_written_is_verified(ran: Path) -> None:  # R7
    before = {path: path.stat().st_mtime_ns for path in (ran / "out").iterdir()}
    code, found, _ = verified(ran, "--sample", "2", "--seed", "7")
    assert code == 0 and len(found) == 4, found
    assert {each["kind"] for each in found.values()} == {"bits"}
    assert all(each["is_as_written"] and each["is_written_again"] for each in found.values())
    assert {path: path.stat().st_mtime_ns for path in (ran / "out").iterdir()} == before
    assert verified(ran, "--sample", "2", "--seed", "7")[1].keys() == found.keys()
    assert verified(ran, "--sample", "2", "--seed", "8")[1].keys() != found.keys()


def test_what_has_befallen_an_output_is_said(ran: Path) -> None:  # R7
    resave(ran / "out/1.npz", 1e-5)
    resave(ran / "out/2.npz", 1e-2)
    text = ran / "out/3.tsv"
    text.write_text(text.read_text().replace("s3", "s4"))
    (ran / "in/4.txt").unlink()
    (ran / "in/5.txt").write_text("7.5 7.25\n")
    files = [f"out/{i}.npz" for i in range(6)]
    code, found, _ = verified(ran, *files, "out/unknown.npz")
    assert code == 1
    said = {path: (each["status"], each["kind"]) for path, each in found.items()}
    assert said["out/0.npz"] == ("agrees", "bits")
    assert said["out/1.npz"] == ("agrees", "within")
    assert found["out/1.npz"]["relative"] == pytest.approx(1e-5, rel=0.01)
    assert found["out/1.npz"]["is_as_written"] is False
    assert said["out/2.npz"] == ("differs", "beyond")
    assert found["out/2.npz"]["largest"] == pytest.approx(2.25 * 6 * 1e-2)
    assert found["out/2.npz"]["is_written_again"] is True
    assert said["out/3.npz"] == ("agrees", "bits") and said["out/3.tsv"] == ("differs", "other")
    assert found["out/4.npz"]["why"] == "input in/4.txt is gone"
    assert found["out/5.npz"]["why"] == "input in/5.txt has changed since"
    assert "nothing is known" in found["out/unknown.npz"]["why"]
    code, found, said_last = verified(ran, "out/4.npz")
    assert code == 2 and "nothing could be verified" in said_last
    # A sample is of those that can be computed again.
    code, found, _ = verified(ran, "--sample", "6")
    assert code == 1 and not {"out/4.npz", "out/5.npz"} & found.keys()


def test_what_has_changed_meanwhile_is_said(ran: Path) -> None:
    (ran / "factors.py").write_text("FACTOR = 3.0\n")
    code, found, _ = verified(ran, "out/0.npz")
    each = found["out/0.npz"]
    assert code == 1 and each["status"] == "differs" and each["is_as_written"] is True
    assert each["relative"] == pytest.approx(1 / 3)
    assert any(text.startswith("the tool's code (") for text in each["changed"])
    assert f"code {ran}/factors.py" in each["changed"]
    (ran / "factors.py").write_text("FACTOR = 2.0\n")
    (ran / "w.txt").write_text("3.0001")
    code, found, _ = verified(ran, "out/0.npz", "--tolerance", "0,1e-3")
    assert code == 0 and found["out/0.npz"]["kind"] == "within"
    assert found["out/0.npz"]["changed"] == ["weights w.txt"]
    (ran / "scale.py").rename(ran / "gone.py")
    code, found, _ = verified(ran, "out/0.npz")
    assert code == 2 and "scale.py, is gone" in found["out/0.npz"]["why"]
    os.rename(ran / "gone.py", ran / "scale.py")  # noqa: PTH104


def test_outputs_of_a_reproducible_run_have_to_be_the_same_to_the_bit(tmp_path: Path) -> None:
    tool = TOOL.replace("tolerance =", 'reproducible = "always"\n    tolerance =')
    run_in(tmp_path, tool, "--gpupool-reproducible", "--gpupool-seed", "5")
    resave(tmp_path / "out/1.npz", 1e-15)
    code, found, _ = verified(tmp_path, "out/0.npz", "out/1.npz")
    assert code == 1
    assert found["out/0.npz"]["kind"] == "bits" and found["out/0.npz"]["tolerance"] == [0, 0]
    assert found["out/1.npz"]["status"] == "differs" and found["out/1.npz"]["largest"] < 1e-13


def test_a_tool_that_gives_other_results_each_time_is_not_said_to_differ(tmp_path: Path) -> None:
    tool = TOOL.replace("tolerance =", "deterministic = False\n    tolerance =")
    tool = tool.replace("item * self.weight", "np.random.default_rng().random() * self.weight")
    run_in(tmp_path, tool)
    code, found, _ = verified(tmp_path, "out/0.npz")
    assert code == 2 and "deterministic = False" in found["out/0.npz"]["why"]
