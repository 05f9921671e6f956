"""SIGINT and SIGTERM: end every compiler within 5 s, keep what is finished, exit with 130 or 143."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from fitasks.build import sessions

if TYPE_CHECKING:
    from types import FrameType


def install() -> None:
    """For the main thread, before anything is built."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # once is enough: stop_all is bounded
    print("fitasks: stopping; finished kernels stay, half-built ones go on from here next time", file=sys.stderr)  # noqa: T201
    sessions.stop_all()
    raise SystemExit(128 + number)
