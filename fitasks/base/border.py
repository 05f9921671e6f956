"""Reading what somebody else wrote: models, servers, other users, other machines. A checked value, or our error.

The one way in for their files and their JSON. Nothing here waits (a pipe, a device), reads without end (a sparse file
of 10 GB), or recurses (200,000 brackets); every error names the file and the place in it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from typing import IO, TYPE_CHECKING, Any, NoReturn

from fitasks.base.errors import BadInput
from fitasks.base.files import NotRegularError, regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEEPEST = 100  # levels; a model's config.json has three, and what writes JSON again recurses
_LONGEST_SHOWN = 60
_MOST = 10**12  # a time in seconds has ten digits, and no number that is counted more


def read_json(path: Path, limit: int, *, finite: bool = True, encodable: bool = True) -> Any:
    """Return the value in a regular file of at most `limit` bytes; see parse_json. Raises BadInput."""
    return parse_json(read_text(path, limit), _named(path), finite=finite, encodable=encodable)


def read_text(path: Path, limit: int) -> str:
    """Return the text, UTF-8, of a regular file of at most `limit` bytes. Raises BadInput."""
    data = read_bytes(path, limit)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{_named(path)}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what a regular file of at most `limit` bytes holds. Raises BadInput."""
    try:
        with open_regular(path) as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if len(data) > limit:
        raise BadInput(f"{_named(path)} has more than {limit:,} bytes", remedy="is it the right file?")
    return data


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file, without waiting for a writer as a pipe would.

    Raises OSError, ValueError (a zero byte in its name), and BadInput for what is no regular file.
    """
    try:
        return regular(path)
    except NotRegularError as error:
        if stat.S_ISDIR(error.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        kind = _KINDS.get(stat.S_IFMT(error.mode), "no regular file")
        raise BadInput(f"{_named(path)} is {kind}", remedy="name a regular file") from None


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def _unreadable(path: Path, error: OSError | ValueError) -> BadInput:
    return BadInput(f"{_named(path)}: {getattr(error, 'strerror', None) or error}")


def _named(path: Path) -> str:
    """As it is, or in quotes where it would not stay on its line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def read_lines(path: Path, longest: int) -> Iterator[str]:
    """Yield the lines of a log, each with its end; of one longer than `longest` bytes the last `longest` or so.

    So that garbage without an end of line costs no memory, and a line behind it (a block of zeros, as a crash leaves
    it) is still seen. Raises BadInput.
    """
    try:
        with open_regular(path) as stream:
            yield from _lines(stream, longest)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _lines(stream: IO[bytes], longest: int) -> Iterator[str]:
    before = b""
    while part := stream.readline(longest):
        if part.endswith(b"\n"):
            yield (before + part).decode(errors="replace")
            before = b""
        else:
            before = (before + part)[-longest:]
    if before:
        yield before.decode(errors="replace")


def parse_json(text: str, where: str, *, finite: bool = True, encodable: bool = True) -> Any:
    """Return the value of a JSON text, at most DEEPEST levels deep, without zero bytes in its strings.

    With `finite`, numbers are: JSON knows no Infinity and no NaN, Python writes and reads both, and reads 1e400 as
    Infinity. With `encodable`, strings are: no half characters, by which Python also names files that aren't UTF-8.
    `where` is what an error begins with. Of a key that stands twice the last counts, as for all who read
    JSON. Raises BadInput.
    """

    def refused(word: str) -> NoReturn:
        raise BadInput(f"{where}: {brief(word)} is no number that JSON knows")

    def real(digits: str) -> float:
        value = float(digits)
        return value if -_LARGEST < value < _LARGEST else refused(digits)

    hooks: dict[str, Any] = {"parse_constant": refused, "parse_float": real} if finite else {}
    try:
        value = json.loads(text, **hooks)
        if text.count("[") + text.count("{") > DEEPEST:
            _refuse_depth(value, where)
        if "\\u" in text:
            _refuse_characters(json.dumps(value, ensure_ascii=False), where, encodable=encodable)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{where} is no JSON: {error.msg} ({place})") from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise BadInput(f"{where}: {error}") from None
    return value


_LARGEST = float("inf")
_HALF = re.compile("[\ud800-\udfff]")


def _refuse_characters(text: str, where: str, *, encodable: bool) -> None:
    """Of a JSON text whose characters are written out, but control characters."""
    if "\\u0000" in text:
        raise BadInput(f"{where} has a zero byte in a text, which no path and no name has")
    if encodable and (half := _HALF.search(text)):
        raise BadInput(f"{where}: the escape \\u{ord(half[0]):04x} is no character")


def _refuse_depth(value: Any, where: str) -> None:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [child for one in level if isinstance(one, dict | list) for child in _children(one)]
        if not level:
            return
    raise _too_deep(where)


def _children(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def _too_deep(where: str) -> BadInput:
    return BadInput(f"{where} is nested deeper than {DEEPEST} levels")


def number(value: object) -> float:
    """Return a number of theirs that counts seconds, processes and the like. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise ValueError
    return value


def is_name(value: object, longest: int) -> bool:
    """Return whether this is text that names something: on one line, shown as it is, without what turns it around."""
    return isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()


def brief(value: object) -> str:
    """Return a value of theirs as a message shows it: on one line, printable, not too long."""
    text = value if isinstance(value, str) else _written(value)
    shown = repr(text[:_LONGEST_SHOWN])
    shown = shown if isinstance(value, str) else shown[1:-1]
    return shown + "…" * (len(text) > _LONGEST_SHOWN)


def _written(value: object) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
