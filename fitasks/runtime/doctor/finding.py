"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`value` is what was found of `subject`; `remedy` what to do, for anything but "ok".

    A "note" is something that a user should know and that doesn't keep kernels from being compiled or loaded.
    """

    section: str
    subject: str
    value: str
    state: State = "ok"
    remedy: str = ""
