"""What the key of a model holds of files: that params name, and that are the tool's own (C2)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tools.esm2 import Esm2Embed
from snakemake_executor_gpupool.worker import file_digests, named_files
from snakemake_executor_gpupool.worker.describe import describe_model
from snakemake_executor_gpupool.worker.loaded import for_files
from tests.unit.file_edits import replace, write


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Weights(Tool):
    reload_on = ("model", "adapters")
    defaults: ClassVar[dict[str, Any]] = {"model": "", "adapters": None, "vocab": ""}


def model_of(**params: Any) -> tuple[str, str]:
    described = describe_model(for_files(Weights, params))
    return described["model"], described["group"]


@pytest.mark.parametrize(
    "value",
    [
        "m.pt",
        Path("m.pt"),
        ["other.pt", "m.pt"],
        {"first": "other.pt", "second": {"deep": Path("m.pt")}},
        ("other.pt", ["m.pt"]),
        "dir",
        Path("dir"),
        ["dir"],
        {"m.pt"},
        "./m.pt",
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["model", "adapters", "vocab"])
def test_files_of_params_count_by_content(value: Any, name: str) -> None:  # C2
    write({"m.pt": "aaaa", "other.pt": "x", "dir/config.json": "{}", "dir/sub/w.bin": "aaaa"})
    place = 1 if name == "vocab" else 0
    first = model_of(**{name: value})
    assert model_of(**{name: value}) == first
    for path in ("m.pt", "dir/sub/w.bin"):
        replace(path, "bbbb")
    second = model_of(**{name: value})
    assert second[place] != first[place]
    assert second[1 - place] == first[1 - place]
    os.utime("m.pt")
    os.utime("dir/sub/w.bin")
    assert model_of(**{name: value}) == second, "the same content at another time"


def test_results_kept_by_earlier_versions_are_found_again() -> None:  # C2
    write({"m.pt": "aaaa"})
    ((name, content),) = named_files.contents_of({"model": "m.pt"}, named_files.ITEM)
    assert name == "m.pt"
    assert content == f"4:{hashlib.blake2b(b'aaaa', digest_size=32).hexdigest()}"


def test_a_directory_of_outputs_is_no_model() -> None:
    """Or each output that is written would be another model."""
    write({"esm2/a.npz": "x"})
    reader = for_files(Weights, {"model": "esm2", "vocab": "esm2"})
    first = describe_model(reader, ["esm2/a.npz", "esm2/b.npz"])
    write({"esm2/b.npz": "y"})
    assert describe_model(reader, ["esm2/a.npz", "esm2/b.npz"]) == first
    assert describe_model(reader, ["esm2.npz"]) != first


def test_weights_in_linked_directories_count(tmp_path: Path) -> None:
    write({"blobs/1": "aaaa", "blobs/2": "bbbb", "model/config.json": "{}"})
    Path("model/weights").symlink_to(tmp_path / "blobs/1")
    Path("model/loop").symlink_to(tmp_path / "model")
    first = model_of(model="model")
    Path("model/weights").unlink()
    Path("model/weights").symlink_to(tmp_path / "blobs/2")
    assert model_of(model="model") != first


def test_large_weights_are_read_once_for_each_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change anywhere counts, even if size and time of modification are set back (C2)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("noted").absolute()))
    monkeypatch.setattr(named_files, "NOTED_BYTES", 10)
    read: list[str] = []
    real = file_digests.sha256_of
    monkeypatch.setattr(file_digests, "sha256_of", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(named_files, "is_settled", lambda status: True)
    write({"m.pt": "a" * 300_000})
    first = model_of(model="m.pt")
    named_files._DIGESTS.clear()  # as in another process
    assert model_of(model="m.pt") == first and len(read) == 1
    replace("m.pt", "a" * 100_000 + "b" + "a" * 199_999)
    assert model_of(model="m.pt") != first and len(read) == 2


def test_a_note_that_others_could_have_written_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("noted").absolute()))
    write({"m.pt": "weights"})
    right = file_digests.sha256_of_large("m.pt", Path("m.pt").stat())
    (note,) = Path("noted/gpupool/file-digests").iterdir()
    for text, mode in (("0" * 64, 0o666), ("0" * 63, 0o600), ("", 0o600)):
        note.write_text(text)
        note.chmod(mode)
        assert file_digests.sha256_of_large("m.pt", Path("m.pt").stat()) == right


def test_huge_files_count_by_size_times_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_files, "NOTED_BYTES", 5)
    monkeypatch.setattr(named_files, "WHOLE_BYTES", 10)
    monkeypatch.setattr(named_files, "SAMPLE_BYTES", 4)
    write({"m.pt": "a" * 100})
    first = model_of(model="m.pt")
    replace("m.pt", "a" * 30 + "b" + "a" * 69)  # where there is no sample
    assert model_of(model="m.pt") != first


def test_the_parts_that_an_index_names_belong_to_the_model() -> None:  # C2
    index = '{"weight_map": {"a": "part-1.bin", "b": "part-2.bin", "c": "part-2.bin"}}'
    write({"m/model.index.json": index, "m/part-1.bin": "1", "m/part-2.bin": "2", "m/other": "3"})
    first = model_of(model="m/model.index.json")
    replace("m/other", "4")
    assert model_of(model="m/model.index.json") == first
    replace("m/part-2.bin", "4")
    assert model_of(model="m/model.index.json") != first


@pytest.mark.parametrize("name", ["dir/.hidden/w", "dir/.w"])
def test_hidden_files_of_a_model_count(name: str) -> None:  # C2
    write({name: "1", "dir/.git/index": "1", "dir/__pycache__/x.pyc": "1"})
    first = model_of(model="dir")
    replace("dir/.git/index", "2")
    assert model_of(model="dir") == first
    replace(name, "2")
    assert model_of(model="dir") != first


class Prefixed(Tool):
    defaults: ClassVar[dict[str, Any]] = {"model": "index"}

    def extra_model_files(self) -> list[Path]:
        return sorted(Path().glob(f"{self.params.model}.*"))


@pytest.mark.parametrize(
    ("tool", "file"),
    [(Prefixed({}), "index.2.bt"), (Esm2Embed({"model": "m.pt"}), "m-contact-regression.pt")],
    ids=["a prefix", "beside a checkpoint"],
)
def test_files_that_a_tool_names_itself_belong_to_its_model(tool: Tool, file: str) -> None:  # C2
    write({"index.1.bt": "1", "m.pt": "weights"})
    idents = [describe_model(tool)["model"]]
    for text in ("2", "3"):
        write({file: text})
        idents.append(describe_model(tool)["model"])
    write({"other.txt": "nobody's"})
    assert len(set(idents)) == 3 and describe_model(tool)["model"] == idents[-1]


@pytest.mark.parametrize("model", ["", ".", "/", None])
def test_a_model_without_a_name_is_left_to_loading(model: Any) -> None:
    assert describe_model(Esm2Embed({"model": model}))["model"]
