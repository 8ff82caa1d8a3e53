"""Says of a tool which files its code is made of: asked by a server, before it starts workers.

``python worker/main.py code PACKAGE_DIR`` reads ``{spec, base_dir}`` as JSON from standard input
and prints one JSON object: ``watched`` (a path, how it is looked at, what it is like), ``words``
(texts in the code that may name files), ``version``, or ``error``.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import glob
import json
import os
import sys
import warnings
from typing import Any

from snakemake_executor_gpupool.tool_api.tool_spec import load_tool_class
from snakemake_executor_gpupool.wire.fingerprint import PACKAGE_DIR
from snakemake_executor_gpupool.worker.code_digest import (
    code_files,
    is_below_installed,
    is_of_python,
)
from snakemake_executor_gpupool.worker.output_capture import tell_error
from snakemake_executor_gpupool.worker.unchanged import (
    CONTENT,
    FILE,
    NAMES,
    PACKAGE,
    PLACE,
    is_local,
    local_files,
    signature,
)

#: Longer texts, and more of them, are no names of files.
LONGEST_WORD = 255
MAX_WORDS = 20_000
#: Stands among the words for the working directory itself.
HERE = "."
#: Names by which code asks for it, and those that mean it where they are given no other place.
_OF_HERE = ("getcwd", "getcwdb", "cwd", "glob", "iglob", "rglob")
#: Methods of texts whose arguments, and whose own text, are no paths: a dot divides there.
_OF_TEXTS = ("split", "rsplit", "partition", "rpartition", "join", "replace", "count", "strip")
_OF_A_PLACE = ("abspath", "realpath", "listdir", "scandir", "walk", "Path", "PosixPath", "fwalk")


def report() -> None:
    """Answer the one question of this process."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the tool prints is no answer
    question = json.load(sys.stdin)
    try:
        tool_class = load_tool_class(question["spec"], question["base_dir"])
        answer = describe(tool_class, question["prefix"])
    except BaseException as error:  # a tool's module may even call sys.exit
        answer = {"error": tell_error(error)}
    with answers:
        json.dump(answer, answers)


def describe(tool_class: Any, prefix: str = "") -> dict[str, Any]:
    """Return what a tool's code is made of, and what the files are like before they are read.

    ``prefix`` is the directory of the software environment, if the tool has one of its own.
    """
    # A change between the two looks is found: the second one reads what the first had not seen.
    before = {path: signature(FILE, path) for path in code_files(tool_class)}
    files = {*code_files(tool_class), *local_files()}
    local = sorted(path for path in files if is_local(path))
    watched = {path: (FILE, before.get(path, signature(FILE, path))) for path in local}
    for path in _places(local):
        kind = PLACE if is_below_installed(f"{path}{os.sep}") else NAMES
        watched[path] = (kind, signature(kind, path))
        if kind == PLACE:
            for name in sorted(os.listdir(path)):
                if name.endswith((".pth", "_finder.py")):
                    inner = os.path.join(path, name)
                    watched[inner] = (CONTENT, signature(CONTENT, inner))
    words = _words(local)
    for path in _named_files(words, local):
        watched[path] = (FILE, signature(FILE, path))
    for path in _of_software(prefix):
        watched[path] = (CONTENT, signature(CONTENT, path))
    watched[PACKAGE_DIR] = (PACKAGE, signature(PACKAGE, PACKAGE_DIR))
    return {
        "watched": [[path, kind, sign] for path, (kind, sign) in watched.items()],
        "words": sorted(words)[:MAX_WORDS],
        "version": str(tool_class.version),
    }


def _places(files: list[str]) -> list[str]:
    """Return the directories that an import may look into."""
    places = [os.path.dirname(path) for path in files]
    places += [os.path.abspath(place) for place in sys.path]
    # The package itself counts as a whole.
    there = [p for p in dict.fromkeys(places) if os.path.isdir(p) and not p.startswith(PACKAGE_DIR)]
    return [place for place in there if not is_of_python(f"{place}{os.sep}")]


def _of_software(prefix: str) -> list[str]:
    """Return the files by which an environment that was made anew, or is entered anew, differs."""
    names = [os.path.realpath(sys.executable)]
    for place in filter(None, dict.fromkeys((sys.prefix, prefix))):
        inner = ("pyvenv.cfg", "conda-meta/history", "conda-meta/state")
        names += [os.path.join(place, name) for name in inner]
        for hooks in ("activate.d", "env_vars.d"):
            names += sorted(glob.glob(os.path.join(glob.escape(place), "etc/conda", hooks, "*")))
    return [name for name in names if os.path.isfile(name)]


def _words(files: list[str]) -> set[str]:
    """Return the texts in the code that a working directory may have a file of that name for."""
    words: set[str] = set()
    for path in files:
        try:
            with open(path, "rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError):
            continue
        dots = {id(node) for parent in ast.walk(tree) for node in _dividing(parent)}
        for node in ast.walk(tree):
            if _looks_around(node):
                words.add(HERE)
            if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
                word = os.fsdecode(node.value)
                if word == HERE and id(node) in dots:
                    continue
                if 0 < len(word) <= LONGEST_WORD and "\n" not in word and "\0" not in word:
                    words.add(word)
    return {word for word in words if word == HERE or word.strip("./ ")}


def _named_files(words: set[str], files: list[str]) -> list[str]:
    """Return files that the code names: beside itself, in full, or by a variable that it names."""
    places = sorted({os.path.dirname(path) for path in files})
    named = [os.path.join(place, word) for place in places for word in words]
    named += [os.environ[word] for word in words if "=" not in word and word in os.environ]
    found = [path for path in named if os.path.isabs(path) and os.path.isfile(path)]
    # What the kernel makes up differs each time.
    return sorted({path for path in found if not path.startswith(("/dev/", "/proc/", "/sys/"))})


def _dividing(node: ast.AST) -> list[ast.expr]:
    """Return texts below a node that are no paths by themselves: of a formatted one, of a split."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return [node.func.value, *node.args] if node.func.attr in _OF_TEXTS else []
    return []


def _looks_around(node: ast.AST) -> bool:
    """Return whether code asks for the working directory, or for what is there."""
    if isinstance(node, (ast.Attribute, ast.Name, ast.alias)):
        return _name_of(node) in _OF_HERE
    if not isinstance(node, ast.Call) or _name_of(node.func) not in _OF_A_PLACE:
        return False
    first = node.args[0] if node.args else None
    return first is None or (isinstance(first, ast.Constant) and first.value in ("", ".", "./"))


def _name_of(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", getattr(node, "name", ""))))
