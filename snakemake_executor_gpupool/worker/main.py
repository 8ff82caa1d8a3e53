"""Entry of a worker process: ``python worker/main.py CHANNEL_FD PACKAGE_DIR``.

In a container the channel is 0, its standard input: no other descriptor is sure to get there.

With ``code`` in the place of a channel, or in GPUPOOL_ASKED where that is 0, it says what a tool's
code is made of, and ends. With a question in GPUPOOL_QUESTION, a file, it does one job again in a
container, and ends.

It may run under the Python of a rule's own environment, where gpupool is not
installed: the package is made importable from its directory, but nothing else of
the coordinator's environment. Standard library only until the tool's own code runs.
"""

import faulthandler
import importlib.util
import os
import signal
import stat
import sys

PACKAGE = "snakemake_executor_gpupool"
QUESTION_VARIABLE = "GPUPOOL_QUESTION"
#: Asks a process in a container for something else than to serve; and what it is asked for.
ASKED_VARIABLE, ASKED_FOR_CODE = "GPUPOOL_ASKED", "code"


def main() -> None:
    """Serve the coordinator until it closes the channel."""
    refuse_old_python()
    channel, package_dir = sys.argv[1:3]
    asked = os.environ.pop(ASKED_VARIABLE, "")
    channel = asked if channel == "0" and asked else channel
    # Ctrl-C reaches the whole foreground group; the coordinator decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only the thread that crashed: little of a log is quoted, and the signal must be in it.
    faulthandler.enable(all_threads=False)
    # Output goes to a log: a character that cannot be encoded is no reason to fail.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # A script's own directory must not shadow the tool's imports.
    sys.path = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    make_importable(package_dir)
    from snakemake_executor_gpupool.worker.end_signals import die_with_parent

    # All others of a namespace of processes end with its first one in any case. In a container that
    # one has threads, and a thread that ends counts as the parent's end.
    if os.getppid() != 1:
        die_with_parent()
    if channel == ASKED_FOR_CODE:
        from snakemake_executor_gpupool.worker.code_report import report

        report()
    elif channel == "0" and QUESTION_VARIABLE in os.environ:
        from snakemake_executor_gpupool.worker.recompute import main as recompute

        recompute(os.environ.pop(QUESTION_VARIABLE))
    else:
        from snakemake_executor_gpupool.worker.serve import serve

        serve(taken_from_stdin() if channel == "0" else int(channel))
    # The coordinator closed the channel: nothing is left to do, and a model library's own
    # teardown can take seconds that the next holder of the device would wait for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def taken_from_stdin() -> int:
    """Return the channel that standard input is; what the tool starts reads from nothing there."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        sys.exit(
            "gpupool: the standard input of the container is not the worker's channel: does a "
            "script around apptainer (singularity) change it? It must be passed on"
        )
    channel, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return channel


def refuse_old_python() -> None:
    """Exit with a clear message where the package could not even be imported."""
    if sys.version_info < (3, 9):  # noqa: UP036 - a rule's environment may have any
        has = "{}.{}".format(*sys.version_info)
        sys.exit(f"gpupool: a worker needs Python 3.9 or newer; {sys.prefix} has {has}")


def make_importable(package_dir: str) -> None:
    """Import the package from its directory, whatever this environment has installed."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE,
        os.path.join(package_dir, "__init__.py"),
        submodule_search_locations=[package_dir],
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    # A process that a tool has started afresh: the package may be found from here alone.
    make_importable(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
