"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fitasks.base.errors import ConfigError, FitasksError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def kept(subject: str, findings: Iterable[Finding], *, section: str = "serving environment") -> Iterator[Finding]:
    """These findings, as far as they could be made; then, where something kept the rest from being made, that."""
    try:
        yield from findings
    except ConfigError:
        raise
    except (FitasksError, OSError) as error:
        yield failure(section, f"{subject}: not examined", error)


def failure(section: str, subject: str, error: Exception) -> Finding:
    """What could not be examined, as a finding."""
    if isinstance(error, FitasksError):
        return Finding(section, subject, error.message, "problem", error.remedy)
    where = getattr(error, "filename", None)
    value = f"{where}: {getattr(error, 'strerror', None) or error}" if where else str(error)
    return Finding(section, subject, value, "problem", f"see `ls -ld {where}`" if where else "")
