"""Files of structures, read again by gemmi; and what their formats cannot hold."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import structures as module
from snakemake_executor_gpupool.tools.fasta import Record
from snakemake_executor_gpupool.tools.structures import (
    Structure,
    check_target,
    write_structures,
)

#: Two chains, one residue without atoms between others.
CHAINS, NUMBERS = [0, 0, 0, 1], [1, 1, 3, 1]


def structure(seed: int) -> Structure:
    draw = np.random.default_rng(seed)
    return Structure(
        chains=[3, 1],
        chain=np.array(CHAINS, np.int32),
        number=np.array(NUMBERS, np.int32),
        residue=["GLY", "GLY", "SER", "ALA"],
        atom=["N", "CA", "OG", "CB"],
        xyz=draw.uniform(-200, 200, (4, 3)).astype(np.float32),
        plddt=draw.uniform(0, 100, 4).astype(np.float32),
        ptm=0.5,
    )


def atoms_of(model: gemmi.Model) -> list[tuple[object, ...]]:
    return [
        (chain.name, residue.seqid.num, residue.name, atom.name, atom.element.name)
        for chain in model
        for residue in chain
        for atom in residue
    ]


@pytest.mark.parametrize("name", ["s.pdb", "s.cif", "S.CIF"])
@pytest.mark.parametrize("count", [1, 3])
def test_one_file_is_read_again(tmp_path: Path, name: str, count: int) -> None:
    given_ = [structure(seed) for seed in range(count)]
    ids = ["a", "sp|P1|X/2-9", "it's"][:count]
    write_structures(str(tmp_path / name), ids, given_)
    found = gemmi.read_structure(str(tmp_path / name))
    assert len(found) == count
    for model, expected in zip(found, given_, strict=True):
        assert atoms_of(model) == [
            ("A", 1, "GLY", "N", "N"), ("A", 1, "GLY", "CA", "C"), ("A", 3, "SER", "OG", "O"),
            ("B", 1, "ALA", "CB", "C"),
        ]  # fmt: skip
        atoms = [atom.atom for atom in model.all()]
        assert np.abs([atom.pos.tolist() for atom in atoms] - expected.xyz).max() < 6e-4
        assert np.abs([atom.b_iso for atom in atoms] - expected.plddt).max() < 6e-3


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(ids=st.lists(st.from_regex(r"\A\S{1,12}\Z"), min_size=1, max_size=3, unique=True))
def test_a_cif_file_says_which_model_is_which(tmp_path: Path, ids: list[str]) -> None:
    target = str(tmp_path / "s.cif")
    try:
        check_target(target, [Record(name, "GGS:A") for name in ids])
    except InputError:
        assert not all(map(str.isprintable, ids))
        return
    write_structures(target, ids, [structure(seed) for seed, _ in enumerate(ids)])
    (block,) = gemmi.cif.read(target)
    table = block.find("_ma_model_list.", ["model_id", "model_name"])
    rows = [(row[0], gemmi.cif.as_string(row[1])) for row in table]
    assert rows == [(str(number), name) for number, name in enumerate(ids, start=1)]
    assert len(gemmi.read_structure(target)) == len(ids)


def test_files_of_their_own(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("b.cif", "a.x.pdb")]
    check_target(paths, [Record("a.x", "GGS:A"), Record("b", "GGS:A")])
    write_structures(paths, ["a.x", "b"], [structure(1), structure(2)])
    for path, seed in zip(paths, (2, 1), strict=True):
        first = next(iter(gemmi.read_structure(path)[0].all())).atom
        assert first.pos.tolist() == pytest.approx(structure(seed).xyz[0], abs=6e-4)


@pytest.mark.parametrize("count", [9_999, 10_000])
def test_more_models_than_a_pdb_file_can_number(tmp_path: Path, count: int) -> None:
    records = [Record(f"p{n}", "MK") for n in range(count)]
    check_target(str(tmp_path / "s.cif"), records)
    check_target(str(tmp_path / "s"), records)
    if count == module.MAX_MODELS:
        check_target(str(tmp_path / "s.pdb"), records)
        write_structures(str(tmp_path / "s.pdb"), [r.id for r in records], [structure(0)] * count)
        assert len(gemmi.read_structure(str(tmp_path / "s.pdb"))) == count
        return
    with pytest.raises(InputError) as caught:
        check_target(str(tmp_path / "s.pdb"), records)
    assert (
        f"output {tmp_path}/s.pdb: a .pdb file can number 9,999 models, and there are 10,000"
        in (str(caught.value))
    )
    assert "write a .cif file, or one .pdb file each into a directory" in str(caught.value)


@pytest.mark.parametrize(
    ("sequence", "fits"),
    [
        ("G" * 9_999, True),
        ("G" * 10_000, False),
        ("G" * 9_999 + ":" + "G" * 9_999, True),
        ("W" * 7_142, True),  # and one TER: 99,989
        ("W" * 7_000 + ":" + "W" * 143, False),
        (":".join(["G" * 9_999] * 3), False),
        ("X" * 9_000 + ":" + "G" * 9_000, True),
    ],
)
def test_more_atoms_or_residues_than_a_pdb_file_can_number(sequence: str, fits: bool) -> None:
    record = Record("large", sequence)
    for target in ("s.pdb", "s", ["large.pdb"]):
        if fits:
            check_target(target, [record])
            continue
        with pytest.raises(InputError, match=r"9,999 residues in a chain and 99,999 atoms; .*cif"):
            check_target(target, [record])
    check_target("s.cif", [record])
    check_target(["large.cif"], [record])
