"""Whether rivals computed the same: every file, every sequence, every number."""

from __future__ import annotations

from pathlib import Path

TOLERANCE = 1e-4


class Disagreement(Exception):
    """Two rivals wrote different things."""


def largest_difference(expected: Path, got: Path) -> float:
    """Return the largest absolute difference between the ``.npz`` files of two directories.

    Raises
    ------
    Disagreement
        A file is missing or too many, or its names, their order or a shape differs.
    """
    names = _file_names(expected)
    if names != _file_names(got):
        raise Disagreement(f"{got} and {expected} do not hold the same files")
    if not names:
        raise Disagreement(f"{expected} holds no .npz file")
    return max(_difference(expected / name, got / name) for name in names)


def _file_names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.npz"))


def _difference(expected: Path, got: Path) -> float:
    import numpy as np

    with np.load(expected) as ours, np.load(got) as theirs:
        if ours.files != theirs.files:
            raise Disagreement(f"{got} names {theirs.files}; {expected} names {ours.files}")
        if any(ours[name].shape != theirs[name].shape for name in ours.files):
            raise Disagreement(f"shapes in {got} differ from those in {expected}")
        return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours.files)
