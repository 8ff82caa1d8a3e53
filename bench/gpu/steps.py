"""What there is to do on a GPU, the most important first. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One program and how long it may take.

    Attributes
    ----------
    limit_s
        Seconds after which it is killed; its figures so far are kept.
    arguments, small
        Of the command; ``small`` replaces them where there is no GPU.
    """

    name: str
    limit_s: float
    arguments: tuple[str, ...]
    small: tuple[str, ...]

    def command(self, rehearse: bool) -> tuple[str, ...]:
        """Return what follows ``python`` on the command line."""
        return self.small if rehearse else self.arguments


def _script(name: str, limit_s: float, script: str, full: str, small: str) -> Step:
    path = f"bench/{script}"
    return Step(name, limit_s, (path, *full.split()), (path, *small.split()))


_TESTS = ("-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", "--durations=5")
_SMALL = "--device cpu --shape 8M --files 12"

STEPS = (
    _script("facts", 40, "gpu/facts.py", "", ""),
    Step("tests", 150, _TESTS, _TESTS),
    _script("esm2-650M-bf16", 120, "gpu/esm2.py", "--shape 650M --precision bf16", _SMALL),
    _script("busy", 60, "gpu/busy.py", "--shape 650M --precision bf16", _SMALL),
    _script(
        "pipeline-120", 110, "gpu/pipeline.py", "--shape 650M --files 120", "--shape 8M --files 6"
    ),
    _script("offload", 60, "offload.py", "--shape 650M --turns 4", "--shape 8M --turns 2"),
    _script("esm2-650M-fp32", 120, "gpu/esm2.py", "--shape 650M --precision fp32", _SMALL),
    _script(
        "chains",
        60,
        "merging.py",
        "--device cuda --requests 500 --brief",
        "--requests 6 --brief",
    ),
    _script(
        "reproducible",
        120,
        "reproducible.py",
        "--device cuda --shape 650M --precision bf16 --files 120 --repeats 2",
        "--files 6 --repeats 1",
    ),
    _script("esm2-3B-bf16", 150, "gpu/esm2.py", "--shape 3B --precision bf16 --brief", _SMALL),
    _script(
        "pipeline-2000",
        150,
        "gpu/pipeline.py",
        "--shape 650M --files 2000",
        "--shape 8M --files 8",
    ),
)
