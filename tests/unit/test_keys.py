"""What the key of a result holds of a tool's code (C2)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.worker import code_digest as module
from snakemake_executor_gpupool.worker import distributions
from snakemake_executor_gpupool.worker.code_digest import code_digest
from snakemake_executor_gpupool.worker.distributions import describe_distributions
from tests.unit.file_edits import write

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


def digest_in_a_new_process(spec: str) -> str:
    """Load a tool anew and return the digest of its code."""
    for name, loaded in list(sys.modules.items()):
        if (getattr(loaded, "__file__", None) or "").startswith(str(Path.cwd())):
            del sys.modules[name]
    return code_digest(load_tool_class(spec))


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
