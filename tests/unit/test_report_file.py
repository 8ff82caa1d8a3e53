"""The report as a file: what is in it, and how it is written, or not."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import stat
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import ConfigError
from snakemake_executor_gpupool.frontends.snakemake.report import RunReport, report_path
from snakemake_executor_gpupool.records.report.file import (
    PAGE,
    SCRIPTS,
    page_html,
    report_html,
    write_page,
)
from snakemake_executor_gpupool.records.runs.reader import read_run
from tests.report.synthetic import HOSTILE, Shape, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "20260101-000000-1", Shape(jobs=8, failed=1, is_hostile=True))


def data_of(page: str) -> dict[str, object]:
    packed = re.search(r'id="data">([^<]*)</script>', page)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_every_source_of_the_page_is_used() -> None:
    assert {path.name for path in PAGE.glob("*.js")} == set(SCRIPTS)


def test_the_policy_names_style_and_script_by_their_hashes(run: Path) -> None:
    page = report_html(read_run(run), "1.2")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    for tag in ("style", "script"):
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(contents) == 1
        digest = base64.b64encode(hashlib.sha256(contents[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")


def test_the_page_names_no_other_address(run: Path) -> None:
    page = report_html(read_run(run), "1.2")
    assert not re.search(r"https?://|//cdn|@import|url\(", page)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert "{{" not in page


def test_nothing_of_a_run_is_markup(run: Path) -> None:
    page = report_html(read_run(run), "1.2")
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert HOSTILE in json.dumps(data_of(page)).replace('\\"', '"')
    page = page_html({}, title=f"a{HOSTILE}", version=HOSTILE)
    assert "<img" not in page


def test_numbers_that_json_lacks_are_left_out() -> None:
    assert data_of(page_html({"a": [float("nan"), 1.5]}, title="", version="")) == {
        "a": [None, 1.5]
    }


def test_a_page_is_private_or_as_the_mask_says(tmp_path: Path) -> None:
    write_page(tmp_path / "own.html", "x", is_private=True)
    write_page(tmp_path / "new" / "asked.html", "x", is_private=False)
    assert stat.S_IMODE((tmp_path / "own.html").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "asked.html").stat().st_mode) & 0o600 == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*.html")) == ["asked.html", "own.html"]


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    path = small_disk / "report.html"
    path.write_text("an older one")
    with pytest.raises(OSError, match="space"):
        write_page(path, "x" * 1_000_000, is_private=True)
    assert path.read_text() == "an older one"
    assert [each.name for each in small_disk.iterdir()] == ["report.html"]


# -- what a run leaves -----------------------------------------------------------------------------
class Said:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.warned: list[str] = []

    def leave(self, directory: Path, asked: Path | None = None) -> None:
        RunReport(directory, asked, self.told.append, self.warned.append).leave()


def test_a_run_leaves_its_report_and_one_where_it_was_asked_for(run: Path, tmp_path: Path) -> None:
    said = Said()
    said.leave(run, tmp_path / "out" / "my.html")
    assert (run / "report.html").read_text() == (tmp_path / "out" / "my.html").read_text()
    assert data_of((run / "report.html").read_text())["run"]
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == 0o600
    assert said.warned == []
    assert len(said.told) == 1
    assert said.told[0].endswith("my.html")


def test_a_report_that_cannot_be_written_is_a_warning(run: Path, small_disk: Path) -> None:
    said = Said()
    (small_disk / "rest").write_bytes(b"x" * 100_000)
    said.leave(run, small_disk / "my.html")
    assert (run / "report.html").exists()
    assert len(said.warned) == 1
    assert "gpupool report" in said.warned[0]


def test_a_report_that_cannot_be_made_is_a_warning(run: Path, monkeypatch: object) -> None:
    said = Said()
    (run / "events.jsonl").unlink()
    said.leave(run)  # there is little to say, and it is said
    assert said.warned == []
    monkeypatch.setattr(  # type: ignore[attr-defined]
        "snakemake_executor_gpupool.records.report.file.report_html", lambda *_: 1 / 0
    )
    said.leave(run)
    assert "division by zero" in said.warned[0]


def test_a_path_that_can_be_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert report_path(None) is None
    assert report_path(str(tmp_path / "new" / "r.html")) == tmp_path / "new" / "r.html"
    for asked in (str(tmp_path), "", str(tmp_path / "file" / "r.html")):
        with pytest.raises(ConfigError):
            report_path(asked)
