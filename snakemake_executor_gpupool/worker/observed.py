"""What a tool's code reads while it is imported, loads a model and runs: files, lists, programs.

Python reports what is opened to audit hooks. Of what a library opens without Python, only what is
still open or mapped when a batch ends is seen. Nothing is observed in processes that a tool starts.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import source_from_cache
from typing import Any, NamedTuple

from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR
from snakemake_executor_gpupool.worker.code_digest import (
    is_below_installed,
    is_of_python,
    version_of,
)
from snakemake_executor_gpupool.worker.generated import is_kernel
from snakemake_executor_gpupool.worker.imports import Imports
from snakemake_executor_gpupool.worker.looks import Looks

#: Files below these belong to the machine, not to a tool.
_OF_MACHINE = (
    *("/proc/", "/sys/", "/dev/", "/run/", "/etc/"),
    *(f"{top}/lib{bits}/" for top in ("", "/usr") for bits in ("", "32", "64", "x32", "exec")),
)
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - nothing is put there
#: But for these: jobs may leave files there, and disks that a user has plugged in appear there.
_OF_USERS = (_SHARED_MEMORY, "/run/media/")
_SHELLS = ("sh", "bash", "dash")
#: Modules of Python that list directories to find others.
_LISTS_FOR_IMPORTS = (
    "importlib/metadata/__init__.py",
    "importlib_metadata/__init__.py",  # the same for other versions of Python
    "importlib/metadata.py",
    "pkgutil.py",
)
_HERE = ("127.0.0.1", "::1", "localhost")
#: A line of a process's map: whether it is executable, and the file.
_MAPPED = re.compile(rb"^\S+ ..(.)\S \S+ \S+ \d+ +(/.*)$", re.MULTILINE)
_OWN_CODE = PACKAGE_DIR + os.sep
_OWN_TOOLS = os.path.join(PACKAGE_DIR, "tools") + os.sep
#: Kinds of what is read: a file's content, the names in a directory.
FILE, LISTING = "file", "list"


class Read(NamedTuple):
    """Something that was read."""

    kind: str
    path: str
    #: Whether the code named it by an absolute path.
    is_absolute: bool


class Observer:
    """Collects what this process reads while it is watched; there is one in a process."""

    def __init__(self) -> None:
        #: With the version of each file, or a digest of each list, when it was first read.
        self.reads: dict[Read, Any] = {}
        #: By kind: what cannot be covered.
        self.remarks: dict[str, str] = {}
        #: Names of the modules that were loaded before the tool's code.
        self.modules_before: frozenset[str] = frozenset()
        #: This process was started in a directory that is no job's.
        self.is_anywhere = False
        self.imports = Imports()
        #: Names of programs that it has started, and whether it has connected to anything.
        self.programs: set[str] = set()
        self.has_connected = False
        #: Notes what is looked at without being opened; None: nobody asks for it.
        self.looks: Looks | None = None
        #: Files that were opened to be written, or replaced.
        self.changed: set[str] = set()
        #: Files that were opened as databases, which may be written unseen.
        self.databases: set[str] = set()
        #: Directories that Python has listed to find modules and packages.
        self.listed_for_imports: set[str] = set()
        self._is_watching = False
        self._is_hooked = False
        self._own: set[str] = set()
        self._passed_over: tuple[str, ...] = ()
        self._known: set[Any] = set()
        self._count_of_modules = 0

    def pass_over(self, directories: list[str]) -> None:
        """Ignore directories that hold no data of tools."""
        self._passed_over = tuple(os.path.realpath(each) + os.sep for each in directories)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Observe this process meanwhile."""
        if not self._is_hooked:
            self._is_hooked = True
            self.modules_before = frozenset(sys.modules)
            self.imports.begin()
            sys.addaudithook(self._hook)
        before, self._is_watching = self._is_watching, True
        self._known.clear()
        looks = contextlib.nullcontext() if self.looks is None else self.looks.watching()
        try:
            with looks:
                yield
        finally:
            self._is_watching = before

    # -- as it happens; nothing in here may raise an event that is listened to ------------
    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_watching or event not in _EVENTS:
            return
        try:
            _EVENTS[event](self, arguments)
        except Exception as error:  # else it would be raised in the tool's code
            self.remarks.setdefault("observing", f"reads what cannot be observed ({error!r})")

    def _on_open(self, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        if isinstance(path, int) or path is None or not isinstance(flags, int):
            return
        if (path, flags) in self._known:
            return
        full = os.path.abspath(os.fsdecode(path))
        if os.path.isabs(path):
            self._known.add((path, flags))
        is_new = flags & os.O_CREAT and not os.path.lexists(full)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.changed.add(full)
        if is_new or flags & os.O_TRUNC or flags & os.O_ACCMODE == os.O_WRONLY:
            self._own.add(full)
        else:
            self.note(FILE, path)

    def _on_new(self, arguments: tuple[Any, ...]) -> None:
        full = os.path.abspath(os.fsdecode(arguments[0]))
        if not os.path.lexists(full):
            self._own.add(full)

    def _on_renamed(self, arguments: tuple[Any, ...]) -> None:
        source, target = (os.path.abspath(os.fsdecode(each)) for each in arguments[:2])
        if source in self._own:
            self._own.add(target)
            self.changed.add(target)

    def _on_list(self, arguments: tuple[Any, ...]) -> None:
        path = "." if arguments[0] is None else arguments[0]
        caller = sys._getframe(2).f_code.co_filename
        if isinstance(path, int) or caller.startswith("<frozen importlib") or _is_own(caller):
            return
        if caller.endswith(_LISTS_FOR_IMPORTS):
            self.listed_for_imports.add(os.path.abspath(os.fsdecode(path)))
        self.note(LISTING, path)

    def _on_database(self, arguments: tuple[Any, ...]) -> None:
        path = os.fsdecode(arguments[0])
        if path and not path.startswith((":", "file:")):
            self.databases.add(os.path.abspath(path))
            self.note(FILE, path)

    def _on_library(self, arguments: tuple[Any, ...]) -> None:
        if isinstance(arguments[0], str) and os.sep in arguments[0]:
            self.note(FILE, arguments[0])

    def _on_import(self, arguments: tuple[Any, ...]) -> None:
        self.imports.note(arguments[0])
        if arguments[1]:  # a compiled module
            self.note(FILE, arguments[1])

    def _on_program(self, arguments: tuple[Any, ...]) -> None:
        words = arguments[1] if len(arguments) > 1 else ()
        first = words[0] if isinstance(words, (list, tuple)) and words else words
        name = os.fsdecode(arguments[0] or first)
        path = shutil.which(name)
        self.programs.add(os.path.basename(name))
        self.remarks.setdefault("programs", f"starts programs ({os.path.basename(name)})")
        if path is not None and os.path.basename(path) not in _SHELLS:
            self.note(FILE, path)

    def _on_shell(self, arguments: tuple[Any, ...]) -> None:
        self.programs.add(_SHELLS[0])
        self.remarks.setdefault("programs", f"starts programs ({str(arguments[0])[:80]})")

    def _on_fork(self, _: tuple[Any, ...]) -> None:
        self.remarks.setdefault("processes", "starts processes")

    def _on_connection(self, arguments: tuple[Any, ...]) -> None:
        address = arguments[1]
        self.has_connected = True
        if isinstance(address, tuple) and address[0] not in _HERE:
            self.remarks.setdefault("network", f"connects to {address[0]}")

    def note(self, kind: str, path: Any) -> None:
        """Record that something was read."""
        raw = os.fsdecode(path)
        full = os.path.abspath(raw)
        if "__pycache__" in full:
            with contextlib.suppress(ValueError):
                full = source_from_cache(full)
        read = Read(kind, full, os.path.isabs(raw))
        if read not in self.reads and not self.is_ignored(full):
            self.reads[read] = None  # listing it raises the same event
            self.reads[read] = state_of(read)

    def is_ignored(self, path: str) -> bool:
        """Return whether a path is the machine's, or of installed code, or made by what runs here.

        Of these nothing is noted.
        """
        whole = path + os.sep
        return (
            (whole.startswith(_OF_MACHINE) and not whole.startswith(_OF_USERS))
            or is_below_installed(whole)
            or is_of_python(path)
            or is_kernel(whole)
            or self._is_own(path)
            or os.path.realpath(path).startswith(self._passed_over)
        )

    def _is_own(self, path: str) -> bool:
        """Tell whether what runs here has made a file, or a directory that it is in."""
        while len(path) > 1:
            if path in self._own:
                return True
            path = os.path.dirname(path)
        return False

    def has_acted(self) -> bool:
        """Tell whether what was watched did more than to read: it wrote, started, connected."""
        written = self._own | self.changed | self.databases
        return bool(self.remarks) or any(not _is_cache(path) for path in written)

    # -- what was not seen to happen ---------------------------------------------------
    def look_around(self) -> None:
        """Record files that are open or mapped now, whatever has opened them, and modules."""
        for path in {*_open_files(), *_mapped_files()}:
            # Libraries exchange what they have computed in memory.
            if os.path.isfile(path) and not path.startswith(_SHARED_MEMORY):
                self.note(FILE, path)
        if len(sys.modules) != self._count_of_modules:
            self._count_of_modules = len(sys.modules)
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__dict__", {}).get("__file__")
                if isinstance(file, str) and name not in ("__main__", "__mp_main__"):
                    self.note(FILE, file)  # some are loaded before anything is watched


def _is_own(caller: str) -> bool:
    """Return whether code is gpupool's own, which lists directories for each job anew."""
    return caller.startswith(_OWN_CODE) and not caller.startswith(_OWN_TOOLS)


def _is_cache(path: str) -> bool:
    """Tell whether it is compiled code that Python keeps, or nothing."""
    return path == os.devnull or os.path.basename(os.path.dirname(path)) == "__pycache__"


def _open_files() -> Iterator[str]:
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                is_written = fcntl.fcntl(int(number), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
                path = os.readlink(f"/proc/self/fd/{number}")
                if path.startswith(os.sep) and not is_written:
                    yield path


def _mapped_files() -> set[str]:
    """Return the files that are mapped into memory, without libraries."""
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = _MAPPED.findall(file.read())
    except OSError:  # another system
        return set()
    libraries = {name for mode, name in lines if mode == b"x"}
    return {os.fsdecode(name) for name in {name for _, name in lines} - libraries}


def state_of(read: Read) -> Any:
    """Return what changes whenever something that was read does; None: it does not exist."""
    return version_of(read.path) if read.kind == FILE else names_in(read.path)


def names_in(path: str) -> str:
    """Return a digest of the names in a directory; empty: it does not exist."""
    try:
        names = "\0".join(sorted(os.listdir(path)))
    except OSError:
        return ""
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


_EVENTS: dict[str, Any] = {
    "open": Observer._on_open,
    "os.mkdir": Observer._on_new,
    "os.rename": Observer._on_renamed,
    "os.listdir": Observer._on_list,
    "os.scandir": Observer._on_list,
    "sqlite3.connect": Observer._on_database,
    "ctypes.dlopen": Observer._on_library,
    "import": Observer._on_import,
    "subprocess.Popen": Observer._on_program,
    "os.posix_spawn": Observer._on_program,
    "os.exec": Observer._on_program,
    "os.system": Observer._on_shell,
    "os.fork": Observer._on_fork,
    "socket.connect": Observer._on_connection,
}

#: The one of this process.
OBSERVER = Observer()
