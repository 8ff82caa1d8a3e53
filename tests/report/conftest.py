"""Fixtures of the tests that open reports in a real Chromium, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from snakemake_executor_gpupool.records.report.file import report_html
from snakemake_executor_gpupool.records.runs.reader import read_run
from tests.report.synthetic import Shape, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
READY = "html[data-ready]"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of this machine; tests are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium; `make test-report` installs Debian's as root")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs rights that a container seldom has; it opens files of these tests only.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A report in the browser, with what went wrong there and what it asked for."""

    page: Any
    path: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> Any:
        """Go there, and wait until the report is drawn."""
        self.page.goto(f"{self.path.as_uri()}{fragment}")
        self.page.wait_for_selector(READY)
        return self.page

    def check(self) -> None:
        """Nothing was complained of, and nothing but the file itself was asked for."""
        assert self.complaints == []
        assert [url for url in self.requests if url.partition("#")[0] != self.path.as_uri()] == []


class Reports:
    """Makes reports, and opens them."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._opened: list[Opened] = []

    def open(self, path: Path, fragment: str = "", **context: Any) -> Opened:
        """Open a report in a window of its own."""
        context = {"viewport": {"width": 1360, "height": 900}, "locale": "en-GB"} | context
        page = self._browser.new_context(**context).new_page()
        page.set_default_timeout(10_000)
        opened = Opened(page, path)
        page.on("console", lambda message: opened.complaints.append(message.text))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("request", lambda request: opened.requests.append(request.url))
        self._opened.append(opened)
        opened.open(fragment)
        return opened

    def close(self) -> None:
        """Close the windows, and see that nothing was wrong in any of them."""
        for opened in self._opened:
            opened.page.context.close()
        for opened in self._opened:
            opened.check()


@pytest.fixture
def reports(browser: Any) -> Iterator[Reports]:
    """Opens reports; in the end none may have complained or asked for anything."""
    reports = Reports(browser)
    yield reports
    reports.close()


@dataclass
class Made:
    """A run's directory and its report."""

    directory: Path
    report: Path


def make(directory: Path, shape: Shape | None = None, *, is_live: bool = False) -> Made:
    """Write a run of this shape, and its report."""
    write_run(directory, shape)
    return report_of(directory, is_live=is_live)


def report_of(directory: Path, *, is_live: bool = False) -> Made:
    """Write the report of a run's directory."""
    path = directory / "report.html"
    path.write_text(report_html(read_run(directory, is_live=is_live), "0.1.0"))
    return Made(directory, path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of 60 jobs."""
    return make(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of 20,000 jobs and 200,000 items."""
    return make(tmp_path_factory.mktemp("full") / "run", Shape(jobs=20_000, failed=40))
