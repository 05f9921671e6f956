"""Files that are almost right: what hypothesis makes of a text of JSON, and JSON of any kind."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

# Half of a surrogate pair, NUL, and what a terminal obeys are part of any text; numbers have no end.
_TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["\0", "..", "../../x", "/etc/passwd", "\x1b[2J", "\ud800", "x" * 300, "", "a\nb"]
)
_NUMBER = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**30, 1e400])
PLAIN = st.none() | st.booleans() | _NUMBER | _TEXT


def json_of(plain: st.SearchStrategy[Any], keys: st.SearchStrategy[str] = _TEXT) -> st.SearchStrategy[Any]:
    """JSON whose innermost values are `plain`, and its keys `keys`."""
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=10
    )


JSON = json_of(PLAIN)


def _key_of(value: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(list(value)) if isinstance(value, dict) else st.integers(0, len(value) - 1)


@st.composite
def altered_json(draw: st.DrawFn, text: str) -> str:
    """The text with one value replaced, lost, doubled or renamed; its seal, if it has one, is left out."""
    value = json.loads(text)
    if isinstance(value, dict):
        value.pop("seal", None)
    inner, last = value, draw(_key_of(value))
    while isinstance(inner[last], dict | list) and inner[last] and draw(st.booleans()):
        inner, last = inner[last], draw(_key_of(inner[last]))
    how = draw(st.sampled_from(["replace", "replace", "lose", "rename"]))
    old = inner.pop(last)
    if how == "replace":
        new = draw(JSON)
        inner.insert(last, new) if isinstance(inner, list) else inner.update({last: new})
    elif how == "rename" and isinstance(inner, dict):
        inner[draw(_TEXT)] = old
    return json.dumps(value)


@st.composite
def altered_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The file cut, with bytes of it changed, or with more in it."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 64)) | st.just(len(data)))
    return data[:start] + draw(st.binary(max_size=16)) + data[end:]
