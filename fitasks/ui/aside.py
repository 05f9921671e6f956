"""What is heard of a run beside a reporter that has standard output for itself: lines and heartbeats elsewhere."""

from __future__ import annotations

from typing import IO, Any

from fitasks.compile.pool.usage import Usage
from fitasks.ui.board import PlainBoard
from fitasks.ui.progress import Progress


class Aside:
    """Told what the builder does and says, as a reporter of ours is."""

    def __init__(self, stream: IO[str]) -> None:
        self.progress = Progress(lambda _label: 0, Usage)
        self._board = PlainBoard(stream, self.progress)

    def write(self, text: str) -> None:
        """One line, now."""
        self._board.line(text)

    def observe(self, event: dict[str, Any]) -> None:
        """An event of the journal: the first compile begins the watch for silence."""
        self.progress.observe(event)
        if event["event"] == "begin":
            self._board.start()

    def stop(self) -> None:
        """No more heartbeats."""
        self._board.stop()
