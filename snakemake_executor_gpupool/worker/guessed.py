"""A job before it is ready: what is not known of it yet cannot be read.

An empty value would be taken for the real one. A tool that reads an unknown value ends the chain,
and its job is served when it is ready. A read inside ``try`` is noticed too.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

from typing import Any

from snakemake_executor_gpupool.tool_api.values import Job

#: What is known of a job only once it is ready: resources may be functions of input files.
UNKNOWN = ("resources",)
#: Ways to read all that an object has.
_WHOLE = ("__dict__", "__getstate__")


class NotKnownYet(Exception):
    """A tool has read a value of a job that is not known yet."""


class GuessedJob(Job):
    """A job without what is not known of it beforehand.

    Parameters
    ----------
    job
        What is known of it.

    Attributes
    ----------
    asked
        Names of unknown values that a tool has read; shared with all copies.
    """

    asked: list[str]

    def __init__(self, job: Job, asked: list[str] | None = None) -> None:
        known = {name: value for name, value in vars(job).items() if name not in UNKNOWN}
        _own(self).update(known, asked=[] if asked is None else asked)

    def __getattribute__(self, name: str) -> Any:
        if name in UNKNOWN or name in _WHOLE:
            _refuse(self, name)
        return object.__getattribute__(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        _refuse(self, "all of it")

    def __deepcopy__(self, memo: Any) -> Any:
        _refuse(self, "all of it")

    def __copy__(self) -> Any:
        _refuse(self, "all of it")

    def __dir__(self) -> list[str]:
        return [name for name in dir(type(self)) if name != "asked"] + sorted(vars(Job()))

    def replace(self, **changes: Any) -> Job:
        """Return a copy with some attributes changed; the same values stay unknown."""
        for name in changes:
            if name in UNKNOWN:
                _refuse(self, name)
        plain = Job()
        own = {name: value for name, value in _own(self).items() if name != "asked"}
        plain.__dict__.update(own)
        return GuessedJob(plain.replace(**changes), self.asked)


def _own(job: GuessedJob) -> dict[str, Any]:
    own: dict[str, Any] = object.__getattribute__(job, "__dict__")
    return own


def _refuse(job: GuessedJob, what: str) -> None:
    _own(job)["asked"].append(what)
    raise NotKnownYet(f"{what} of {job} is not known before the job is ready")
