"""Speaking to streams that may be full, closed, or read by nobody; nothing here raises because of that."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HEARTBEAT = 30.0  # seconds of silence at most, unless somebody says otherwise


def tell(text: str) -> None:
    """One line on standard error, as far as anybody listens."""
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
