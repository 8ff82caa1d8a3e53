"""Outputs staged before their job is ready: published whole and as guessed, or not at all (M5)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from snakemake_executor_gpupool.tool_api.values import Job, Named
from snakemake_executor_gpupool.worker import staging
from snakemake_executor_gpupool.worker.chain import has_words
from snakemake_executor_gpupool.worker.file_hashes import hash_of, hashes_of
from snakemake_executor_gpupool.worker.staging import (
    NotStageable,
    Staging,
    View,
    digest,
    examined,
    hashes_read,
    inside,
    is_inside,
    publish,
)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of one file and one directory, with a log."""
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("input")
    Path("in.dir").mkdir()
    Path("in.dir", "a").write_text("a")
    Path("old").mkdir()
    Path("old/x").write_text("of an earlier run")
    return Job("r", {}, ["in.txt", "in.dir"], Named(["out/x", "other/x"]), log=["log/x"])


def view_of(job: Job) -> tuple[Staging, View]:
    staging = Staging(str(Path("run/staged-1").absolute()))
    return staging, staging.view(str(Path.cwd()), [*job.output, *job.log])


def staged(job: Job) -> tuple[list[str], list[str], list[str]]:
    """Stage a job's outputs; return what is needed to publish them."""
    staging, view = view_of(job)
    view.make_way([*job.output, *job.log])
    with inside(view.path):
        for path in (*job.output, *job.log):
            assert not Path(path).exists()
            Path(path).write_text(f"of {path[-1]}")
    places = [
        [f"{staging.root}/{path}" for path in staging.inner(view, paths)]
        for paths in (job.output, job.log)
    ]
    return [digest(path) for path in job.input], *places


def test_staged_outputs_are_published_if_the_inputs_are_the_same(job: Job) -> None:
    told = staged(job)
    Path("log").mkdir()
    Path("log/x").write_text("before, ")
    assert publish(job, *told)
    assert Path("out/x").read_text() == Path("other/x").read_text() == "of x"
    assert Path("log/x").read_text() == "before, of x"
    assert not [path for path in Path("run").rglob("*") if path.is_file() and path.name == "x"]


@pytest.mark.parametrize("change", ["content", "file of directory", "new file", "output gone"])
def test_nothing_is_published_if_anything_differs(job: Job, change: str) -> None:
    told = staged(job)
    match change:
        case "content":
            Path("in.txt").write_text("Input")
        case "file of directory":
            Path("in.dir/a").write_text("b")
        case "new file":
            Path("in.dir/b").write_text("")
        case "output gone":
            Path(told[1][1]).unlink()
    assert not publish(job, *told)
    assert not Path("out").exists() and not Path("other").exists() and not Path("log").exists()


def test_what_snakemake_makes_itself_need_not_be_there(job: Job) -> None:
    digests, outputs, logs = staged(job)
    Path(outputs[1]).unlink()
    Path("log").mkdir()
    assert publish(job, digests, outputs, logs, touched=[1])
    assert Path("out/x").exists() and not Path("other/x").exists()


def test_a_file_in_a_directory_goes_with_it(tmp_path: Path, job: Job) -> None:
    nested = job.replace(output=["out/d/x", "out/d"], log=[])
    told = staged(nested.replace(output=["out/d/x"]))
    told[1].append(str(Path(told[1][0]).parent))
    Path(told[1][1], "more").touch()
    assert publish(nested, *told)
    assert sorted(path.name for path in Path("out/d").iterdir()) == ["more", "x"]


def test_a_view_shows_what_is_there_and_hides_what_is_to_be_made(job: Job) -> None:
    _, view = view_of(job)
    with inside(view.path):
        assert Path("in.txt").read_text() == "input"
        assert Path("old/x").read_text() == "of an earlier run"
    view.make_way(["old/x", "old/deep/y"])
    view.show("in.dir/a")
    with inside(view.path):
        assert Path("in.dir/a").read_text() == "a"
        assert not Path("old/x").exists() and Path("old/deep").is_dir()
        Path("old/x").write_text("new")
    assert view.has("old/x") and not view.has("old/deep/y") and not view.has("in.dir/a")
    assert Path("old/x").read_text() == "of an earlier run"
    with pytest.raises(NotStageable):
        view.show("old/x")  # a chain has written it


def test_removing_from_a_view_never_reaches_the_working_directory(job: Job) -> None:
    _, view = view_of(job)
    view.remove(["in.txt", "in.dir", "in.dir/a", "old/x"])
    assert Path("in.txt").exists() and Path("in.dir/a").exists() and Path("old/x").exists()
    view.make_way(["old/x"])
    view.show("old/x")
    view.remove(["old/x", "in.dir"])
    assert Path("old/x").exists() and Path("in.dir/a").exists()


@pytest.mark.parametrize("path", ["/abs/x", "../x", "a/../../x", ".."])
def test_paths_that_lead_elsewhere_are_not_staged(job: Job, path: str) -> None:
    _, view = view_of(job)
    assert not is_inside(path)
    with pytest.raises(NotStageable):
        view.make_way([path])


def test_outputs_of_one_path_have_views_of_their_own(job: Job) -> None:
    staging, view = view_of(job)
    view.make_way(job.output)
    Path(view.path, job.output[0]).write_text("first guess")
    other = staging.view(str(Path.cwd()), job.output)
    assert other is not view
    assert staging.view(str(Path.cwd()), ["elsewhere/x"]) is view
    assert Path(staging.root).name in Path(other.path).name


@pytest.mark.parametrize("what", ["file", "large", "name", "link", "link in directory"])
def test_what_tells_where_it_was_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(staging, "CHUNK_BYTES", 8)
    word, place = b"staged-1234", tmp_path / "d"
    place.mkdir()
    (place / "x").write_text("made in staged-4321, in many chunks of eight characters")
    assert examined(str(place), [word]) == (digest(str(place)), False)
    match what:
        case "file":
            (place / "y").write_text("staged-1234")
        case "large":
            (place / "y").write_text(f"{'.' * 1021}staged-1234{'.' * 1000}")
        case "name":
            (place / "staged-1234").touch()
        case "link":
            place = tmp_path / "link"
            (tmp_path / "staged-1234").touch()
            place.symlink_to("staged-1234")
        case "link in directory":
            (tmp_path / "staged-1234").touch()
            (place / "y").symlink_to(tmp_path / "staged-1234")
    assert examined(str(place), [word]) == (digest(str(place)), True)


@pytest.mark.parametrize("code", ["utf-8", "utf-16-le", "utf-32-le"])
def test_a_word_is_found_in_whatever_holds_it(code: str) -> None:
    held = "in staged-1/x".encode(code)
    text = "in staged-1/x"
    for values in ([held], [b"", held], [{"k": [held]}], [held, 1.5], [text], [b"no", (text, 1)]):
        assert has_words(values, ["other", "staged-1"]), values
        assert not has_words(values, ["staged-2", "other"]), values
    assert not has_words([], ["staged-1"])


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 48])
def test_a_digest_is_of_all_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(size)))
    whole = digest(str(path))
    assert whole == f"{size}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert whole == hash_of(str(path)), "one look tells both"
    monkeypatch.setattr(staging, "CHUNK_BYTES", 16)
    assert digest(str(path)) == whole
    found = examined(str(path), new_hash=hashlib.md5)[0]
    assert found == f"{size}:{hashlib.md5(path.read_bytes()).hexdigest()}"
    entry = hashlib.md5(f"file\0{found}\0".encode()).hexdigest()
    assert examined(str(tmp_path), new_hash=hashlib.md5) == (f"dir:{entry}", False)


def test_hashes_of_inputs_are_those_that_a_job_alone_would_tell(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:  # R4
    Path("in.dir/b").symlink_to("../in.txt")
    digests = [digest(path) for path in job.input]
    assert hashes_read(job.input, digests) == hashes_of(job.input)
    assert hashes_read(job.input, digests)[1] != digests[1], "of directories links count, too"
    monkeypatch.setattr(staging, "MAX_FILES", 1)
    assert hashes_read([*job.input, "in.txt"], [*digests, digests[0]]) == [digests[0], "", ""]
