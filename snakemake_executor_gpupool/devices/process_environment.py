"""This process's environment: it shows no device while a run lasts.

Most of a run's jobs are started by Snakemake, on threads of the coordinating process, with its
environment: plain CPU jobs, and local rules that no executor is asked for. None of them has a
device, so that environment shows none. A process that is given devices, or looks for them,
starts from :func:`own_environment` instead.

This costs a job nothing, and holds however the job is started. Any thread may call it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping

from snakemake_executor_gpupool.devices.visibility import visible_env

_lock = threading.Lock()
_hidings = 0
_before: dict[str, str | None] = {}


def hide_devices() -> None:
    """Show no device in this process's environment, until :func:`show_devices`."""
    global _hidings  # noqa: PLW0603 - a process has one environment
    with _lock:
        _hidings += 1
        if _hidings == 1:
            nothing = visible_env(())
            _before.update((name, os.environ.get(name)) for name in nothing)
            os.environ.update(nothing)


def show_devices() -> None:
    """Undo one :func:`hide_devices`; the last one restores the environment."""
    global _hidings  # noqa: PLW0603
    with _lock:
        _hidings = max(_hidings - 1, 0)
        if _hidings == 0:
            for name, value in _before.items():
                _put(name, value)
            _before.clear()


@contextlib.contextmanager
def shown_to_jobs(variables: Mapping[str, str]) -> Iterator[None]:
    """Have this process's environment, and so that of all jobs, say so meanwhile."""
    with _lock:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
    try:
        yield
    finally:
        with _lock:
            for name, value in before.items():
                _put(name, value)


def own_environment() -> dict[str, str]:
    """Return this process's environment as it is without :func:`hide_devices`."""
    with _lock:
        environment = dict(os.environ)
        for name, value in _before.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return environment


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
