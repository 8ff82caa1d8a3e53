"""The report that each run leaves: never a reason for it to fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from snakemake_executor_gpupool import __version__
from snakemake_executor_gpupool.errors import ConfigError

if TYPE_CHECKING:
    from snakemake_executor_gpupool.records.runs.reader import RunReader

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


class RunReport:
    """The report of a run, for its directory and where it was asked for.

    It takes about 0.1 ms for each job, and half of that while workers end. Whatever goes wrong is
    one warning.

    Parameters
    ----------
    directory
        The run's own.
    asked
        Where else it is to be; None: nowhere.
    tell, warn
        Take a line for the user.
    """

    def __init__(
        self,
        directory: Path,
        asked: Path | None,
        tell: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._directory, self._asked = directory, asked
        self._tell, self._warn = tell, warn
        self._reader: RunReader | None = None

    def read_so_far(self) -> None:
        """Read what there is already, while the run comes to its end."""
        try:
            self._read()
        except Exception:  # from the beginning in :meth:`leave`, which says what goes wrong
            self._reader = None

    def _read(self) -> RunReader:
        # Not before there is something to report: the plugin's import is to be light.
        from snakemake_executor_gpupool.records.report import file  # noqa: F401
        from snakemake_executor_gpupool.records.runs.reader import RunReader

        if self._reader is None:
            self._reader = RunReader(self._directory.resolve())
        self._reader.poll()
        return self._reader

    def leave(self) -> None:
        """Write the report of the run, which has ended."""
        try:
            from snakemake_executor_gpupool.records.report.file import report_html, write_page

            text = report_html(self._read().finish(), __version__)
        except Exception as error:  # of a run's end nothing may fail
            self._warn(f"gpupool: the run's report could not be made, which is a bug: {error!r}")
            return
        own = self._directory / REPORT
        places = [own] if self._asked is None else [own, self._asked]
        written = [
            path
            for path in places
            if _write(partial(write_page, path, text, is_private=path == own), path, self._warn)
        ]
        if written:
            self._tell(f"gpupool: report: {_shown(written[-1])}")


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
