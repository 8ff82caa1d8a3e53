"""How much of a load is importing (F2)."""

from __future__ import annotations

import builtins
import sys
import threading
import time
from pathlib import Path

import pytest

from snakemake_executor_gpupool.worker.import_time import ImportTime

PAUSE_S = 0.05


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that takes a while to import, and imports another one that does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    text = f"import time; time.sleep({PAUSE_S})\n"
    (tmp_path / "slow_inner.py").write_text(text)
    (tmp_path / "slow_outer.py").write_text(f"{text}import slow_inner\n")
    for name in ("slow_inner", "slow_outer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "slow_outer"


def test_imports_are_timed_once_and_nothing_else_is(slow_module: str) -> None:  # F2
    before = builtins.__import__
    began_s = time.perf_counter()
    with ImportTime() as imports:
        __import__(slow_module)
        importing_s = time.perf_counter() - began_s
        time.sleep(PAUSE_S)
        assert builtins.__import__ is not before
    assert 2 * PAUSE_S <= imports.seconds <= importing_s
    assert builtins.__import__ is before
    __import__("json")
    assert imports.seconds <= importing_s


def test_an_import_that_fails_fails_and_the_next_is_timed(slow_module: str) -> None:  # F2
    with ImportTime() as imports:
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            __import__("no_such_module_at_all")
        failed_s = imports.seconds
        __import__(slow_module)
    assert imports.seconds >= failed_s + 2 * PAUSE_S


def test_what_other_threads_import_is_their_own(slow_module: str) -> None:  # F2
    with ImportTime() as imports:
        thread = threading.Thread(target=__import__, args=(slow_module,))
        thread.start()
        thread.join()
    assert slow_module in sys.modules and imports.seconds < PAUSE_S


def test_a_hook_that_somebody_puts_on_top_stays_and_works(
    monkeypatch: pytest.MonkeyPatch, slow_module: str
) -> None:  # F2
    """A package may have a hook of its own, put there while it was imported."""
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)  # to be put back
    names: list[str] = []
    with ImportTime() as imports:
        inner = builtins.__import__

        def theirs(name: str, *arguments: object, **named: object) -> object:
            names.append(name)
            return inner(name, *arguments, **named)

        builtins.__import__ = theirs
    seconds = imports.seconds
    assert builtins.__import__ is theirs
    __import__(slow_module)
    assert slow_module in names and imports.seconds == seconds
