"""The two ways in which planning fails: one kernel cannot be planned, or nothing can."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class PlanError(Exception):
    """One thing that is wrong with one kernel; the other kernels are planned all the same.

    `kind` is unknown_op, unknown_parameter, missing_parameter, bad_value, not_nvcc, skipped or generator.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        parameter: str | None = None,
        accepted: Iterable[str] = (),
        suggestion: str | None = None,
    ) -> None:
        super().__init__(message)
        self.more: tuple[PlanError, ...] = ()  # further mistakes of the same kernel
        self.fields: dict[str, Any] = {
            "kind": kind,
            "parameter": parameter,
            "message": message,
            "accepted": list(accepted),
            "suggestion": suggestion,
        }

    def record(self) -> dict[str, Any]:
        """What the response says: the first mistake as `error`, all of them as `errors`."""
        return {"error": self.fields, "errors": [self.fields, *(error.fields for error in self.more)]}


class FatalError(Exception):
    """Nothing can be planned.

    `kind` is request, no_torch, no_flashinfer, import, arch_list, toolkit or unsupported.
    """

    def __init__(self, kind: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.fields = {"kind": kind, "message": message, "remedy": remedy}


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return matches[0] if matches else None


def did_you_mean(suggestion: str | None) -> str:
    return f" (did you mean {suggestion}?)" if suggestion else ""


def one_line(error: BaseException) -> str:
    """`KeyError: 'silo'`: what an exception says, on one line of bearable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__
