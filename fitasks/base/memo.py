"""Files of JSON that are written to be read again: what is damaged in them, in whatever way, is as good as not there.

Each ends with a seal, a checksum over all that is before it, which tells what no look at shapes can: an entry that is
lost, a digit that is another. Whoever may write the file can write a seal as well, so what is read must still fit the
type that the reader names.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from fitasks.base.border import read_bytes
from fitasks.base.errors import BadInput
from fitasks.base.files import is_stream, remember
from fitasks.base.shape import fits

if TYPE_CHECKING:
    from pathlib import Path

_SEAL = "seal"
_BEFORE = b',\n "seal": '
_LARGEST = 1 << 28  # bytes; the plan of 655 kernels has 8 MB


def sealed(data: dict[str, Any], *, indent: int | None = None) -> str:
    """Return the text of a file that `read` takes for whole. Raises ValueError where there is nothing to be said."""
    if not data:
        raise ValueError("an empty memo")
    text = json.dumps(data, indent=indent).removesuffix("}").rstrip()
    return f"{text}{_BEFORE.decode()}{json.dumps(_checksum(text.encode()))}\n}}"


def keep(file: Path, data: dict[str, Any]) -> None:
    """Write a memo; a full or read-only disk keeps none, which costs time and no truth.

    A pipe or a device in its place, which would be written to, is replaced.
    """
    with contextlib.suppress(OSError):
        if is_stream(file):
            file.unlink()
    remember(file, sealed(data))


def read(file: Path, shape: Any, *, unsealed: bool = False) -> Any:
    """Return what a memo says, if that fits `shape`; None where there is none that is whole.

    `unsealed` takes one without a seal, too: a file that an earlier fitasks wrote and that is worth keeping.
    """
    try:
        text = read_bytes(file, _LARGEST)
    except BadInput:
        return None
    return understood(text, shape, unsealed=unsealed)


def understood(text: bytes, shape: Any, *, unsealed: bool = False) -> Any:
    """Return what the text of a memo says; see `read`."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    seal = said.pop(_SEAL, None)
    whole = unsealed if seal is None else seal == _checksum(memoryview(text)[: text.rfind(_BEFORE)])
    return said if whole and fits(said, shape) else None


def _checksum(text: bytes | memoryview) -> str:
    """Of damage, not of malice; five times as quick as SHA-256."""
    return f"{zlib.crc32(text):08x}"
