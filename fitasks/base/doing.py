"""What is being done while nothing else is heard: the one way in which every wait that may be long is told.

On a terminal it is one line that counts the seconds, and stays with them when it is over. Elsewhere it is a line once
it has taken a second, and one as often as FITASKS_HEARTBEAT says. Of waits within a wait the first that was told
speaks for all.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fitasks.base.streams import HEARTBEAT, draw, drawable, heartbeat, tell, undraw

if TYPE_CHECKING:
    from collections.abc import Iterator

AFTER = 1.0  # seconds for which nobody wonders
_REDRAWN = 1.0  # seconds


@dataclass(eq=False)
class _Wait:
    """`what` as in "planning 7 kernels"; it has been `told` where it is or was read."""

    what: str
    drawn: bool
    told: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun


_OPEN: list[_Wait] = []
_LOCK = threading.RLock()  # a signal's handler may interrupt its own thread


@contextlib.contextmanager
def doing(what: str, *, after: float = AFTER, quiet: bool = False) -> Iterator[None]:
    """Say what takes longer than `after` seconds, from then on until it is over: "planning 7 kernels".

    `quiet` leaves it to the heartbeat: it has been told otherwise.
    """
    wait = _Wait(what, drawn=not quiet and drawable())
    with _LOCK:
        _OPEN.append(wait)
    if not after and not quiet:
        _begin(wait)
    thread = threading.Thread(target=_follow, args=(wait, after, quiet), name="doing", daemon=True)
    thread.start()
    try:
        yield
        if wait.drawn and wait.told:
            tell(f"{what}: {wait.seconds:.0f} s")
    finally:
        wait.over.set()
        with _LOCK:
            _OPEN.remove(wait)
            if wait.drawn and wait.told:
                undraw()


def _begin(wait: _Wait) -> bool:
    """Tell it, unless it was told, or another one speaks for it; whether it was told just now."""
    with _LOCK:
        if wait.over.is_set() or any(one.told for one in _OPEN):
            return False
        wait.told = True
        if not wait.drawn:
            tell(f"{wait.what} …")
        return True


def _follow(wait: _Wait, after: float, quiet: bool) -> None:
    """Until it is over."""
    every = _REDRAWN if wait.drawn else min(heartbeat() or HEARTBEAT, threading.TIMEOUT_MAX)
    pause = every if quiet or (wait.told and not wait.drawn) else after
    while not wait.over.wait(pause):
        begun = not quiet and _begin(wait)
        _say(wait, quiet, again=not begun)
        pause = every if quiet or wait.told else max(after, _REDRAWN)


def _say(wait: _Wait, quiet: bool, *, again: bool) -> None:
    with _LOCK:
        if wait.over.is_set():
            return
        if wait.drawn and wait.told:
            draw(wait.what, f", {wait.seconds:.0f} s")
        elif again and (wait.told or (quiet and not any(one.told for one in _OPEN))):
            tell(f"still {wait.what} ({wait.seconds:.0f} s)")
