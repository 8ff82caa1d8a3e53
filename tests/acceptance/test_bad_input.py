"""Bad input: one clear message, exit code not zero, everything else done, nothing half-written.

Each case names what the message must contain, which always includes the rule and its wildcards.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.acceptance.running import Finished, Workflow

EMBED = """
rule all:
    input: "good.npz", "case.OUT"

rule embed:
    input: fasta="{name}.fasta"
    output: embeddings="{name}.{suffix}"
    log: "logs/{name}.{suffix}.log"
    resources: gpupool_tool="esm2-embed"
    params: model=lambda wildcards: "MODEL" if wildcards.name == "case" else "esm2_tiny.pt"
    shell: "gpupool run esm2-embed"
"""
GOOD = ">a\nMKTAYIAKQR\n>b\nGAVLIPFW\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded ESM-2 of two layers."""
    directory = tmp_path_factory.mktemp("weights")
    return Path(write_seeded_checkpoint(directory, layers=2, width=40, heads=20, seed=7))


def run(
    tmp_path: Path, checkpoint: Path, fasta: str | bytes, *, model: str = "", suffix: str = "npz"
) -> Finished:
    snakefile = EMBED.replace("OUT", suffix).replace("MODEL", model or str(checkpoint))
    workflow = Workflow(tmp_path, snakefile.replace("esm2_tiny.pt", str(checkpoint)))
    (tmp_path / "good.fasta").write_text(GOOD)
    data = fasta if isinstance(fasta, bytes) else fasta.encode()
    (tmp_path / "case.fasta").write_bytes(data)
    return workflow.run("--keep-going", "--gpupool-devices", "cpu:1")


def assert_only_case_failed(done: Finished, *said: str) -> None:
    assert done.code == 1
    for words in ("rule embed (name=case", *said):
        assert words in done.text, done.text
    assert "Traceback" not in done.text
    files = {path.name for path in done.directory.iterdir() if not path.name.startswith(".snake")}
    assert "good.npz" in files
    assert not {name for name in files if name.startswith(("case.npz", "case.xyz", ".gpupool"))}


BAD_FASTA = {
    "empty": (b"", "empty"),
    "no header": (b"MKTAYIAKQR\n", ">"),
    "duplicate ids": (b">a\nMK\n>a\nMKV\n", "'a'"),
    "binary": (bytes(range(256)) * 4, "case.fasta"),
    "truncated gzip": (gzip.compress(b">a\nMKTAYIAKQRQISFVKSHFSRQ\n" * 9)[:-12], "case.fasta"),
    "a record without a sequence": (b">a\n>b\nMK\n", "'a'"),
    "letters that are none": (b">a\nMK1T\n", "1"),
    "too long": (b">long\n" + b"M" * 1100 + b"\n", "1022"),
}


@pytest.mark.parametrize("case", BAD_FASTA)
def test_a_bad_fasta_fails_its_own_job(tmp_path: Path, checkpoint: Path, case: str) -> None:
    fasta, said = BAD_FASTA[case]
    assert_only_case_failed(run(tmp_path, checkpoint, fasta), "case.fasta", said)


def test_gzip_and_windows_line_ends_are_read(tmp_path: Path, checkpoint: Path) -> None:
    packed = gzip.compress(GOOD.replace("\n", "\r\n").encode())
    done = run(tmp_path, checkpoint, packed)
    assert done.code == 0, done.text
    with np.load(tmp_path / "good.npz") as good, np.load(tmp_path / "case.npz") as case:
        assert list(case) == list(good) == ["a", "b"]
        np.testing.assert_array_equal(case["a"], good["a"])


def test_missing_weights_name_where_to_put_them(tmp_path: Path, checkpoint: Path) -> None:  # W8
    done = run(tmp_path, checkpoint, GOOD, model="esm2_t33_650M_UR50D")
    assert_only_case_failed(done, "esm2_t33_650M_UR50D.pt", "checkpoints")


def test_a_missing_checkpoint_file(tmp_path: Path, checkpoint: Path) -> None:  # W8
    assert_only_case_failed(run(tmp_path, checkpoint, GOOD, model="nowhere/w.pt"), "nowhere/w.pt")


def test_an_unknown_suffix(tmp_path: Path, checkpoint: Path) -> None:
    assert_only_case_failed(run(tmp_path, checkpoint, GOOD, suffix="xyz"), ".xyz", ".npz")


GENERIC = """
rule all:
    input: "good.up", "CASE"

rule up:
    input: "in/{name}.txt"
    output: "{name}.up"
    resources: gpupool_tool="textual.py:Textual"
    params: model="m"
    script: "textual.py"

rule case:
    input: "in/{name}.txt"
    output: "cases/{name}.up"
    RESOURCES
    script: "textual.py"
"""


def generic(tmp_path: Path, resources: str, *arguments: str, **env: str) -> Finished:
    snakefile = GENERIC.replace("RESOURCES", resources).replace("CASE", "cases/x.up")
    files = {"in/good.txt": "good\n", "in/x.txt": "x\n", "broken.py": "import no_such_package\n"}
    return Workflow(tmp_path, snakefile, files).run(*arguments, **env)


BAD_RULES = {
    "unknown tool": ('resources: gpupool_tool="esm2-embedd"', "esm2-embed'"),
    "no such file": ('resources: gpupool_tool="absent.py:T"', "absent.py"),
    "no such class": ('resources: gpupool_tool="textual.py:Texture"', "Texture"),
    "failing import": ('resources: gpupool_tool="broken.py:T"', "no_such_package"),
    "malformed device": ('resources: gpupool_tool="textual.py:Textual", device="cuda:"', "cudaxN"),
    "absent device": ('resources: gpupool_tool="textual.py:Textual", device="cuda:7"', "cuda:7"),
    "too many": ('resources: gpupool_tool="textual.py:Textual", gpu=5', "5 GPUs"),
    "missing weights": (
        'resources: gpupool_tool="textual.py:Textual"\n    params: model="missing"',
        "no such weights",
    ),
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_a_bad_rule_fails_alone_with_keep_going(tmp_path: Path, case: str) -> None:  # S9 D1 D10
    resources, said = BAD_RULES[case]
    done = generic(tmp_path, resources, "--keep-going", GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 1
    assert said in done.text and "rule case" in done.text, done.text
    assert (tmp_path / "good.up").exists()
    assert not (tmp_path / "cases/x.up").exists()


@pytest.mark.parametrize("case", ["unknown tool", "malformed device", "absent device", "too many"])
def test_misuse_is_said_at_start(tmp_path: Path, case: str) -> None:  # S9 D10
    resources, said = BAD_RULES[case]
    done = generic(tmp_path, resources, GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 1
    assert said in done.text and "rule case" in done.text, done.text
    assert not (tmp_path / "good.up").exists(), "it failed before anything ran"


def test_a_tool_without_a_body_is_refused_at_start(tmp_path: Path) -> None:  # S9
    """Also with --keep-going: Snakemake would take what an earlier run left for its output."""
    (tmp_path / "cases").mkdir(parents=True)
    (tmp_path / "cases" / "x.up").write_text("of an earlier run")
    snakefile = GENERIC.replace("RESOURCES", 'resources: gpupool_tool="textual.py:Textual"')
    head, _, last = snakefile.replace("CASE", "cases/x.up").rpartition("    script:")
    assert last.strip() == '"textual.py"'
    workflow = Workflow(tmp_path, head, {"in/good.txt": "good\n", "in/x.txt": "x\n"})
    done = workflow.run("--keep-going", "--forcerun", "case")
    assert done.code == 1, done.text
    assert "rule case: it names a tool in gpupool_tool, but has no body" in done.text
    assert not (tmp_path / "good.up").exists(), "it failed before anything ran"


def test_bad_options_are_said_at_start(tmp_path: Path) -> None:  # S9
    fine = 'resources: gpupool_tool="textual.py:Textual"'
    done = generic(tmp_path, fine, "--gpupool-devices", "cuda:7", GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 1 and "cuda:7" in done.text and "cuda:1" in done.text
    assert "Traceback" not in done.text


def test_an_unwritable_output_directory(tmp_path: Path) -> None:  # W9
    # Not even root makes directories in /proc.
    snakefile = """
        rule all:
            input: "good.up", "/proc/gpupool/x.up"

        rule up:
            input: "in/{name}.txt"
            output: "{name}.up"
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"

        rule case:
            input: "in/{name}.txt"
            output: "/proc/gpupool/{name}.up"
            resources: gpupool_tool="textual.py:Textual"
            script: "textual.py"
    """
    files = {"in/good.txt": "good\n", "in/x.txt": "x\n"}
    done = Workflow(tmp_path, snakefile, files).run("--keep-going")
    assert done.code == 1
    assert "rule case (name=x)" in done.text and "/proc/gpupool" in done.text, done.text
    assert (tmp_path / "good.up").exists()


def test_limits_that_hold_batching_back_are_said(tmp_path: Path) -> None:  # S9
    fine = 'resources: gpupool_tool="textual.py:Textual", gpu=1'
    done = generic(tmp_path, fine, "--resources", "gpu=1", GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 0, done.text
    assert "--resources gpu=1" in done.text and "case" in done.text


def test_a_tool_that_would_have_to_run_for_ever_is_refused_at_start(tmp_path: Path) -> None:  # S9
    snakefile = """
        rule client:
            input: "ready", "up.txt"
            output: "client.txt"
            shell: "cat {input} > {output}"

        rule server:
            output: service("ready")
            resources: gpupool_tool="textual.py:Textual"
            shell: "sleep 600"

        rule up:
            output: "up.txt"
            shell: "echo up > {output}"
    """
    done = Workflow(tmp_path, snakefile).run("--cores", "2")
    assert done.code == 1
    assert "rule server: it has a service() output" in done.text
    assert not (tmp_path / "up.txt").exists()
