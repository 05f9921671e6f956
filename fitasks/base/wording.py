"""How numbers and names are said to people."""

from __future__ import annotations

import re


def counted(count: int, noun: str) -> str:
    """`1 kernel`, `2 kernels`."""
    return f"{count} {noun}{'s'[: count != 1]}"


def labelled(text: str, name: str, label: str) -> str:
    """Return what is said of a kernel with its label for its module's name, but in paths: that is up to 200 letters."""
    if len(name) <= len(label) or name not in text:
        return text
    return re.sub(rf"(?<![\w/]){re.escape(name)}(?!/)", lambda _: label, text)
