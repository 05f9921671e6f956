"""Whatever fails of the recorder is dropped, with one line on stderr: a server must not notice."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing itself would cost 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_complained = False


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function gives; None, and one line on stderr per process, where it fails."""
    global _complained
    try:
        return function(*args, **kwargs)
    except Exception as error:
        first, _complained = not _complained, True
        try:
            if first:
                print(f"fitasks: not everything is recorded: {error!r}"[:300], file=sys.stderr)
        except Exception:
            return None
