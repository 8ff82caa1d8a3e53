"""Short objects as JSON, thousands a second.

``json`` makes an encoder anew for each text, which takes as long as a short text itself.

Standard library only, Python >= 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json import encoder as _encoder
from typing import Any


def json_decoder() -> Callable[[str], Any]:
    """Return what ``json.loads`` is of a text that neither starts nor ends with white space."""
    read = json.JSONDecoder().raw_decode

    def value_of(text: str) -> Any:
        value, end = read(text)
        if end != len(text):
            raise ValueError(f"{len(text) - end} characters behind the JSON")
        return value

    return value_of


def json_encoder(default: Callable[[Any], Any] | None = None) -> Callable[[Any], str]:
    """Return what ``json.JSONEncoder(default=default).encode`` is, made once.

    A value that contains itself ends in a RecursionError, not in a ValueError.
    """
    plain = json.JSONEncoder(default=default)
    make: Any = getattr(_encoder, "c_make_encoder", None)
    try:
        escape = _encoder.encode_basestring_ascii
        encode = make(None, plain.default, escape, None, ": ", ", ", False, False, True)
    except TypeError:  # another Python, which has none, or another one
        return plain.encode
    return lambda value: "".join(encode(value, 0))
