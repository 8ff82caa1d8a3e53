"""What a tool's code asks of files without opening them: are they there, how large, how old.

Python reports to audit hooks what is opened and listed (:mod:`.observed`), but nobody of
``os.path.exists``. Where that matters, the functions that look are replaced by some that note first
what they look at. What a library looks at by itself, without Python, is not seen.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import Any, Callable

#: What ``os.path`` and ``pathlib`` ask, too.
_LOOKS = ("stat", "lstat", "access", "readlink")
_stat = os.stat
#: Which of these functions take what.
_SUPPORT = (
    os.supports_dir_fd,
    os.supports_fd,
    os.supports_follow_symlinks,
    os.supports_effective_ids,
)


class Looks:
    """Notes what is looked at, and what that was like when it was first looked at.

    Attributes
    ----------
    states
        By path, as :func:`state_at` has them.
    """

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what this process looks at meanwhile."""
        with contextlib.ExitStack() as stack:
            for name in _LOOKS:
                stack.enter_context(self._replaced(name))
            yield

    @contextlib.contextmanager
    def _replaced(self, name: str) -> Iterator[None]:
        original = getattr(os, name)
        noting = self._noting(original)
        supporting: list[Any] = [each for each in _SUPPORT if original in each]
        for each in supporting:
            each.add(noting)
        places: list[Any] = [os]
        with contextlib.suppress(AttributeError):  # Python 3.9 and 3.10 keep them here
            places.append(pathlib._NormalAccessor)  # type: ignore[attr-defined]
        before = [(place, place.__dict__[name]) for place in places if name in place.__dict__]
        for place, _ in before:
            setattr(place, name, noting if place is os else staticmethod(noting))
        try:
            yield
        finally:
            for place, function in before:
                setattr(place, name, function)

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def look(path: Any, *args: Any, **kwargs: Any) -> Any:
            # Looked at from a directory that is open: that was opened, and is noted.
            if not isinstance(path, int) and kwargs.get("dir_fd") is None:
                with contextlib.suppress(Exception):  # no path at all
                    self._note(os.path.abspath(os.fsdecode(path)))
            return function(path, *args, **kwargs)

        return look

    def _note(self, path: str) -> None:
        if path not in self.states:
            self.states[path] = state_at(path)


def state_at(path: str) -> Any:
    """Return what changes whenever a file does, or a directory is another one; None: neither."""
    try:
        status = _stat(path)
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return status.st_dev, status.st_ino
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times
