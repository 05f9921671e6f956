"""SIGINT and SIGTERM: end every process of ours within 5 s, keep what is finished, exit with 130 or 143."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from fitasks.processes import sessions
from fitasks.streams import tell

if TYPE_CHECKING:
    from types import FrameType


def install() -> None:
    """As early as possible; nothing where this isn't the main thread, which alone may."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Ends what runs before it says a word: whoever reads may be gone, or not be reading."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # once is enough: stop_all is bounded
    building = bool(sessions.live())
    sessions.stop_all()
    if building:
        tell("stopping; finished kernels stay, half-built ones go on from here next time")
    raise SystemExit(128 + number)
