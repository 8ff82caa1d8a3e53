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
    input: "good.npz", "packed.npz", BAD, "unknown_suffix.xyz", "official.npz", "absent.npz"

WEIGHTS = {"official": "esm2_t33_650M_UR50D", "absent": "nowhere/w.pt"}

rule embed:
    input: fasta="{name}.fasta"
    output: embeddings="{name}.{suffix}"
    log: "logs/{name}.{suffix}.log"
    resources: gpupool_tool="esm2-embed"
    params: model=lambda wildcards: WEIGHTS.get(wildcards.name, "MODEL")
    shell: "gpupool run esm2-embed"
"""
GOOD = ">a\nMKTAYIAKQR\n>b\nGAVLIPFW\n"
BAD_FASTA = {
    "empty": (b"", "empty"),
    "no_header": (b"MKTAYIAKQR\n", ">"),
    "duplicate_ids": (b">a\nMK\n>a\nMKV\n", "'a'"),
    "binary": (bytes(range(256)) * 4, "binary.fasta"),
    "truncated_gzip": (gzip.compress(b">a\nMKTAYIAKQRQISFVKSHFSRQ\n" * 9)[:-12], "truncated gzip"),
    "a_record_without_a_sequence": (b">a\n>b\nMK\n", "'a'"),
    "letters_that_are_none": (b">a\nMK1T\n", "1"),
    "too_long": (b">long\n" + b"M" * 1100 + b"\n", "1022"),
}
#: What is said of the other jobs that fail.
BAD_JOBS = {
    "official": ("esm2_t33_650M_UR50D.pt", "checkpoints"),  # W8
    "absent": ("nowhere/w.pt",),  # W8
    "unknown_suffix": (".xyz", ".npz"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run whose jobs get bad inputs, but for two."""
    directory, weights = (tmp_path_factory.mktemp(name) for name in ("run", "weights"))
    model = Path(write_seeded_checkpoint(weights, layers=2, width=40, heads=20, seed=7))
    bad = ", ".join(f'"{name}.npz"' for name in BAD_FASTA)
    workflow = Workflow(directory, EMBED.replace("BAD", bad).replace("MODEL", str(model)))
    for name in ("good", *BAD_JOBS):
        (directory / f"{name}.fasta").write_text(GOOD)
    packed = gzip.compress(GOOD.replace("\n", "\r\n").encode())
    for name, fasta in (("packed", packed), *((n, fasta) for n, (fasta, _) in BAD_FASTA.items())):
        (directory / f"{name}.fasta").write_bytes(fasta)
    return workflow.run("--keep-going", "--gpupool-devices", "cpu:1")


def said_of(done: Finished, name: str) -> str:
    """The lines that a run says of a job's failure: those that name it."""
    lines = [line for line in done.text.splitlines() if f"rule embed (name={name}" in line]
    assert lines, done.text
    return "\n".join(lines)


@pytest.mark.parametrize("case", [*BAD_FASTA, *BAD_JOBS])
def test_a_bad_input_fails_its_own_job(done: Finished, case: str) -> None:
    words = BAD_JOBS.get(case) or (f"{case}.fasta", BAD_FASTA[case][1])
    for each in words:
        assert each in said_of(done, case)


def test_all_others_are_done_and_nothing_is_left(done: Finished) -> None:
    assert done.code == 1
    assert "Traceback" not in done.text
    files = {path.name for path in done.directory.iterdir() if not path.name.startswith(".snake")}
    assert {name for name in files if name.endswith(".npz")} == {"good.npz", "packed.npz"}
    assert not {name for name in files if name.endswith(".xyz") or name.startswith(".gpupool")}


def test_gzip_and_windows_line_ends_are_read(done: Finished) -> None:
    paths = (done.directory / f"{name}.npz" for name in ("good", "packed"))
    good, packed = (dict(np.load(path)) for path in paths)
    assert list(packed) == list(good) == ["a", "b"]
    np.testing.assert_array_equal(packed["a"], good["a"])


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
    "unknown_tool": ('resources: gpupool_tool="esm2-embedd"', "esm2-embed'"),
    "no_such_file": ('resources: gpupool_tool="absent.py:T"', "absent.py"),
    "no_such_class": ('resources: gpupool_tool="textual.py:Texture"', "Texture"),
    "failing_import": ('resources: gpupool_tool="broken.py:T"', "no_such_package"),
    "malformed_device": ('resources: gpupool_tool="textual.py:Textual", device="cuda:"', "cudaxN"),
    "absent_device": ('resources: gpupool_tool="textual.py:Textual", device="cuda:7"', "cuda:7"),
    "too_many": ('resources: gpupool_tool="textual.py:Textual", gpu=5', "5 GPUs"),
    "missing_weights": (
        'resources: gpupool_tool="textual.py:Textual"\n    params: model="missing"',
        "no such weights",
    ),
}


def with_bad_rules(tmp_path: Path, *names: str) -> Workflow:
    """A workflow with a good rule, and rules that cannot do."""
    head, _, rule = GENERIC.partition("rule case:")
    wanted = ", ".join(f'"cases/{name}.up"' for name in names)
    rules = [
        f"rule {name}:{rule}".replace("{name}.up", f"{name}.up")
        .replace("{name}", "x")
        .replace("RESOURCES", BAD_RULES[name][0])
        for name in names
    ]
    files = {"in/good.txt": "good\n", "in/x.txt": "x\n", "broken.py": "import no_such_package\n"}
    return Workflow(tmp_path, head.replace('"CASE"', wanted) + "\n".join(rules), files)


def test_bad_rules_fail_alone_with_keep_going(tmp_path: Path) -> None:  # S9 D1 D10
    done = with_bad_rules(tmp_path, *BAD_RULES).run("--keep-going", GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 1
    for name, (_, said) in BAD_RULES.items():
        lines = [line for line in done.text.splitlines() if f"rule {name}" in line]
        assert any(said in line for line in lines), (name, done.text)
    assert (tmp_path / "good.up").exists()
    assert not list((tmp_path / "cases").glob("*"))


@pytest.mark.parametrize("case", ["unknown_tool", "malformed_device", "absent_device", "too_many"])
def test_misuse_is_said_at_start(tmp_path: Path, case: str) -> None:  # S9 D10
    done = with_bad_rules(tmp_path, case).run(GPUPOOL_SIMULATE="2x16GiB")
    assert done.code == 1
    assert BAD_RULES[case][1] in done.text and f"rule {case}" in done.text, done.text
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
