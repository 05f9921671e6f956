"""The one way to a rich console: it shows what it is given, and neither markup nor escape sequences in it act."""

from __future__ import annotations

import os
import re
import sys
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from fitasks.base.streams import clean, whole

_ENDLESS = 1 << 20  # columns; rich needs a number
_BLANKS = re.compile(r" +(?=\n)")

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


def console(file: IO[str] | None = None) -> Console:
    """Return a console on a stream, by default standard output.

    Where that is no terminal (a log, a pipe) a table is as wide as it needs, unless COLUMNS says otherwise.
    """
    stream = whole(file or sys.stdout)
    width = None
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        stream, width = cast("IO[str]", _Unpadded(stream)), _ENDLESS
    return _Clean(file=stream, width=width, highlight=False, markup=False, emoji=False)


def cell(text: str, style: str = "") -> Text:
    """Return a text for a table, clean, so that it is as wide as it is measured."""
    return Text(clean(text), style=style)


class _Unpadded:
    """A stream that gets no blanks at the ends of lines: rich fills the cells of a column up to its longest."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Return the length of `text`, as Python's streams do; rich writes whole lines."""
        self._stream.write(_BLANKS.sub("", text))
        return len(text)


class _Clean(Console):
    """rich itself passes escapes on, and reads `[red]` and `[/]` in a reason as markup."""

    def on_broken_pipe(self) -> None:
        """Leave it to who called, as any stream does: rich would end the program, and doit would print its status."""
        raise  # noqa: PLE0704 - rich calls this while it handles BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """Clean what is given as a string before it is measured: rich counts an escape as no column, and cuts."""
        return super().render_str(clean(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's own control codes as they are, and texts cleaned, of whatever they came."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)
