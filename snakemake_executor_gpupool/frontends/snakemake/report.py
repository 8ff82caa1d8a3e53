"""The report that each run leaves: never a reason for it to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import ConfigError

#: In the run's directory.
REPORT = "report.html"


def report_path(asked: str | None) -> Path | None:
    """Return where the report is asked for; one that cannot be written to is refused at once.

    Raises
    ------
    ConfigError
        It is a directory, or lies in something that is none.
    """
    if asked is None:
        return None
    path = Path(asked).absolute()
    if not asked.strip() or path.is_dir():
        raise ConfigError(
            f"--gpupool-report {asked!r} is a directory; name a file, such as "
            f"{Path(asked.strip()) / REPORT}"
        )
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise ConfigError(f"--gpupool-report {asked}: {parent} is no directory")
    return path


def leave_report(
    directory: Path,
    asked: Path | None,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Write the report of a run that has ended into its directory, and where it was asked for.

    It takes about 0.2 ms for each job. Whatever goes wrong is one warning.
    """
    try:
        # Not before there is something to report: the plugin's import is to be light.
        from snakemake_executor_gpupool.records.report.file import report_html, write_page
        from snakemake_executor_gpupool.records.runs.reader import read_run

        text = report_html(read_run(directory.resolve()), __version__)
    except Exception as error:  # of a run's end nothing may fail
        warn(f"gpupool: the run's report could not be made, which is a bug: {error!r}")
        return
    own = directory / REPORT
    written = [own] if _write(lambda: write_page(own, text, is_private=True), own, warn) else []
    if asked is not None and _write(lambda: write_page(asked, text, is_private=False), asked, warn):
        written.append(asked)
    if written:
        tell(f"gpupool: report: {_shown(written[-1])}")


def _write(write: Callable[[], None], path: Path, warn: Callable[[str], None]) -> bool:
    try:
        write()
    except OSError as error:
        warn(
            f"gpupool: the report {_shown(path)} cannot be written: {error.strerror}; "
            "gpupool report makes it again from the run's events"
        )
        return False
    return True


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
