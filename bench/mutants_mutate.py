"""Mutants of a file: its bytes, its lines, and the JSON in it; each from a random generator alone, to be repeated.

What comes of it is often no JSON at all, which is meant. `1e400`, Infinity and digits without end are written as the
file would have them, for Python's json accepts the first two.
"""

from __future__ import annotations

import copy
import json
import re
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

VICTIM = "victim.txt"  # lies beside every directory that may be written to
_SEAL = b',\n "seal": '  # of memos (fitasks/base/memo.py): a checksum of all before it, which anybody can compute
_RAW = re.compile(r'"@raw:([^"]*)"')  # what json.dumps can't say


_JUNK = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b]0;x\x07", b"\r\n"),
    *(b"[" * 200_000, b'{"a":' * 100_000, b"\0" * (1 << 20)),
)
_WHOLE = (b"", b"{}", b"[]", b"null", b"1", b'"x"', b"\n" * 5000, b"x" * (8 << 20))  # files


def texts(outside: str) -> list[str]:
    """Strings that mean something somewhere. `outside` is an absolute path that nobody may write to."""
    return [
        "",
        " ",
        "\0",
        "a\0b",
        "\x1b[2J\x1b[1;1H",
        "a\nb\r",
        "\u202etxt.so",
        "\ud800",
        "é" * 300,
        "-",
        "-o/dev/full",
        "..",
        "../" * 4 + VICTIM,
        "../" * 7 + VICTIM,
        f"{outside}/{VICTIM}",
        outside,
        "/dev/zero",
        "/dev/stdout",
        "/proc/self/mem",
        "~root/x",
        f"$(touch {outside}/{VICTIM})",
        f"; touch {outside}/{VICTIM} #",
        "os:system",
        "subprocess:getoutput",
        "antigravity:webbrowser",
        "flashinfer.jit.page:gen_page_module",
        "flashinfer.jit:os.system",
        "__import__",
        "%s%n{0.__class__}{x}",
        "9.0a",
        "1" * 5000,
        "9" * 400,
        "x" * 300,
        "x" * 5000,
        "a" * (1 << 20),
    ]


def values(outside: str) -> list[Any]:
    """Values of every shape. `@raw:…` becomes … in the text."""
    deep: Any = 1
    for _ in range(150):
        deep = [deep]
    numbers = [0, 1, -1, 2, 3, 1 << 31, -(1 << 63), 1 << 64, 10**30, 0.5, -1.5, 1e308]
    raw = [
        "Infinity",
        "-Infinity",
        "NaN",
        "1e400",
        "-1e400",
        "9" * 4000,
        "9" * 5000,
        "-0",
        "[" * 5000,
        "{}{}",
        "[" * 500,
    ]
    shapes = [None, True, False, [], {}, [[]], [{}], {"": ""}, {"a": {}}, [None], ["x"], [1, "x", None, {}], deep]
    code = [{"cmd": f"touch {outside}/{VICTIM}"}, {"command": f"touch {outside}/{VICTIM}"}, ["os.system", "id"]]
    return [*numbers, *(f"@raw:{text}" for text in raw), *shapes, *code, *texts(outside)]


def mutate(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """One mutant of a file, which may be JSON, lines of JSON, or anything."""
    kinds: list[Callable[[], bytes]] = [lambda: _bytes(data, others, rng)]
    if _is_json(data):
        kinds += [lambda: of_json(data, rng, outside)] * 4
    elif b"\n" in data.strip():
        kinds += [lambda: _lines(data, rng, outside)] * 4
    return rng.choice(kinds)()


def of_json(data: bytes, rng: Random, outside: str) -> bytes:
    """Some values replaced, removed, doubled, renamed or exchanged; mostly with the seal that fits."""
    said, seal = unsealed(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        said = _changed(said, rng, outside)
    return seal(said) if rng.random() < 0.9 else dumped(said)


def unsealed(data: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """What a file of JSON says, and what writes it again, with the seal that fits if it had one."""
    said = json.loads(data)
    if _SEAL not in data:
        return said, dumped
    del said["seal"]
    return said, lambda changed: _sealed(dumped(changed))


def _sealed(text: bytes) -> bytes:
    """With the seal that fits."""
    before = text.removesuffix(b"}").rstrip()
    return before + _SEAL + f'"{zlib.crc32(before):08x}"\n}}\n'.encode()


def dumped(said: Any) -> bytes:
    """JSON as somebody else might write it."""
    text = json.dumps(said)
    return _RAW.sub(lambda match: match[1], text).encode(errors="surrogatepass")


def _is_json(data: bytes) -> bool:
    if data.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _changed(said: Any, rng: Random, outside: str) -> Any:
    """The same with one place changed, found by a walk from the root, so that few long lists don't get all of it."""
    above, key, here = None, None, said
    while isinstance(here, (dict, list)) and here and (above is None or rng.random() < 0.75):
        above = here
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        here = here[key]
    if above is None:
        return rng.choice(values(outside))
    _change(above, key, rng, outside)
    return said


def _change(above: Any, key: Any, rng: Random, outside: str) -> None:
    match rng.randrange(8):
        case 0:
            del above[key]
        case 1 if isinstance(above, dict):
            above[rng.choice(texts(outside))] = above.pop(key)
        case 1:
            above.insert(key, copy.deepcopy(above[key]))
        case 2:
            other = rng.choice(list(above) if isinstance(above, dict) else range(len(above)))
            above[key], above[other] = above[other], above[key]
        case 3:
            above[key] = _otherwise(above[key])
        case 4 if isinstance(above[key], str):
            above[key] = _within(above[key], rng, outside)
        case _:
            above[key] = copy.deepcopy(rng.choice(values(outside)))


def _otherwise(value: Any) -> Any:
    """The same thing in another type."""
    match value:
        case bool():
            return str(value)
        case int() | float():
            return str(value) if value % 2 else -value
        case str():
            return [value]
        case list():
            return dict.fromkeys(map(str, value), 1) if len(value) < 50 else str(value)
        case dict():
            return list(value.items())
    return 0


def _within(text: str, rng: Random, outside: str) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(texts(outside)) + text[at + rng.choice((0, 0, 1, 5)) :]


def _lines(data: bytes, rng: Random, outside: str) -> bytes:
    lines = data.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        if _is_json(lines[at]) and rng.random() < 0.8:
            lines[at] = of_json(lines[at], rng, outside) + b"\n"
        elif rng.random() < 0.5:
            words = lines[at].decode(errors="replace")
            lines[at] = _within(words, rng, outside).encode(errors="surrogatepass")
        else:
            lines.insert(at, rng.choice(lines)[: rng.randrange(200)])
    return b"".join(lines)


def _bytes(data: bytes, others: list[bytes], rng: Random) -> bytes:
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    other = rng.choice(others)
    made: list[Callable[[], bytes]] = [
        lambda: _flipped(data, rng),
        lambda: _flipped(data, rng),
        lambda: data[:at],
        lambda: data[:at] + data[to:],
        lambda: data[:to] + data[at:],
        lambda: data + other,
        lambda: data[:at] + other[to:],
        lambda: data[:at] + rng.choice(_JUNK) + data[at:],
        lambda: rng.choice(_WHOLE),
    ]
    return rng.choice(made)()


def _flipped(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data or b"x")
    for _ in range(rng.choice((1, 2, 10))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)
