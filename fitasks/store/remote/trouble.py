"""What can go wrong with a store elsewhere. None of it ever fails a kernel."""

from __future__ import annotations

import re

_LONGEST = 160
_SECRETS = re.compile(r"\?\S*|(?<=//)[^/\s]*@")  # signed queries, user:password


class Missing(Exception):
    """There is no such object."""


class Refused(Exception):
    """An entry that isn't believed; the text says why."""


class Trouble(Exception):
    """The store can't be used as it should; the text says why, without secrets, on one line."""


class Off(Exception):
    """It isn't asked any more in this run, for the reason in the text."""


def line(text: str) -> str:
    """Return the first line of what somebody else says, without secrets and control characters, not too long."""
    first = _SECRETS.sub("", (text.strip().splitlines() or [""])[0])
    shown = "".join(letter if letter.isprintable() else "?" for letter in first)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
