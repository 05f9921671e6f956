"""Numbers of things, as people read them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 kernel`, `2 kernels`."""
    return f"{count} {noun}{'s'[: count != 1]}"
