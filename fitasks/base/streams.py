"""Speaking to streams that may be full, closed, or read by nobody; nothing here raises because of that.

What is said may quote others: names in a trace, a model's fields, a compiler's output. A terminal obeys what it is
shown, so all that is shown is cleaned, here: standard output and standard error become `Shown`, rich's tables and the
board are made by ui/console.py, which cleans what it renders. What is written for machines (JSON) stays as it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# Select Graphic Rendition and "erase to the end of the line": how compilers colour. Taken away; all else is spelt out.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]")
# Control characters but newline and tab; what turns text around, hides in it, or ends a line (Unicode's bidi classes,
# UAX #9, and default ignorables); halves of characters, which are also bytes that weren't UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
HEARTBEAT = 30.0  # seconds of silence at most, unless somebody says otherwise


def clean(text: str) -> str:
    r"""Return a text that a terminal shows and doesn't obey: no colours, `\x1b` for an escape; lines stay lines."""
    return _UNSAFE.sub(_spelt, _COLOUR.sub("", text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    r"""Return the text, clean, with a newline as `\n`: what quotes others can't begin a line of its own."""
    return clean(text).replace("\n", "\\n")


def _spelt(found: re.Match[str]) -> str:
    return found[0].encode("unicode-escape").decode()


def show(line: str) -> None:
    """Print one line, and only one, on standard output."""
    undraw()
    print(one_line(line))  # noqa: T201 - the product's output


def show_lines(lines: Iterable[str]) -> None:
    """Print each as a line."""
    for line in lines:
        show(line)


def show_text(text: str) -> None:
    """Print a text that has lines of its own (a diff, a file of ours)."""
    undraw()
    print(clean(text))  # noqa: T201


def show_for_shell(text: str) -> None:
    """Print what a shell is to read: as it is, but where a terminal shows it."""
    stream = sys.stdout
    print(text, file=stream if stream.isatty() else whole(stream))


class Shown:
    """A stream that people read: what is written to it is clean. `whole` is the stream itself, for who cleans."""

    def __init__(self, stream: IO[str]) -> None:
        self.whole = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def write(self, text: str) -> int:
        """Return the length of `text`, as Python's streams do."""
        self.whole.write(clean(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)


def shown(stream: IO[str]) -> IO[str]:
    """Return the stream as one that people read."""
    return stream if isinstance(stream, Shown) else cast("IO[str]", Shown(stream))


def whole(stream: IO[str]) -> IO[str]:
    """Return the stream behind one that people read, for what is clean already and speaks a terminal's language."""
    return stream.whole if isinstance(stream, Shown) else stream


_DRAWN: list[str] = []  # what `draw` has left, if it is there now
_ERASE = "\r\x1b[K"
_COLUMNS = 80  # where the terminal doesn't tell


def drawable() -> bool:
    """Whether standard error is a terminal that can be drawn on, and nobody's (a board's) but ours."""
    stream, own = sys.stderr, sys.__stderr__
    if not stream or not own or whole(stream) is not own:
        return False
    return own.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def draw(text: str, end: str = "") -> None:
    """Draw a line on the terminal, until the next one or `undraw`; of one that is too long `end` is seen."""
    try:
        stream = whole(sys.stderr)
        room = _columns(stream) - 1 - len(end)
        stream.write(_ERASE + (one_line(f"fitasks: {text}")[:room] + end if text else ""))
        stream.flush()
        _DRAWN[:] = [text] if text else []
    except (OSError, ValueError, RuntimeError):  # as below
        _DRAWN.clear()


def _columns(stream: IO[str]) -> int:
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    return _COLUMNS


def undraw() -> None:
    """Take away what `draw` has drawn, before anything else is written."""
    if _DRAWN:
        draw("")


def tell(text: str) -> None:
    """One line on standard error, as far as anybody listens."""
    undraw()
    stream = sys.stderr
    try:
        if stream:
            stream.write(f"fitasks: {text}\n")
            stream.flush()
    except (OSError, ValueError, RuntimeError):  # gone or full; closed; a signal handler that interrupted a write
        silence(stream)


def heartbeat() -> float | None:
    """Seconds of silence that FITASKS_HEARTBEAT allows: inf where nobody wants a word, None where it is no number."""
    with contextlib.suppress(ValueError):
        seconds = float(os.environ.get("FITASKS_HEARTBEAT") or HEARTBEAT)
        if seconds >= 0:
            return max(0.1, seconds) if seconds else math.inf
    return None


def silence(stream: IO[str]) -> None:
    """Let further output of a stream whose reader has gone lead nowhere, without a word."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Enduring:
    """A stream that raises nothing once it is gone or full: the rest of what is said leads nowhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._trouble: Exception | None = None
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def lost(self) -> bool:
        """Whether something couldn't be written."""
        return self._trouble is not None

    def write(self, text: str) -> int:
        """All of it, as far as anybody knows."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def complain(self, consequence: str = "the build goes on in silence") -> None:
        """Say once on standard error why nothing is heard; not where a reader has seen enough (`| head`)."""
        if self._trouble and not self._told and not isinstance(self._trouble, BrokenPipeError):
            self._told = True
            why = getattr(self._trouble, "strerror", None) or self._trouble
            tell(f"what is said can't be written ({why}); {consequence}")

    def _try(self, call: Callable[..., object], *words: str) -> None:
        try:
            call(*words)
        except (OSError, ValueError) as error:  # gone or full; closed
            self._trouble = self._trouble or error
            silence(self._stream)
