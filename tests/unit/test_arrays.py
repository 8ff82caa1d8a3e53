"""Writing named arrays: what each format holds, and names that are hard to hold."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import arrays
from snakemake_executor_gpupool.tools.arrays import array_format, check_ids, write_arrays

IDS = ["b", "a", "sp|P1|X/2-9", "file", "allow_pickle", "\u03b1 \u00e9"]


def vectors(count, width=4):
    draw = np.random.default_rng(0)
    return [{"layer6": draw.random(width, np.float32)} for _ in range(count)]


def matrices(count, width=4):
    draw = np.random.default_rng(0)
    return [
        {
            "layer2": draw.random((length, width), np.float32),
            "contacts": draw.random((length, length), np.float32),
        }
        for length in range(1, count + 1)
    ]


class TestNpz:
    def test_one_array_each_is_named_by_id(self, tmp_path):
        results = vectors(len(IDS))
        write_arrays(str(tmp_path / "o.npz"), IDS, results)
        with np.load(tmp_path / "o.npz") as file:
            assert list(file) == IDS
            for name, result in zip(IDS, results, strict=True):
                assert file[name].dtype == np.float32
                assert np.array_equal(file[name], result["layer6"])

    def test_several_are_named_by_id_and_label(self, tmp_path):
        results = matrices(2)
        write_arrays(str(tmp_path / "o.npz"), ["a", "a/layer2"], results)
        with np.load(tmp_path / "o.npz") as file:
            assert list(file) == [
                "a/layer2", "a/contacts", "a/layer2/layer2", "a/layer2/contacts",
            ]  # fmt: skip
            assert np.array_equal(file["a/layer2/contacts"], results[1]["contacts"])

    def test_the_same_arrays_give_the_same_bytes(self, tmp_path):
        for name in ("one.npz", "two.npz"):
            write_arrays(str(tmp_path / name), IDS, vectors(len(IDS)))
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()

    @pytest.mark.parametrize("suffix", ["npz", "pt", "parquet"])
    def test_whatever_the_file_is_called(self, tmp_path, suffix):
        arrays = [{"layer1": np.arange(4, dtype=np.float32)}]
        for name in ("one", "another name"):
            write_arrays(str(tmp_path / f"{name}.{suffix}"), ["a"], arrays)
        one, other = (tmp_path / f"{name}.{suffix}" for name in ("one", "another name"))
        assert one.read_bytes() == other.read_bytes()

    def test_none_at_all(self, tmp_path):
        write_arrays(str(tmp_path / "o.npz"), [], [])
        with np.load(tmp_path / "o.npz") as file:
            assert list(file) == []

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("a.npy", r"o\.npz: the id 'a\.npy' cannot be a name in \.npz: it ends in \.npy"),
            ("a\0b", "the id 'a\\\\x00b' cannot be .* has a NUL"),
            ("\u03b1" * 32_501, "the id '\u03b1{50}'... cannot be .* more than 65,000 bytes"),
        ],
    )
    def test_an_id_that_cannot_be_a_name(self, tmp_path, name, reason):
        for act in (
            lambda p: check_ids(p, ["a", name]),
            lambda p: write_arrays(p, [name], vectors(1)),
        ):
            with pytest.raises(InputError, match=reason):
                act(str(tmp_path / "o.npz"))
        for suffix in ("pt", "parquet"):
            check_ids(str(tmp_path / f"o.{suffix}"), [name])
        assert not list(tmp_path.iterdir())

    def test_the_longest_id(self, tmp_path):
        name = "\u03b1" * 32_500
        write_arrays(str(tmp_path / "o.npz"), [name], matrices(1))
        with np.load(tmp_path / "o.npz") as file:
            assert list(file) == [f"{name}/layer2", f"{name}/contacts"]


class TestAnyId:
    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
    )
    @given(ids=st.lists(st.text(), min_size=1, max_size=4, unique=True), data=st.data())
    def test_is_refused_or_comes_back(self, tmp_path, ids, data):
        suffix = data.draw(st.sampled_from(["npz", "pt", "parquet"]))
        path, results = str(tmp_path / f"o.{suffix}"), vectors(len(ids))
        try:
            check_ids(path, ids)
        except InputError:
            return
        write_arrays(path, ids, results)
        if suffix == "parquet":
            rows = parquet.read_table(path).to_pylist()
            found = {row["id"]: np.array(row["embedding"], np.float32) for row in rows}
        elif suffix == "pt":
            found = {n: t.numpy() for n, t in torch.load(path, weights_only=True).items()}
        else:
            with np.load(path) as file:
                found = {name: file[name] for name in file}
        assert list(found) == ids
        for name, result in zip(ids, results, strict=True):
            assert np.array_equal(found[name], result["layer6"])


class TestPt:
    def test_tensors_by_id(self, tmp_path):
        results = vectors(len(IDS))
        for result in results:
            result["layer6"].flags.writeable = False  # as what comes from shared memory is
        write_arrays(str(tmp_path / "o.pt"), IDS, results)
        loaded = torch.load(tmp_path / "o.pt", weights_only=True)
        assert list(loaded) == IDS
        for name, result in zip(IDS, results, strict=True):
            assert loaded[name].dtype == torch.float32
            assert np.array_equal(loaded[name].numpy(), result["layer6"])

    def test_several_are_named_by_id_and_label(self, tmp_path):
        write_arrays(str(tmp_path / "o.pt"), ["a"], matrices(1))
        assert list(torch.load(tmp_path / "o.pt", weights_only=True)) == ["a/layer2", "a/contacts"]


class TestParquet:
    def test_one_array_each_is_a_list_of_floats(self, tmp_path):
        results = vectors(len(IDS))
        write_arrays(str(tmp_path / "o.parquet"), IDS, results)
        table = parquet.read_table(tmp_path / "o.parquet")
        assert [(f.name, str(f.type)) for f in table.schema] == [
            ("id", "string"), ("embedding", "list<element: float>"),
        ]  # fmt: skip
        assert table["id"].to_pylist() == IDS
        for row, result in zip(table["embedding"], results, strict=True):
            assert np.array_equal(row.values.to_numpy(), result["layer6"])

    @pytest.mark.parametrize("group", [1, 30, 1 << 27])
    def test_several_are_columns_of_lists_of_lists(self, tmp_path, monkeypatch, group):
        monkeypatch.setattr(arrays, "ROW_GROUP_VALUES", group)
        results, ids = matrices(5), list("abcde")
        write_arrays(str(tmp_path / "o.parquet"), ids, results)
        rows = parquet.read_table(tmp_path / "o.parquet").to_pylist()
        assert [row["id"] for row in rows] == ids
        for row, result in zip(rows, results, strict=True):
            assert list(row) == ["id", "layer2", "contacts"]
            for label, array in result.items():
                assert np.array_equal(np.array(row[label], np.float32), array)

    def test_none_at_all(self, tmp_path):
        write_arrays(str(tmp_path / "o.parquet"), [], [])
        assert parquet.read_table(tmp_path / "o.parquet").column_names == ["id", "embedding"]


class TestFormat:
    @pytest.mark.parametrize("name", ["x.npz", "a.b/x.PT", "x.tar.parquet"])
    def test_by_the_last_suffix(self, name):
        assert array_format(name) == "." + name.rpartition(".")[2].lower()

    @pytest.mark.parametrize("name", ["x.h5", "x.npy", "npz", "x.npz.gz", ".npz"])
    def test_an_unknown_suffix(self, name):
        with pytest.raises(InputError, match=r"must be one of \.npz, \.pt, \.parquet"):
            array_format(name)

    def test_what_writes_it_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(arrays.MODULES, ".parquet", "no_such_package")
        with pytest.raises(InputError, match="needs the Python package no_such_package"):
            array_format("x.parquet")
