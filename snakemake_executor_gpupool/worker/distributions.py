"""Names and versions of installed distributions, found without importing anything.

``importlib.metadata`` answers the same, by reading the files of every distribution: too slow
for each process of a tool. Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

_SUFFIXES = (".dist-info", ".egg-info")
_REQUIRED = re.compile(r"Requires-Dist:\s*([A-Za-z0-9][A-Za-z0-9._-]*)([^\n]*)")


class _Distribution(NamedTuple):
    name: str
    version: str
    path: str

    @property
    def ident(self) -> str:
        return f"{self.name}=={self.version}"


def describe_distributions(packages: Iterable[str]) -> list[str]:
    """Return which distributions packages belong to, with all that those require.

    Parameters
    ----------
    packages
        Top names that are imported.

    Returns
    -------
    list of str
        ``name==version``, with a digest of the list of its files where a package is imported
        itself: it may be installed anew under the same version. Where a package's distribution
        is not found, everything that is installed.
    """
    there = _installed()
    idents: dict[str, str] = {}
    waiting: list[str] = []
    for package in sorted(packages):
        distribution = _of_package(package)
        if distribution is None:
            return sorted(each.ident for each in there.values())
        idents[distribution.name] = f"{distribution.ident} {_digest_of_files(distribution)}"
        waiting += _required(distribution)
    while waiting:
        distribution = there.get(waiting.pop())
        if distribution is not None and distribution.name not in idents:
            idents[distribution.name] = distribution.ident
            waiting += _required(distribution)
    return sorted(idents.values())


def distribution_of(package: str) -> str:
    """Return a package's distribution as ``name==version``; empty: it is not found."""
    distribution = _of_package(package)
    return "" if distribution is None else distribution.ident


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.lru_cache(maxsize=1)
def _installed() -> dict[str, _Distribution]:
    by_name: dict[str, _Distribution] = {}
    for place in sys.path:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(place or ".")
        for entry in sorted(names):
            stem, suffix = os.path.splitext(entry)
            if suffix in _SUFFIXES:
                name, _, version = stem.partition("-")
                each = _Distribution(_normal(name), version, os.path.join(place, entry))
                by_name.setdefault(each.name, each)
    return by_name


@functools.lru_cache(maxsize=256)
def _of_package(package: str) -> _Distribution | None:
    """Return the distribution that holds a package; None if it is not found."""
    there = _installed()
    if not package:
        return None
    same = there.get(_normal(package)) if "." not in package else None
    if same is not None:
        return same
    place = re.escape(package.replace(".", "/"))
    for file, pattern in (
        ("top_level.txt", rf"^{place}\s*$"),
        ("RECORD", rf"^{place}(/|\.[\w.-]*(py|so|pyd),)"),
    ):
        sought = re.compile(pattern, re.MULTILINE)
        for each in there.values():
            if sought.search(_text(each, file)):
                return each
    return None


def _required(distribution: _Distribution) -> list[str]:
    """Return what a distribution requires whatever its extras."""
    text = _text(distribution, "METADATA") or _text(distribution, "PKG-INFO")
    head = text.partition("\n\n")[0]
    pairs = _REQUIRED.findall(head)
    return [_normal(name) for name, condition in pairs if "extra" not in condition]


def _digest_of_files(distribution: _Distribution) -> str:
    return hashlib.sha256(_text(distribution, "RECORD").encode()).hexdigest()[:16]


def _text(distribution: _Distribution, name: str) -> str:
    try:
        with open(os.path.join(distribution.path, name), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeError):
        return ""  # not all kinds of distributions have all of them
