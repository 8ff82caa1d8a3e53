"""Every error that gpupool raises on purpose.

::

    GpupoolError
    ├── ConfigError          an option or an environment variable is malformed
    │   └── DeviceStringError    not a device string
    ├── ImpossibleRequest    no amount of waiting can satisfy a device request
    ├── UnknownTool          no tool answers to a rule's ``gpupool_tool``
    ├── UnknownParam         a tool has no param of that name
    ├── PoolEnded            the pool takes no work any more: it is closed, or has failed
    ├── ProtocolError        a worker answered what nobody asked, or what makes no sense
    └── WorkerStartError     a worker process could not be started

What a tool may raise for a user's bad input is
:class:`snakemake_executor_gpupool.tool_api.values.InputError`.
"""

#: The kind of an error for which a tool's code is to blame, and no item and no file.
CONTRACT = "contract"


class GpupoolError(Exception):
    """Base of all errors that gpupool raises on purpose."""


class ConfigError(GpupoolError):
    """An option or an environment variable is malformed."""


class DeviceStringError(ConfigError):
    """A string does not follow the device grammar."""


class ImpossibleRequest(GpupoolError):
    """No amount of waiting can satisfy a device request."""


class UnknownTool(GpupoolError):
    """No tool answers to the name that a rule gave in ``gpupool_tool``."""


class UnknownParam(GpupoolError, TypeError):
    """A tool was given a param by name that it does not have."""


class PoolEnded(GpupoolError):
    """The pool takes no work any more: it was closed, has failed, or is another process's."""


class ProtocolError(GpupoolError):
    """A worker answered what nobody asked it, or what makes no sense."""


class WorkerStartError(GpupoolError):
    """A worker process could not be started."""
