"""Every error that passes from one room of the package to another, as one tree.

::

    GpupoolError             gpupool cannot do what it was asked to do
    ├── ConfigError          an option, an argument or an environment variable is malformed
    │   └── DeviceStringError    not a device string
    ├── UnknownTool          no tool has the name that was given
    ├── UnknownParam         a tool has no param of that name; also a TypeError
    ├── ImpossibleRequest    no amount of waiting can satisfy a device request
    ├── DeviceLost           a GPU has failed; nothing can run on it
    ├── JobFailed            a job, or an item of a call, failed in a worker
    ├── PoolEnded            the pool takes no more work: it is closed, or has failed
    ├── CodeChanged          a tool's code is not the one that its process was to start from
    │   └── WeightsChanged       nor its weights those that its jobs were read with
    ├── FoundHere            a tool looks where it is started for what its job's directory has
    ├── UnlistedCode         a tool has imported code that nobody could look after
    ├── RecordingError       a recorded run cannot be read, or is damaged
    ├── Uncontainable        a container, or the image of one, cannot be used
    ├── WorkerStartError     a worker process could not be started
    ├── ProtocolError        a worker sent what was not asked for, or what makes no sense
    │   └── FrameError           the bytes on a channel are not a frame
    ├── StoreUnusable        results cannot be kept; the run goes on without
    └── BadEntry             a kept result is damaged, or not to be trusted
    InputError               a user's input or params are wrong; also a ValueError
    ├── ContractError        a tool's code breaks the rules for tools; also a TypeError
    └── UndeclaredParam      a tool reads a param that it has not declared

``InputError`` has a root of its own because tools raise it: whoever catches ``GpupoolError`` gets
what gpupool could not do, and not what is wrong with the data.

An error that only one room sees is defined beside the code that raises it.

Standard library only, Python >= 3.9: worker processes import this module.
"""

from __future__ import annotations

#: The kind of an error for which a tool's code is to blame, and no item and no file.
CONTRACT = "contract"


class GpupoolError(Exception):
    """Base of all errors that gpupool itself raises; the message is meant for the user."""


class ConfigError(GpupoolError):
    """An option, an argument or an environment variable is malformed."""


class DeviceStringError(ConfigError):
    """A string does not follow the device grammar."""


class UnknownTool(GpupoolError):
    """No tool has the name that a rule or a call gave."""


class UnknownParam(GpupoolError, TypeError):
    """A call gave a tool a param that the tool does not have."""


class ImpossibleRequest(GpupoolError):
    """No amount of waiting can satisfy a device request."""


class DeviceLost(GpupoolError):
    """A GPU fell off the bus or needs a reset; nothing can run on it."""


class JobFailed(GpupoolError):
    """A job, or an item of a call, failed in a worker of a :class:`ToolPool`.

    Attributes
    ----------
    message : str
        What went wrong, as the tool or the pool says it; the same as ``str(error)``.
    tool : str
        The tool, as the caller named it.
    """

    def __init__(self, message: str, tool: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.tool = tool


class PoolEnded(GpupoolError):
    """The pool takes no more work: it is closed, has failed, or belongs to another process."""


class CodeChanged(GpupoolError):
    """A tool's code, software, weights or data are not those that its process was to start from."""


class WeightsChanged(CodeChanged):
    """A tool's weights are not those that its jobs were read with."""


class FoundHere(GpupoolError):
    """A tool looks for something where it was started, and its job's directory has that."""


class UnlistedCode(GpupoolError):
    """A tool has imported code that nobody could know of beforehand, and so not look after."""


class RecordingError(GpupoolError):
    """A recorded run cannot be read, is damaged, or is of another format."""


class Uncontainable(GpupoolError):
    """A worker cannot be started in a rule's container; the message says why."""


class WorkerStartError(GpupoolError):
    """A worker process could not be started."""


class ProtocolError(GpupoolError):
    """A worker sent what was not asked for, or what makes no sense."""


class FrameError(ProtocolError):
    """The bytes on a channel are not a frame of this protocol."""


class StoreUnusable(GpupoolError):
    """Results cannot be kept in the directory that was given; the run goes on without."""


class BadEntry(GpupoolError):
    """What lies in an entry's place in the store is not the result that was asked for.

    Attributes
    ----------
    kind : str
        :data:`~snakemake_executor_gpupool.wire.kept.DAMAGED` or ``UNSAFE``.
    """

    def __init__(self, why: str, kind: str = "damaged") -> None:
        super().__init__(why)
        self.kind = kind


class InputError(ValueError):
    """A user's input or params are wrong; the message is shown as it is, without a traceback.

    Raise it from :meth:`Tool.read`, :meth:`Tool.load`, :meth:`Tool.run` or :meth:`Tool.write`
    with a text that names the file, what was expected and what to do.
    """


class ContractError(InputError, TypeError):
    """A tool's code does not do what every tool must do: no item and no file is to blame.

    It fails all jobs of the tool at once; nobody searches for a guilty item.
    """


class UndeclaredParam(InputError):
    """A tool has read a param that it has not declared to tell models, or items, apart."""
