"""How names and values are written on the command line: one grammar for all commands.

::

    value    = "text" | 'text' | [value, ...] | {key: value, ...} | word
    word     = true | false | null | none, in any case
             | a number as JSON writes it: 6, -1, 0.5, 1e-3
             | anything else: text

A word inside a list or a mapping loses the spaces around it, and ends at a comma or at the
bracket; text with a comma, a bracket or a quote must be quoted. A word by itself is kept as it
was written. ``K=V W`` is the list of both. A list that the shell has split at its spaces,
``K=[a, b]``, is joined again: Snakemake writes ``{params.k}`` like that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from snakemake_executor_gpupool.errors import ConfigError

#: What a shell user may write for JSON's true, false and null.
WORDS = {"true": True, "false": False, "null": None, "none": None}
# Compiled once they are used: most command lines have neither lists nor quotes.
QUOTED = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'"
#: Words inside a list or mapping, and as a mapping's keys.
BARE = r"[^,\[\]{}()\"']+"
BARE_KEY = r"[^,:\[\]{}()\"']+"
SPACE = r"\s*"
CLOSING = {"[": "]", "{": "}"}
#: What names a value, before its ``=``.
NAME = re.compile(r"[^\W\d]\w*\Z")

Pair = tuple[str | None, Any]


class _Malformed(ValueError):
    """A text is not a list, mapping or quoted text."""


def parsed(value: str | list[str]) -> Any:
    """Return the value that a text, or the words after one ``K=``, stand for.

    Raises
    ------
    ConfigError
        A list or a mapping is not closed or otherwise malformed.

    Examples
    --------
    >>> parsed("6"), parsed("1e-3"), parsed("true"), parsed("mean"), parsed('"6"')
    (6, 0.001, True, 'mean', '6')
    >>> parsed("[6, 12]"), parsed("[a, b]"), parsed("[[a, b], 'c, d']"), parsed(["6", "12"])
    ([6, 12], ['a', 'b'], [['a', 'b'], 'c, d'], [6, 12])
    >>> parsed(["[a,", "b]"]), parsed("{low: 0.5, names: [x]}"), parsed("[A-Z]+")
    (['a', 'b'], {'low': 0.5, 'names': ['x']}, '[A-Z]+')
    """
    if isinstance(value, str):
        return _read(value)
    texts = _joined(value)
    if len(texts) == 1 < len(value):
        return _read(texts[0])
    return [_read(text) for text in texts]


def pairs(groups: Sequence[Sequence[str]]) -> list[Pair]:
    """Turn the words of a repeated option into (name or None, value or list) pairs.

    A name given again, or a bare word after a named one, makes its value a list:
    a path itself may hold ``=``, so only ``identifier=`` names.
    """
    positional: list[Pair] = []
    by_name: dict[str, list[str]] = {}
    for group in groups:
        name = None
        for word in group:
            head, equals, rest = word.partition("=")
            if equals and NAME.match(head):
                name = head
                by_name.setdefault(name, []).append(rest)
            elif name is not None:
                by_name[name].append(word)
            else:
                positional.append((None, word))
    return positional + [(k, v[0] if len(v) == 1 else v) for k, v in by_name.items()]


def named(option: str, groups: Sequence[Sequence[str]]) -> list[tuple[str, Any]]:
    """Return the pairs of an option whose every value must have a name."""
    named_pairs = []
    for key, value in pairs(groups):
        if key is None:
            raise ConfigError(f"{option} takes K=V; a name is missing before {value!r}")
        named_pairs.append((key, value))
    return named_pairs


def read_params(option: str, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return the params that an option gives by name, their values read.

    Raises
    ------
    ConfigError
        A name is missing, or a list is malformed.
    """
    params: dict[str, Any] = {}
    for key, value in named(option, groups):
        try:
            params[key] = parsed(value)
        except ConfigError as error:
            raise ConfigError(f"{option} {key}: {error}") from error
    return params


def _joined(words: Sequence[str]) -> list[str]:
    """Join lists and mappings that a shell has split at their spaces."""
    joined: list[str] = []
    start = 0
    while start < len(words):
        stop = start + 1
        if words[start][:1] in CLOSING:
            stops = range(stop, len(words) + 1)
            stop = next((n for n in stops if _is_whole(" ".join(words[start:n]))), stop)
        joined.append(" ".join(words[start:stop]))
        start = stop
    return joined


def _is_whole(text: str) -> bool:
    try:
        _Reader(text).whole()
    except _Malformed:
        return False
    return True


def _read(text: str) -> Any:
    stripped = text.strip()
    opening = stripped[:1]
    if opening not in {*CLOSING, '"', "'"} or not opening:
        return _word(stripped, text)
    try:
        return _Reader(stripped).whole()
    except _Malformed:
        pass
    # A pattern like [A-Z]+ or {sample} is text; what looks like a list to its end is a mistake.
    closing = CLOSING.get(opening)
    if closing and (closing not in stripped or (opening == "[" and stripped.endswith(closing))):
        raise ConfigError(
            f"{text!r} is not a list or mapping like [a, b] or {{key: a}}: is it closed? Text "
            "with a bracket or a quote in it needs quotes of its own: '\"[a\"'"
        )
    return text


def _word(text: str, otherwise: str) -> Any:
    """Return the constant or number that a word stands for; else ``otherwise``."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        number = json.loads(text, parse_constant=str)
    except ValueError:
        return otherwise
    return number if isinstance(number, (int, float)) else otherwise


class _Reader:
    """Parses one value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def whole(self) -> Any:
        """Return the value that the whole text stands for.

        Raises
        ------
        _Malformed
            The text is not one value.
        """
        value = self._value()
        self._skip()
        if self._place < len(self._text):
            raise _Malformed
        return value

    def _value(self) -> Any:
        self._skip()
        opening = self._text[self._place : self._place + 1]
        if opening == "[":
            return self._several("]", self._value)
        if opening == "{":
            return dict(self._several("}", self._pair))
        return self._scalar(BARE)

    def _pair(self) -> tuple[Any, Any]:
        self._skip()
        key = self._scalar(BARE_KEY)
        self._take(":")
        return key, self._value()

    def _several(self, closing: str, one: Callable[[], Any]) -> list[Any]:
        """Return the values between brackets; a comma may follow the last one."""
        self._place += 1
        values: list[Any] = []
        while not self._takes(closing):
            values.append(one())
            if not self._takes(","):
                self._take(closing)
                break
        return values

    def _scalar(self, bare: str) -> Any:
        quoted = re.compile(QUOTED, re.DOTALL).match(self._text, self._place)
        if quoted:
            self._place = quoted.end()
            return _unquoted(quoted.group())
        word = re.compile(bare).match(self._text, self._place)
        if word is None or not word.group().strip():
            raise _Malformed
        self._place = word.end()
        stripped = word.group().strip()
        return _word(stripped, stripped)

    def _take(self, mark: str) -> None:
        if not self._takes(mark):
            raise _Malformed

    def _takes(self, mark: str) -> bool:
        self._skip()
        is_there = self._text.startswith(mark, self._place)
        self._place += is_there
        return is_there

    def _skip(self) -> None:
        self._place = re.compile(SPACE).match(self._text, self._place).end()  # type: ignore[union-attr]


def _unquoted(text: str) -> str:
    """Return the content of a quoted text, with JSON's or else Python's escapes."""
    import ast

    for read in (json.loads, ast.literal_eval):
        try:
            return str(read(text))
        except (ValueError, SyntaxError):
            continue
    raise _Malformed
