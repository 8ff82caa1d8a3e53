"""Which workflow a command line of Snakemake's will run, guessed before Snakemake has read it.

Half of the time until Snakemake reads a workflow goes into its own imports, and the executor's
plugin is imported among the first. What is guessed wrongly is found out when the settings are made
(:mod:`.early`). Whatever the words do not say plainly is not guessed. Pure, but for the profile's
text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Options under which Snakemake does something else than running a workflow here.
RUNS_NOTHING = (
    *("dryrun", "touch", "lint", "unlock", "summary", "detailed_summary", "archive"),
    *("list_target_rules", "list_rules", "list_changes", "list_input_changes"),
    *("list_params_changes", "list_untracked", "list_conda_envs", "print_compilation"),
    *("dag", "rulegraph", "filegraph", "d3dag", "generate_unit_tests", "cleanup_metadata"),
    *("conda_cleanup_envs", "conda_create_envs_only", "cleanup_shadow", "deploy_sources"),
    *("container_cleanup_images", "delete_all_output", "delete_temp_output"),
)
#: Others, and names of options above as a command line has them, by which there is no guess.
_OTHERS = (
    "dry_run",
    "list",
    "help",
    "version",
    "report",
    "containerize",
    "mode",
    "lt",
    "lc",
    "lp",
    "lu",
    "cm",
)
#: Options of ours that may mean that nothing is started early.
_OURS = ("gpupool_early_start", "gpupool_cluster", "gpupool_server")
_NOT_GUESSED = (*RUNS_NOTHING, *_OTHERS, *_OURS)
#: Short options that say so, and those that are followed by a value.
_SHORT_NOTHING, _SHORT_VALUED = "ntlSDhv", "csjdeCRUOPwT"
#: Lines of a profile: it names this executor; it says what the guess would have to know.
_NAMED = re.compile(r"^executor:\s*[\"']?gpupool[\"']?\s*(#.*)?$", re.MULTILINE)
_UNKNOWN = re.compile(
    r"^(snakefile|directory|dry-run|gpupool-(early|cluster|server).*):", re.MULTILINE
)
_SHORT = {"-s": "--snakefile", "-d": "--directory", "-e": "--executor"}


class Call(NamedTuple):
    """A call of Snakemake.

    Attributes
    ----------
    snakefile, directory
        As they were given; empty: they were not.
    """

    snakefile: str
    directory: str


def guessed_call(
    words: Sequence[str], variables: Mapping[str, str], text_of: Callable[[str], str]
) -> Call | None:
    """Return what a call under this executor runs; None: that is not plain.

    Parameters
    ----------
    words
        After the program's name.
    variables
        The environment.
    text_of
        Returns a file's text; empty: there is none.
    """
    given: dict[str, str] = {}
    for name, value in _options(words):
        plain = name[2:].replace("-", "_")
        if any(each.startswith(plain) for each in _NOT_GUESSED):
            return None
        given[name] = value
    profile = given.get("--profile", variables.get("SNAKEMAKE_PROFILE", ""))
    texts = [text_of(f"{place}/config.yaml") for place in _profiles(profile, given)]
    if any(map(_UNKNOWN.search, texts)):
        return None
    is_named = any(map(_NAMED.search, texts))
    if given.get("--executor", "gpupool" if is_named else "") != "gpupool":
        return None
    return Call(given.get("--snakefile", ""), given.get("--directory", ""))


def _profiles(profile: str, given: Mapping[str, str]) -> Iterator[str]:
    if profile:
        yield profile
    of_workflow = given.get("--workflow-profile")
    if of_workflow is None:
        yield from ("profiles/default", "workflow/profiles/default")
    elif of_workflow != "none":
        yield of_workflow


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield long names and values of options; a short one that says that nothing is run: --help."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            if len(name) > len("--"):
                yield name, value if has_value else following
        elif word.startswith("-"):
            for place, letter in enumerate(word[1:], start=1):
                if letter in _SHORT_NOTHING:
                    yield "--help", ""
                if letter in _SHORT_VALUED:
                    value = word[place + 1 :] or following
                    if f"-{letter}" in _SHORT:
                        yield _SHORT[f"-{letter}"], value
                    break


def text_of(path: str) -> str:
    """Return a file's text; empty: it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return Path(path).read_text()
    return ""
