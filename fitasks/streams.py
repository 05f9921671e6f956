"""Speaking to streams that may be full, closed, or read by nobody; nothing here raises because of that."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO


def tell(text: str) -> None:
    """One line on standard error, as far as anybody listens."""
    stream = sys.stderr
    try:
        if stream:
            stream.write(f"fitasks: {text}\n")
            stream.flush()
    except (OSError, ValueError, RuntimeError):  # gone or full; closed; a signal handler that interrupted a write
        silence(stream)


def silence(stream: IO[str]) -> None:
    """Let further output of a stream whose reader has gone lead nowhere, without a word."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
