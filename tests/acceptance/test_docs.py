"""What the documentation prints, run as printed (S1, T5)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.running import LOCAL, Workflow
from tests.pages import code_blocks, printed_files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def test_the_quickstart_served_and_cold(tmp_path: Path) -> None:
    files = {
        name: text.partition("\n")[2] if name.endswith(".fasta") else text
        for name, text in printed_files("quickstart.md").items()
    }
    workflow = Workflow(tmp_path, files.pop("Snakefile"), files)
    weights, served = next(
        block for block in code_blocks("quickstart.md") if "--seeded" in block
    ).splitlines()
    make_weights = [sys.executable, *shlex.split(weights)[1:]]
    subprocess.run(make_weights, cwd=tmp_path, check=True, capture_output=True)
    done = workflow.run(*shlex.split(served)[1:])
    assert done.code == 0, done.text
    figures = {name: done.summary[name] for name in ("jobs_served", "items", "items_unique")}
    assert figures == {"jobs_served": 2, "items": 3, "items_unique": 2}
    looked = subprocess.run(
        [sys.executable, "look.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert looked.stdout == "one (320,)\ntwo (320,)\n"
    ours = {name: array.copy() for name, array in np.load(tmp_path / "embeddings/b.npz").items()}
    cold = workflow.run(*LOCAL, *shlex.split(served)[-2:], "--forceall", "embeddings/b.npz")
    assert cold.code == 0, cold.text
    for name, array in np.load(tmp_path / "embeddings/b.npz").items():
        np.testing.assert_allclose(array, ours[name], atol=1e-5)


def test_the_device_manager_in_python(tmp_path: Path) -> None:
    (code,) = [block for block in code_blocks("devices.md") if "get_instance" in block]
    program = "import os, subprocess\n" + code.replace('["train"]', '["true"]')
    env = {**Workflow(tmp_path, "").environment(GPUPOOL_SIMULATE="2"), "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


@pytest.mark.parametrize("page", ["README.md", "config/README.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), f"{page} links to {target}"
