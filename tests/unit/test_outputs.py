"""Outputs appear whole, and a tool that writes them finds what a plain script would (W9)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tool_api.values import Named
from snakemake_executor_gpupool.worker.outputs import (
    files_that_are_there,
    outermost,
    staged_outputs,
    what_is_there,
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything() -> dict[str, str]:
    """All files below the working directory; none of them may be a hidden one."""
    found = {str(path): path.read_text() for path in Path().rglob("*") if path.is_file()}
    assert not list(Path().rglob(".gpupool-*"))
    return found


def append(path: str) -> None:
    with Path(path).open("a", encoding="utf-8") as book:
        book.write("new\n")


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_in_a_directory_that_is_an_output_too(order: slice, absolute: bool) -> None:
    head = f"{Path.cwd()}/" if absolute else ""
    outputs = [f"{head}d", "d/x", "d/deep/y", "e/z"][order]
    with staged_outputs(Named(outputs)) as staged:
        places = dict(zip(outputs, staged, strict=True))
        # As a script would, and in the directory, too.
        Path(places[f"{head}d"]).mkdir(exist_ok=True)
        Path(places[f"{head}d"], "w").write_text("w")
        for name in ("d/x", "d/deep/y", "e/z"):
            Path(places[name]).write_text(name)
        assert Path(places["d/x"]).parent == Path(places[f"{head}d"])
        assert not Path("d/x").exists()
    assert everything() == {
        "d/w": "w",
        "d/x": "d/x",
        "d/deep/y": "d/deep/y",
        "e/z": "e/z",
    }


def test_outputs_that_only_sound_nested_are_not() -> None:
    assert outermost(["d", "d.txt", "da/x", "d/x", "./d/y", "e/../d/z"]) == {"d", "d.txt", "da/x"}


def test_what_is_to_be_updated_is_there_and_stays_if_the_tool_fails() -> None:
    Path("book.txt").write_text("old\n")
    Path("notes").mkdir()
    Path("notes/old").write_text("old")

    def update(fails: bool) -> None:
        with staged_outputs(Named(["book.txt", "notes", "new.txt"]), what_is_there) as staged:
            append(staged[0])
            Path(staged[1], "new").write_text("new")
            Path(staged[2]).write_text("x")
            if fails:
                raise ValueError

    with pytest.raises(ValueError):
        update(True)
    assert everything() == {"book.txt": "old\n", "notes/old": "old"}
    update(False)
    after = {"book.txt": "old\nnew\n", "notes/old": "old", "notes/new": "new", "new.txt": "x"}
    assert everything() == after


def test_a_copy_is_what_is_updated_however_often_it_is_written() -> None:
    """A process may die after it has renamed the outputs, and before it says so."""
    Path("book.txt").write_text("old\n")
    Path("copy").write_text("old\n")
    for _ in range(2):
        with staged_outputs(Named(["book.txt"]), {"book.txt": "copy"}.get) as staged:
            append(staged[0])
    assert Path("book.txt").read_text() == "old\nnew\n"


def test_by_hand_a_directory_has_nothing_of_an_earlier_run() -> None:
    Path("notes").mkdir()
    Path("notes/old").write_text("old")
    Path("book.txt").write_text("old\n")
    with staged_outputs(Named(["notes", "book.txt"]), files_that_are_there) as staged:
        Path(staged[0]).mkdir()
        assert Path(staged[1]).read_text() == "old\n"
    assert everything() == {"book.txt": "old\n"}


@pytest.mark.parametrize(("content", "is_kept"), [(what_is_there, True), (None, False)])
def test_a_pipe_is_written_to_by_a_script_and_replaced_by_a_worker(
    content: Callable[[str], str | None] | None, is_kept: bool
) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    with staged_outputs(Named(["pipe"]), content) as staged:
        Path(staged[0]).write_text("through")
    assert os.read(reader, 100) == (b"through" if is_kept else b"")
    assert Path("pipe").is_fifo() == is_kept
    os.close(reader)


def test_an_error_in_a_nested_output_names_an_output() -> None:
    outputs = Named(["d", "d/x"])
    with (
        pytest.raises(InputError, match=r"output d[/x]* cannot be written"),
        staged_outputs(outputs) as staged,
    ):
        Path(staged[1]).write_text("x")
        Path(staged[1], "y").write_text("")
    assert everything() == {}
