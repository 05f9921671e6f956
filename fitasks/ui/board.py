"""What is compiling, while it is: a live board on a terminal, a line every 30 s elsewhere, so that no build is silent.

Lines of the run itself are written above the board.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Protocol, cast

from fitasks.base.streams import HEARTBEAT, Enduring, clean, heartbeat, shown, tell, undraw, whole
from fitasks.ui.units import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fitasks.ui.progress import Progress

_SHOWN = 12  # kernels; a board higher than its terminal can't be redrawn
_WIDE = 60  # columns from which there is room for bars beside the names


class Board(Protocol):
    """Where a run's lines go, and what is shown beside them. `start` and `stop` may be called more than once."""

    def start(self) -> None: ...

    def line(self, text: str) -> None: ...

    def stop(self) -> None: ...


def board_for(stream: IO[str], progress: Progress) -> Board:
    """The live board where `stream` is a terminal that can be drawn on."""
    if stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}:
        return LiveBoard(stream, progress)
    return PlainBoard(stream, progress)


class PlainBoard:
    """Lines, and a heartbeat whenever nothing was written for a while."""

    def __init__(self, stream: IO[str], progress: Progress, every: float | None = None) -> None:
        self._stream, self._progress = Enduring(stream), progress
        self._every = every or _seconds()
        self._written = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to watch for silence."""
        if self._thread is None and self._every < math.inf:
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()

    def line(self, text: str) -> None:
        """One whole line, now. A reader that has gone (`| head`) doesn't end the build, nor does a full disk."""
        with self._lock:
            self._written = time.monotonic()
            undraw()
            self._stream.write(clean(text) + "\n")
            self._stream.flush()
            self._stream.complain()

    def stop(self) -> None:
        """No more heartbeats."""
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(self._patience()):
            if time.monotonic() - self._written >= self._every and (text := self._progress.heartbeat()):
                self.line(text)
            elif time.monotonic() - self._written >= self._every:
                self._written = time.monotonic()

    def _patience(self) -> float:
        return min(max(0.1, self._written + self._every - time.monotonic()), threading.TIMEOUT_MAX)


class LiveBoard:
    """The summary and a bar for each running kernel, redrawn four times a second below the run's lines."""

    def __init__(self, stream: IO[str], progress: Progress) -> None:
        from rich.live import Live

        from fitasks.ui.console import console

        self._stream, self._progress = Enduring(whole(stream)), progress
        self._console = console(cast("IO[str]", self._stream))
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
        )
        atexit.register(self.stop)  # a signal ends the run elsewhere, and the cursor is hidden meanwhile

    def start(self) -> None:
        """Show the board."""
        if not self._live.is_started and not self._stream.lost:
            undraw()
            self._live.start()
            sys.stdout, sys.stderr = shown(sys.stdout), shown(sys.stderr)  # rich's stand-ins, until stop()

    def line(self, text: str) -> None:
        """A line of the run, above the board; long ones are left to the terminal to wrap.

        A terminal that has gone doesn't end the build, but the board.
        """
        undraw()
        # Rich renders under this lock, and writes afterwards: a refresh between the two would move up one row too many.
        with self._live._lock:  # noqa: SLF001
            self._console.print(text, soft_wrap=True)
        if self._stream.lost:
            self.stop()

    def stop(self) -> None:
        """Take the board away."""
        self._live.stop()
        self._stream.complain()  # now that standard error is no longer the board's

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        works, summary = self._progress.running(), Text(self._progress.summary(), style="bold")
        room = self._console.height - len(summary.wrap(self._console, self._console.width)) - 2
        shown = max(1, min(_SHOWN, room))
        wide = self._console.width >= _WIDE
        table = Table.grid(padding=(0, 2 if wide else 1), expand=False)
        table.add_column(overflow="ellipsis", no_wrap=True)
        width = min(30, self._console.width // 4) if wide else 0
        if wide:
            table.add_column(width=width)
        for _ in range(2):
            table.add_column(justify="right", no_wrap=True)
        for work in works[:shown]:
            parts = bar_parts(work.done, work.files, width, self._console.options.ascii_only)
            bar = [Text.assemble(*parts)] if wide else []
            table.add_row(work.label, *bar, f"{work.done}/{work.files}", duration(time.time() - work.begun))
        more = [Text(f"and {len(works) - shown} more")] if len(works) > shown else []
        return Group(table, *more, summary)


def bar_parts(done: int, total: int, width: int, ascii_only: bool) -> list[tuple[str, str]]:
    """What is done and what isn't, each with rich's style; unlike rich's own bar they differ without colours, too."""
    full, rest = ("#", ".") if ascii_only else ("━", "─")
    count = width * done // max(1, total)
    return [(full * count, "bar.finished" if done >= total else "bar.complete"), (rest * (width - count), "bar.back")]


def _seconds() -> float:
    """As FITASKS_HEARTBEAT has them; if it is no number, that is said."""
    seconds = heartbeat()
    if seconds is None:
        text = os.environ["FITASKS_HEARTBEAT"]
        tell(
            f"FITASKS_HEARTBEAT={text!r} is no number of seconds (0 for none); a line every {HEARTBEAT:.0f} s, as ever"
        )
        return HEARTBEAT
    return seconds
