"""esmfold on a small model of the real architecture; its PDB files are read by gemmi."""

import logging
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest
import torch

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.tools.esmfold import EsmFold
from snakemake_executor_gpupool.tools.fasta import Record
from snakemake_executor_gpupool.tools.structures import ATOMS
from snakemake_executor_gpupool.worker.cold import run_cold
from tests.integration import esmfold_cases as cases

#: Coordinates have three decimals; a sum done in another order may turn the last one.
ANGSTROMS = 0.0021
#: Of scores, on their scales of 0 to 100 and 0 to 1.
PLDDT, PTM = 0.011, 1e-5
#: Heavy atoms of the amino acids, the end of a chain's OXT aside.
HEAVY_ATOMS = {
    "A": 5, "R": 11, "N": 8, "D": 8, "C": 6, "Q": 9, "E": 9, "G": 4, "H": 10, "I": 8,
    "L": 8, "K": 9, "M": 8, "F": 11, "P": 7, "S": 6, "T": 7, "W": 14, "Y": 12, "V": 7,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return cases.write_model(tmp_path_factory.mktemp("esmfold"))


@pytest.fixture(scope="module")
def tool(model):
    return cases.loaded(model)


def assert_same_structure(one, other):
    ours, theirs = (cases.atoms_of(cases.parsed(s)) for s in (one, other))
    assert [atom[0] for atom in ours] == [atom[0] for atom in theirs]
    for column, tolerance in ((1, ANGSTROMS), (2, PLDDT)):
        left, right = (np.array([atom[column] for atom in atoms]) for atoms in (ours, theirs))
        assert np.abs(left - right).max() <= tolerance
    assert one.chains == other.chains
    assert cases.text_of(one).count("\n") == len(one.atom) + len(one.chains)
    assert one.ptm == pytest.approx(other.ptm, abs=PTM)


def assert_same_bits(one, other):
    assert one.xyz.tobytes() == other.xyz.tobytes()
    assert one.plddt.tobytes() == other.plddt.tobytes()
    assert one[-1] == other[-1]


class TestStructures:
    def test_every_atom_of_every_residue(self, tool):
        protein = Record("all", cases.RESIDUES)
        (chain,) = cases.parsed(tool.run([protein])[0])
        assert chain.name == "A"
        assert cases.sequence_of(chain) == protein.sequence
        assert [residue.seqid.num for residue in chain] == list(range(1, 21))
        assert [len(residue) for residue in chain] == [HEAVY_ATOMS[a] for a in protein.sequence]
        assert HEAVY_ATOMS == ATOMS

    def test_plddt_is_in_the_b_factors(self, tool):
        (structure,) = tool.run(cases.proteins([12]))
        factors = [atom[2] for atom in cases.atoms_of(cases.parsed(structure))]
        assert 1 < min(factors) < max(factors) < 100
        assert np.abs(structure.plddt - factors).max() <= PLDDT

    def test_atoms_and_scores_are_those_of_transformers(self, tool, model):
        from transformers import EsmForProteinFolding

        (protein,) = cases.proteins([14])
        (ours,) = tool.run([protein])
        theirs = EsmForProteinFolding.from_pretrained(model, dtype=torch.float32).float().eval()
        with torch.inference_mode():
            output = theirs.infer([protein.sequence])
            (pdb,) = theirs.output_to_pdb(output)
        expected = cases.atoms_of(gemmi.read_pdb_string(pdb)[0])
        for ours_, theirs_ in zip(cases.atoms_of(cases.parsed(ours)), expected, strict=True):
            assert ours_[0] == theirs_[0]
            assert np.allclose(ours_[1], theirs_[1], atol=ANGSTROMS)
            assert ours_[2] == pytest.approx(100 * theirs_[2], abs=0.6)  # it writes two decimals
        assert ours.ptm == pytest.approx(float(output["ptm"]), abs=PTM)

    def test_company_changes_nothing(self, tool):  # R5
        items = [*cases.proteins([1, 9, 21, 9]), Record("two", "MKTAYI:GSHML")]
        together = tool.run(items)
        backwards = tool.run(items[::-1])[::-1]
        for item, one, other in zip(items, together, backwards, strict=True):
            (alone,) = tool.run([item])
            assert_same_structure(one, alone)
            assert_same_structure(other, alone)
        assert len({result.ptm for result in together}) == len(items), "all fold alike"

    def test_recycles_and_chunks(self, tool):
        items = cases.proteins([20])
        usual = cases.fold(tool, items)[0]
        assert_same_bits(usual, cases.fold(tool, items, num_recycles=1)[0])
        assert not np.allclose(usual.xyz, cases.fold(tool, items, num_recycles=0)[0].xyz, atol=0.1)
        for size in (0, 4, 64):
            assert_same_structure(usual, cases.fold(tool, items, chunk_size=size)[0])

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_lower_precision_of_the_language_model(self, tool, model, precision):
        items = cases.proteins([15])
        (low,) = cases.loaded(model, precision=precision).run(items)
        (full,) = tool.run(items)
        assert np.abs(low.xyz - full.xyz).max() > 0
        assert low.plddt.mean() == pytest.approx(full.plddt.mean(), abs=2)

    def test_moved_weights_compute_the_same(self, tool):
        items = cases.proteins([10])
        before = tool.run(items)
        tool.to("cpu")
        assert_same_bits(tool.run(items)[0], before[0])

    @pytest.mark.parametrize(
        ("part", "number"),
        [
            ("positions", float("nan")), ("positions", 1e4), ("positions", float("-inf")),
            ("lddt_head", float("nan")), ("ptm_logits", float("nan")),
        ],
    )  # fmt: skip
    def test_what_is_no_structure_fails_by_name(self, model, monkeypatch, part, number):
        tool = cases.loaded(model, precision="fp16")
        whole = tool._model.trunk.forward

        def broken(*args, **kwargs):
            found = whole(*args, **kwargs)
            found["positions"][-1, 1, 1, 1, 2] = number
            return found

        if part == "positions":
            monkeypatch.setattr(tool._model.trunk, "forward", broken)
        else:
            head = tool._model.lddt_head[-1] if part == "lddt_head" else tool._model.ptm_head
            with torch.no_grad():
                head.bias[0] = number
        names = "p1" if part == "positions" else "p0, p1"
        with pytest.raises(InputError) as caught:
            tool.run(cases.proteins([4, 5]))
        assert f"not finite numbers, or too large for a protein, of {names}: in fp16" in str(
            caught.value
        )
        assert "try precision bf16 or fp32; if that does not help" in str(caught.value)
        if part != "positions":
            assert "damaged" in str(caught.value) and "head" in str(caught.value)

    def test_one_of_a_batch_without_scores(self, model, monkeypatch):
        tool = cases.loaded(model)
        whole = tool._model.ptm_head.forward

        def broken(states):
            logits = whole(states)
            logits[1, 0, 0] = float("nan")
            return logits

        monkeypatch.setattr(tool._model.ptm_head, "forward", broken)
        with pytest.raises(InputError, match="too large for a protein, of p1: the weights"):
            tool.run(cases.proteins([4, 5, 6]))
        assert not tool._model.ptm_head._forward_hooks

    def test_a_damaged_trunk(self, model):
        tool = cases.loaded(model)
        with torch.no_grad():
            next(tool._model.trunk.parameters())[0] = float("nan")
        with pytest.raises(InputError, match=r"of p0.*: the weights .*not finite: trunk\."):
            tool.run(cases.proteins([4, 6]))

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_angles_keep_their_precision(self, model, tool, precision):
        low = cases.loaded(model, precision=precision)._model.esm
        kept, full = (m.rotary_embeddings.inv_freq for m in (low, tool._model.esm))
        assert kept.dtype == torch.float32 and torch.equal(kept, full)
        assert low.encoder.layer[0].output.dense.weight.dtype != torch.float32


class TestComplexes:
    def test_chains(self, tool):
        item = Record("c", "MKTAYI:GSHML:GSHML")
        (structure,) = tool.run([item])
        chains = list(cases.parsed(structure))
        assert [chain.name for chain in chains] == ["A", "B", "C"]
        assert [cases.sequence_of(chain) for chain in chains] == item.sequence.split(":")
        assert [[r.seqid.num for r in chain] for chain in chains] == [
            [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5],
        ]  # fmt: skip
        assert structure.chains == [6, 5, 5]
        assert cases.text_of(structure).count("TER") == 3

    def test_the_linker_is_folded_and_left_out(self, tool):
        """What is left out is what one long chain has in its place."""
        (pair,) = cases.fold(tool, [Record("c", "MKTA:YIAK")], linker=3, residue_offset=0)
        (long,) = cases.fold(tool, [Record("c", "MKTAGGGYIAK")])
        expected = [a[1:] for a in cases.atoms_of(cases.parsed(long)) if a[0][1] not in (5, 6, 7)]
        found = [atom[1:] for atom in cases.atoms_of(cases.parsed(pair))]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert np.allclose(ours[0], theirs[0], atol=ANGSTROMS)
            assert ours[1] == pytest.approx(theirs[1], abs=PLDDT)
        assert pair.ptm != pytest.approx(long.ptm, abs=PTM), "the linker counts in the score"

    def test_the_jump_of_positions_is_seen(self, tool):
        item = Record("c", "MKTA:YIAK")
        folds = [cases.fold(tool, [item], linker=2, residue_offset=n)[0] for n in (0, 5, 512)]
        assert len({fold.xyz.tobytes() for fold in folds}) == 3


class TestMemory:
    def test_one_that_does_not_fit_is_tried_with_smaller_chunks(self, model, monkeypatch, caplog):
        tool = cases.loaded(model)
        sizes = []
        whole = tool._model.trunk.forward

        def limited(*args, **kwargs):
            sizes.append(tool._model.trunk.chunk_size)
            if sizes[-1] is None or sizes[-1] > 5:
                raise torch.OutOfMemoryError("no more than 5 rows fit")
            return whole(*args, **kwargs)

        monkeypatch.setattr(tool._model.trunk, "forward", limited)
        items = cases.proteins([20, 10])
        with pytest.raises(torch.OutOfMemoryError):
            tool.run(items)
        assert sizes == [8], "a batch is for the pool to halve"
        with caplog.at_level(logging.WARNING):
            (found,) = cases.fold(tool, items[:1], chunk_size=0)
        assert sizes[1:] == [None, 10, 5]
        assert "p0: out of memory; again, 5 rows at a time" in caplog.text
        assert_same_structure(found, cases.fold(cases.loaded(model), items[:1])[0])

    def test_none_fits(self, model, monkeypatch):
        tool = cases.loaded(model)

        def full(*args, **kwargs):
            raise torch.OutOfMemoryError("full")

        monkeypatch.setattr(tool._model.trunk, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            tool.run(cases.proteins([16]))

    def test_a_cold_job_halves_its_batches(self, model, monkeypatch, tmp_path):
        monkeypatch.setattr(EsmFold, "_fold", at_most(2, EsmFold._fold))
        job = job_of(tmp_path, cases.proteins([5] * 5), "s.pdb", model=model)
        run_cold(EsmFold, job, "cpu")
        assert len(gemmi.read_structure(str(tmp_path / "s.pdb"))) == 5


def at_most(count, fold):
    def limited(self, items, *rest):
        if len(items) > count:
            raise torch.OutOfMemoryError("too many at once")
        return fold(self, items, *rest)

    return limited


def job_of(directory, records, structures, table="", **params):
    fasta = directory / "in.fasta"
    fasta.write_text("".join(f">{r.id}\n{r.sequence}\n" for r in records))
    targets = [str(directory / s) for s in structures] if isinstance(structures, list) else None
    pairs = [("structures", targets or str(directory / structures))]
    if table:
        pairs.append(("table", str(directory / table)))
    return Job(
        rule="esmfold",
        input=Named.from_pairs([("fasta", str(fasta))]),
        output=Named.from_pairs(pairs),
        params=params,
    )


class TestFiles:
    RECORDS = (Record("sp|P1|A", "MKTAYIAK"), Record("b", "GSH:MLE"), Record("again", "mktayiak"))

    def test_a_directory_and_a_table(self, tmp_path, model):
        job = job_of(tmp_path, self.RECORDS, "s", "t.tsv", model=model)
        run_cold(EsmFold, job, "cpu")
        names = sorted(path.name for path in (tmp_path / "s").iterdir())
        assert names == ["again.pdb", "b.pdb", "sp|P1|A.pdb"]
        text = (tmp_path / "s/b.pdb").read_text()
        assert "MODEL" not in text
        assert text.endswith("\nEND\n")
        assert [c.name for c in gemmi.read_pdb_string(text)[0]] == ["A", "B"]
        again, first = ((tmp_path / f"s/{n}.pdb").read_text() for n in ("again", "sp|P1|A"))
        assert again == first
        table = pd.read_csv(tmp_path / "t.tsv", sep="\t")
        assert table["id"].tolist() == [record.id for record in self.RECORDS]
        assert table["chains"].tolist() == [1, 2, 1]
        assert table["length"].tolist() == [8, 6, 8]
        assert table["mean_plddt"].between(1, 100).all()
        assert table["ptm"].between(0, 1).all()
        assert table["ptm"][0] == table["ptm"][2]

    def test_one_file_of_models(self, tmp_path, model):
        run_cold(EsmFold, job_of(tmp_path, self.RECORDS, "s.pdb", "t.parquet", model=model), "cpu")
        structure = gemmi.read_structure(str(tmp_path / "s.pdb"))
        assert [[cases.sequence_of(c) for c in m] for m in structure] == [
            ["MKTAYIAK"], ["GSH", "MLE"], ["MKTAYIAK"],
        ]  # fmt: skip
        assert "REMARK 999 MODEL 2 b\n" in (tmp_path / "s.pdb").read_text()
        assert len(pd.read_parquet(tmp_path / "t.parquet")) == 3

    def test_one_cif_file(self, tmp_path, model):
        run_cold(EsmFold, job_of(tmp_path, self.RECORDS, "s.cif", model=model), "cpu")
        run_cold(EsmFold, job_of(tmp_path, self.RECORDS, "s.pdb", model=model), "cpu")
        cif, pdb = (gemmi.read_structure(str(tmp_path / f"s.{kind}")) for kind in ("cif", "pdb"))
        for ours, other in zip(cif, pdb, strict=True):
            assert cases.atoms_of(ours) == cases.atoms_of(other)

    def test_a_list_of_files(self, tmp_path, model):
        job = job_of(tmp_path, self.RECORDS[1:], ["x/again.pdb", "x/b.pdb"], model=model)
        run_cold(EsmFold, job, "cpu")
        lengths = {p.stem: len(list(gemmi.read_pdb(str(p))[0])) for p in (tmp_path / "x").iterdir()}
        assert lengths == {"b": 2, "again": 1}

    def read(self, tmp_path, *records, structures="s", table="", **params):
        job = job_of(tmp_path, records, structures, table, **params)
        return list(EsmFold(params).read(job))

    def test_letters(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING):
            found = self.read(tmp_path, Record("a", "mkU:jBzoXC*"), strip_stop=True)
        assert found == [Record("a", "MKX:XXXXXC")]
        assert "without a known kind" in caplog.text

    def test_unknown_residues_have_no_atoms(self, tool):
        (structure,) = tool.run([Record("a", "MXK")])
        (chain,) = cases.parsed(structure)
        assert [residue.seqid.num for residue in chain] == [1, 3]
        assert structure.chains == [3]

    @pytest.mark.parametrize(
        ("record", "given", "message"),
        [
            (Record("a", "MK*"), {}, "the record 'a' has '*' at position 3"),
            (Record("a", "M-K"), {}, "'-' at position 2, which is no amino acid"),
            (Record("a", "MKTa\u00dfAYI"), {}, "'\u00df' at position 5, which is no amino acid"),
            (Record("a", "MK\u0131"), {}, "'\u0131' at position 3"),
            (Record("a", "MK\u0391"), {}, "'\u0391' at position 3"),
            (Record("a", "MK::TA"), {}, "chain without any known residue (an empty one)"),
            (Record("a", "MK:XX"), {}, "chain without any known residue (XX)"),
            (Record("a", ":".join("M" * 27)), {}, "has 27 chains"),
            (Record("x/y", "MK"), {}, "the id 'x/y' cannot be the name of a file in it"),
            (Record("a", "MK"), {"structures": "s.ent"}, "written as .pdb or .cif, not as .ent"),
            (Record("a", "G" * 10_000), {}, "can number 9,999 residues in a chain"),
            (Record("a", "MK"), {"structures": ["b.pdb"]}, "these differ: a, b"),
            (Record("a", "MK"), {"table": "t.csv"}, "suffix must be one of .tsv, .parquet"),
            (Record("a", "MK"), {"precision": "int8"}, "param precision: got 'int8'"),
            (Record("a", "MK"), {"num_recycles": -1}, "a whole number from 0 on"),
            (Record("a", "MK"), {"linker": "long"}, "param linker: got 'long'"),
            (Record("a", "MK"), {"strip_stop": 3}, "param strip_stop: got 3"),
        ],
    )
    def test_misuse_is_said_before_anything_is_computed(self, tmp_path, record, given, message):
        with pytest.raises(InputError) as caught:
            self.read(tmp_path, record, **given)
        assert message in str(caught.value)

    def test_an_id_with_a_slash_fits_into_one_file(self, tmp_path):
        assert self.read(tmp_path, Record("x/y", "MK"), structures="s.pdb")

    def test_costs_grow_with_the_cube_in_the_end(self):
        tool = EsmFold()
        short, long, longer = (Record("a", "M" * n) for n in (400, 800, 1600))
        assert 4 < tool.cost(long) / tool.cost(short) < tool.cost(longer) / tool.cost(long) < 8
        assert tool.tokens(Record("c", "MK:MK")) == (4 + 25) ** 2

    def test_reading_loads_no_torch(self, tmp_path):
        job = job_of(tmp_path, cases.proteins([5, 9]), "s")
        code = (
            "import sys\n"
            "from snakemake_executor_gpupool.tool_api.values import Job\n"
            "from snakemake_executor_gpupool.tools.esmfold import EsmFold\n"
            f"tool, job = EsmFold(), Job(input=[{job.input[0]!r}], output=['s'])\n"
            "items = list(tool.read(job))\n"
            "[(tool.key(i), tool.cost(i), tool.tokens(i)) for i in items]\n"
            "heavy = {'torch', 'numpy', 'transformers', 'pyarrow'} & set(sys.modules)\n"
            "sys.exit(str(heavy) if heavy or len(items) != 2 else 0)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestWeights:
    def test_a_name_that_is_not_cached(self, monkeypatch, tmp_path):
        monkeypatch.setenv("GPUPOOL_OFFLINE", "1")
        with pytest.raises(InputError) as caught:
            cases.loaded("someone/esmfold-of-theirs")
        assert "the weights of someone/esmfold-of-theirs are neither" in str(caught.value)
        assert "GPUPOOL_OFFLINE is set" in str(caught.value)
        assert "Run 'hf download someone/esmfold-of-theirs'" in str(caught.value)

    def test_what_is_cached_is_used_without_a_look_outside(
        self, model, tool, monkeypatch, cache_with
    ):
        monkeypatch.setattr("socket.socket.connect", None)
        cache_with("models--lab--fold", model)
        items = cases.proteins([8])
        assert_same_bits(cases.loaded("lab/fold").run(items)[0], tool.run(items)[0])

    def test_no_folding_model(self, tmp_path):
        from tests.integration.esm2_cases import write_hugging_face

        write_hugging_face(tmp_path, (1, 8, 2))
        with pytest.raises(InputError, match="is no ESMFold model: its config"):
            cases.loaded(tmp_path)

    def test_an_empty_directory(self, tmp_path, model):
        with pytest.raises(InputError, match=r"its config\.json is missing"):
            cases.loaded(tmp_path)
        (tmp_path / "config.json").write_bytes(Path(model, "config.json").read_bytes())
        with pytest.raises(InputError, match="holds no usable weights: expected an ESMFold"):
            cases.loaded(tmp_path)

    def test_damaged_weights(self, tmp_path, model):
        (tmp_path / "config.json").write_bytes(Path(model, "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"no such thing")
        with pytest.raises(InputError, match="holds no usable weights: expected an ESMFold"):
            cases.loaded(tmp_path)

    def test_weights_that_lack_a_part(self, tmp_path, model):
        from safetensors.torch import load_file, save_file

        for path in Path(model).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        tensors = load_file(tmp_path / "model.safetensors")
        tensors.pop("lddt_head.1.weight")
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            InputError, match=r"is not a whole ESMFold .* lacks lddt_head\.1\.weigh"
        ):
            cases.loaded(tmp_path)
