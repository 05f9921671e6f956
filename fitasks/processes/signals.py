"""SIGINT and SIGTERM: end every process of ours within 5 s, keep what is finished, exit with 130 or 143.

Python runs a signal's handler in its main thread, between two instructions. A main thread that waits for a lock, as
doit's does for results, is woken only if the signal reaches that very thread while it is asleep: one that comes
between its last look and its falling asleep, or that the kernel gives to another thread, would be slept through for
ever. What the interpreter does at once in any case is to write the number into a wakeup fd; who reads there insists.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from fitasks.base.streams import tell
from fitasks.processes import sessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)
_BEFORE_WORDS: list[Callable[[], None]] = []
_PATIENCE = 0.2  # seconds from a signal to its being sent again, to the main thread


def install() -> None:
    """As early as possible; nothing where this isn't the main thread, which alone may, or where it was done before."""
    if threading.current_thread() is not threading.main_thread() or _unheard(signal.SIGTERM):
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(heard,), name="signals", daemon=True).start()
    for number in _STOPS:
        signal.signal(number, _stop)


def before_words(call: Callable[[], None]) -> None:
    """Have this done when all has ended and before it is said: a board that is being drawn would draw into it."""
    _BEFORE_WORDS.append(call)


def _unheard(number: int) -> bool:
    """Whether `_stop` is installed and hasn't been called, which is the first thing that it changes."""
    return signal.getsignal(number) is _stop


def _insist(heard: int) -> None:
    """Send each signal to the main thread, again and again, until it has heard one."""
    while numbers := os.read(heard, 64):
        for number in filter(_STOPS.__contains__, numbers):
            time.sleep(_PATIENCE)
            while _unheard(number):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
                time.sleep(_PATIENCE)


def _stop(number: int, _frame: FrameType | None) -> None:
    """Ends what runs before it says a word: whoever reads may be gone, or not be reading."""
    for one in _STOPS:
        signal.signal(one, signal.SIG_IGN)  # once is enough: stop_all is bounded
    building = bool(sessions.live())
    sessions.stop_all()
    for call in _BEFORE_WORDS:
        call()
    if building:
        tell("stopping; finished kernels stay, half-built ones go on from here next time")
    raise SystemExit(128 + number)
