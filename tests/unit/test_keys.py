"""What a result's key holds: code, files that params and items name (C2)."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest

from snakemake_executor_gpupool.tool_api.tool import Tool
from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.tools.esm2 import Esm2Embed
from snakemake_executor_gpupool.worker import code_digest as module
from snakemake_executor_gpupool.worker import distributions, file_digests, named_files
from snakemake_executor_gpupool.worker.code_digest import code_digest
from snakemake_executor_gpupool.worker.describe import describe_item, describe_model
from snakemake_executor_gpupool.worker.distributions import describe_distributions
from snakemake_executor_gpupool.worker.loaded import for_files

TOOL = "from snakemake_executor_gpupool import Tool\n{imports}\nclass T(Tool):\n    {body}\n"


@pytest.fixture(autouse=True)
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


# -- code ------------------------------------------------------------------------------
def digest_in_a_new_process(spec: str) -> str:
    """Load a tool anew and return the digest of its code."""
    for name, loaded in list(sys.modules.items()):
        if (getattr(loaded, "__file__", None) or "").startswith(str(Path.cwd())):
            del sys.modules[name]
    return code_digest(load_tool_class(spec))


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


#: Files of a tool, and which of them its results depend on.
LAYOUTS: dict[str, tuple[dict[str, str], str, list[str], list[str]]] = {
    "beside it": (
        {
            "t.py": TOOL.format(imports="import helper", body="pass"),
            "helper.py": "x = 1",
            "other.py": "",
        },
        "t.py:T",
        ["t.py", "helper.py"],
        ["other.py"],
    ),
    "indirectly": (
        {
            "t.py": TOOL.format(imports="from one import f", body="pass"),
            "one.py": "import two.three as m\ndef f(): return m",
            "two/__init__.py": "",
            "two/three.py": "from . import four\n",
            "two/four.py": "from .five import x\n",
            "two/five.py": "x = 1",
            "two/six.py": "",
        },
        "t.py:T",
        ["one.py", "two/__init__.py", "two/three.py", "two/four.py", "two/five.py"],
        ["two/six.py"],
    ),
    "lazily": (
        {
            "t.py": TOOL.format(
                imports="",
                body="def run(self, items):\n        from lazy import f\n        return f(items)",
            ),
            "lazy.py": "import importlib\ndef f(x): importlib.import_module('lazier')",
            "lazier.py": "",
        },
        "t.py:T",
        ["lazy.py", "lazier.py"],
        [],
    ),
    "a base in another file": (
        {
            "t.py": "from base import B\nclass T(B):\n    pass\n",
            "base.py": "from deep.er import A\nclass B(A):\n    pass\n",
            "deep/er.py": TOOL.format(imports="", body="pass").replace("class T", "class A"),
        },
        "t.py:T",
        ["t.py", "base.py", "deep/er.py"],
        [],
    ),
    "in a package": (
        {
            "pkg/__init__.py": "",
            "pkg/t.py": TOOL.format(imports="from .inner import x", body="pass"),
            "pkg/inner/__init__.py": "from ..side import x",
            "pkg/side.py": "x = 1",
            "pkg/unused.py": "",
        },
        "pkg.t:T",
        ["pkg/__init__.py", "pkg/t.py", "pkg/inner/__init__.py", "pkg/side.py"],
        ["pkg/unused.py"],
    ),
    "namespaces, of which nothing is loaded": (
        {
            "t.py": TOOL.format(
                imports="", body="def run(self, items):\n        import space.sub.deep.one"
            ),
            "space/sub/__init__.py": "",
            "space/sub/deep/one.py": "from . import two",
            "space/sub/deep/two.py": "",
        },
        "t.py:T",
        ["space/sub/__init__.py", "space/sub/deep/one.py", "space/sub/deep/two.py"],
        [],
    ),
    "the package alone": (
        {
            "outer/__init__.py": "",
            "outer/inner/__init__.py": "",
            "outer/inner/t.py": TOOL.format(imports="", body="pass"),
        },
        "outer.inner.t:T",
        ["outer/__init__.py", "outer/inner/__init__.py", "outer/inner/t.py"],
        [],
    ),
    "star, try and a circle": (
        {
            "t.py": TOOL.format(imports="from a import *", body="pass"),
            "a.py": "try:\n    import nowhere\nexcept ImportError:\n    import b",
            "b.py": "import a",
        },
        "t.py:T",
        ["a.py", "b.py"],
        [],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_digest_covers_the_code_that_is_imported(tmp_path: Path, layout: Any) -> None:  # C2
    files, spec, inside, outside = layout
    write(files)
    sys.path.insert(0, str(tmp_path))
    first = digest_in_a_new_process(spec)
    assert digest_in_a_new_process(spec) == first
    for name in outside:
        write({name: f"{files[name]}\n# changed"})
        assert digest_in_a_new_process(spec) == first, name
    seen = {first}
    for name in inside:
        write({name: f"{files[name]}\n# changed"})
        seen.add(digest_in_a_new_process(spec))
    assert len(seen) == 1 + len(inside)


def test_more_modules_than_are_followed_count_by_their_stat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MODULES", 3)
    write({f"big/m{n}.py": f"from . import m{n + 1}" for n in range(6)})
    write({"big/__init__.py": "", "big/m6.py": "x = 1"})
    write({"t.py": TOOL.format(imports="import big.m0", body="pass")})
    first = digest_in_a_new_process("t.py:T")
    assert digest_in_a_new_process("t.py:T") == first
    module._stats_below.cache_clear()
    write({"big/m6.py": "x = 22"})
    assert digest_in_a_new_process("t.py:T") != first


def test_installed_packages_count_by_version() -> None:
    packages = describe_distributions({"hypothesis", "yaml"})
    names = [line.split()[0] for line in packages]
    assert any(name.startswith("hypothesis==") for name in names)
    assert any(name.startswith("pyyaml==") for name in names), "its package has another name"
    assert any(name.startswith("sortedcontainers==") for name in names), "which it requires"
    assert not any(name.startswith("pytest==") for name in names)
    assert len(describe_distributions({"no_such_package"})) > len(packages)


def test_a_package_in_a_namespace_counts_by_its_own_distribution(tmp_path: Path) -> None:
    place = tmp_path / "lib" / "site-packages"
    for name in ("one", "two"):
        record = f"space/{name}/__init__.py,,\n"
        write({f"{place}/space_{name}-1.0.dist-info/RECORD": record})
        write({f"{place}/space/{name}/__init__.py": ""})
    sys.path.insert(0, str(place))
    distributions._installed.cache_clear()
    write({"t.py": TOOL.format(imports="import space.two", body="pass")})
    kind: Any = load_tool_class("t.py:T")
    names = [line.split()[0] for line in module.code_of(kind).distributions]
    assert names == ["space-two==1.0"]
    distributions._installed.cache_clear()


def test_versions_of_python_and_gpupool_count(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"t.py": TOOL.format(imports="", body="pass")})
    digests = {digest_in_a_new_process("t.py:T")}
    monkeypatch.setattr(sys.modules[module.OWN_PACKAGE], "__version__", "9")
    digests.add(digest_in_a_new_process("t.py:T"))
    monkeypatch.setattr(sys, "version_info", (3, 11, 99))
    digests.add(digest_in_a_new_process("t.py:T"))
    assert len(digests) == 3


def test_environment_variables_that_the_source_names_are_known() -> None:
    code = """
import os
from os import environ, getenv
def f():
    return os.environ["A"], environ.get("B"), getenv("C"), os.getenv("D", "1"), "E" in os.environ
NOT = {}.get("F"), os.environ.get(str(1))
"""
    write({"t.py": TOOL.format(imports="import v", body="pass"), "v.py": code})
    kind: Any = load_tool_class("t.py:T")
    assert module.code_of(kind).variables == {"A", "B", "C", "D", "E"}


def test_a_package_of_the_tools_own_counts_by_content_where_it_is_installed(
    tmp_path: Path,
) -> None:  # C2
    place = tmp_path / "lib" / "site-packages"
    write(
        {
            f"{place}/scorer/__init__.py": TOOL.format(imports="from .h import x", body="pass"),
            f"{place}/scorer/h.py": "x = 1",
        }
    )
    sys.path.insert(0, str(place))
    first = digest_in_a_new_process("scorer:T")
    write({f"{place}/scorer/h.py": "x = 2"})
    assert digest_in_a_new_process("scorer:T") != first


def test_built_in_tools_count_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = load_tool_class("snakemake_executor_gpupool.tools.esm2:Esm2Embed")
    read: list[str] = []

    def noted(path: str) -> bytes:
        read.append(Path(path).name)
        return Path(path).read_bytes()

    monkeypatch.setattr(module, "_read", noted)
    module._code_of(kind)
    assert {"esm2.py", "esm2_forward.py", "esm2_huggingface.py", "fasta.py"} <= set(read)
    assert "server.py" not in read and "tool.py" not in read


def test_a_second_look_costs_nothing() -> None:
    kind: Any = load_tool_class("snakemake_executor_gpupool.tools.esm2:Esm2Embed")
    code_digest(kind)
    started_s = time.perf_counter()
    for _ in range(5000):
        code_digest(kind)
    assert time.perf_counter() - started_s < 0.5


# -- files of params ---------------------------------------------------------------------
class Weights(Tool):
    reload_on = ("model", "adapters")
    defaults: ClassVar[dict[str, Any]] = {"model": "", "adapters": None, "vocab": ""}


def model_of(**params: Any) -> tuple[str, str]:
    described = describe_model(for_files(Weights, params))
    return described["model"], described["group"]


def replace(path: str, text: str) -> None:
    """Write other content of the same size, with the same times."""
    status = Path(path).stat()
    Path(path).write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


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


# -- files of items ------------------------------------------------------------------------
class Paths(Tool):
    pass


class UpperPaths(Tool):
    def key(self, item: Any) -> str:
        return item.path.lower()


class Bare(NamedTuple):
    path: str


@dataclass
class Record:
    name: str
    path: Any


class Plain:
    def __init__(self, path: Any) -> None:
        self.path = path


class Slotted:
    __slots__ = ("path",)

    def __init__(self, path: Any) -> None:
        self.path = path


def key_of(item: Any, kind: type[Tool] = Paths) -> str:
    return describe_item(for_files(kind, {}), item, 0).key


ITEMS: dict[str, Callable[[], Any]] = {
    "text": lambda: "a.txt",
    "in a directory": lambda: "dir/a.txt",
    "absolute": lambda: str(Path("a.txt").absolute()),
    "from here": lambda: "./dir/../a.txt",
    "bytes": lambda: b"a.txt",
    "Path": lambda: Path("a.txt"),
    "tuple": lambda: ("s1", "a.txt"),
    "list": lambda: [["a.txt"]],
    "dict": lambda: {"path": Path("a.txt")},
    "dict key": lambda: {"a.txt": 1},
    "set": lambda: {"b", "a.txt"},
    "named tuple": lambda: Bare("a.txt"),
    "dataclass": lambda: Record("s1", "a.txt"),
    "object": lambda: Plain(["a.txt"]),
    "slots": lambda: Slotted("a.txt"),
    "directory": lambda: "dir",
    "array of texts": lambda: np.array(["b", "a.txt"]),
    "array of objects": lambda: np.array([Path("a.txt"), None]),
    "table": lambda: pd.DataFrame({"path": ["a.txt"]}),
}


@pytest.mark.parametrize("make", ITEMS.values(), ids=ITEMS)
def test_an_item_that_names_a_file_counts_by_its_content(make: Any) -> None:  # C2
    write({"a.txt": "aaaa", "dir/a.txt": "aaaa"})
    first = key_of(make())
    assert key_of(make()) == first
    for path in ("a.txt", "dir/a.txt"):
        replace(path, "bbbb")
    assert key_of(make()) != first


def test_arrays_of_objects_count_by_what_is_in_them() -> None:
    """Their bytes are addresses, which the next array may have again."""
    keys = {key_of(np.array([f"{n}"] * 2, dtype=object)) for n in range(200)}
    assert len(keys) == 200
    assert key_of(np.array(["".join(["x", "y"])], dtype=object)) == key_of(
        np.array(["".join(["x", "y"])], dtype=object)
    )


def test_a_key_that_is_a_path_counts_by_its_content() -> None:
    write({"a.txt": "aaaa"})
    item = Record("s1", "A.TXT")
    first = key_of(item, UpperPaths)
    replace("a.txt", "bbbb")
    assert key_of(item, UpperPaths) != first


def test_a_key_of_ones_own_that_is_no_path_counts_alone() -> None:
    class Own(Tool):
        def key(self, item: Any) -> str:
            return f"{item[0]}"

    write({"a.txt": "aaaa"})
    first = key_of(("seq", "a.txt"), Own)
    replace("a.txt", "bbbb")
    assert key_of(("seq", "a.txt"), Own) == first == "seq"


def test_settled_files_and_directories_are_seen_to_change() -> None:
    """What is remembered of files and listings is dropped when they change."""
    write({"a.txt": "aaaa"})
    for path in ("a.txt", "."):
        os.utime(path, (1_000_000, 1_000_000))
    first, word = key_of("a.txt"), key_of("new")
    assert key_of("a.txt") == first
    write({"a.txt": "bbbb", "new": "x"})
    os.utime("a.txt", (1_000_000, 1_000_000))
    assert key_of("a.txt") != first
    assert key_of("new") != word


def test_words_that_are_no_files_are_keys_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(".", (1_000_000, 1_000_000))
    looked: list[Any] = []
    monkeypatch.setattr(named_files, "_content", lambda path, bounds: looked.append(path) or "")
    for item in (
        "MKTAYIAK",
        np.zeros(3),
        [1, 2.5, None],
        "a sentence, and/or two.",
        "x" * 5000,
        "a\nb",
        "",
        ".",
        "..",
        "/",
    ):
        key_of(item)
    assert looked == []


def test_a_directory_that_is_too_large_is_computed_for_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write({f"many/{n}": "" for n in range(5)})
    same = key_of("many")
    monkeypatch.setattr(named_files, "ITEM", named_files.Bounds(3, 1e9, beyond=None))
    monkeypatch.setattr("snakemake_executor_gpupool.worker.describe.ITEM", named_files.ITEM)
    assert key_of("many") != key_of("many") != same


def test_what_is_no_file_or_is_gone_does_no_harm() -> None:
    os.mkfifo("pipe")
    write({"gone": ""})
    Path("dangling").symlink_to("nowhere")
    assert key_of("pipe") == key_of("pipe") and key_of("dangling") == key_of("dangling")
    shutil.rmtree("gone", ignore_errors=True)
    for odd in ("/\ud800", Path("a\0b"), Path("x" * 5000), b"/\xff\xfe"):
        assert named_files.contents_of(odd, named_files.ITEM) == []
    circle: list[Any] = ["a"]
    circle.append(circle)
    assert list(named_files._paths_in(circle, set())) == []


# -- files that no param names ----------------------------------------------------------
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


def test_names_of_any_length_and_links_count_by_their_files() -> None:  # C2
    """Also in a directory that has changed just now, which is not listed once for all."""
    longest, nowhere, elsewhere = "n" * 255, "nowhere", "elsewhere"
    Path(nowhere).symlink_to("later.txt")
    before = key_of(longest), key_of(nowhere), key_of("n" * 256)
    write({longest: "aaaa", "later.txt": "aaaa"})
    Path(elsewhere).symlink_to("later.txt")
    after = key_of(longest), key_of(nowhere), key_of("n" * 256)
    assert after[0] != before[0] and after[1] != before[1] and after[2] == before[2]
    first = key_of(elsewhere)
    write({"later.txt": "bbbb"})
    assert key_of(elsewhere) != first
