"""Why a kernel is not fresh, as data. Sentences are made from it in one place, `str(reason)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "forced",
    "new",
    "elsewhere",
    "incomplete",
    "failed",
    "missing",
    "corrupt",
    "command",
    "toolchain",
    "changed",
    "vanished",
    "generated",
    "timestamps",
    "log",
    "stamp",
    "left",
]

# Most important first: what makes everything else moot comes before what is one of many.
_ORDER = {kind: rank for rank, kind in enumerate(Kind.__args__)}  # type: ignore[attr-defined]

Verdict = Literal["fresh", "look", "heal", "stale"]


@dataclass(frozen=True)
class Reason:
    """One cause. `subject` is what (a file, a tool), `old` and `new` its values where there are any."""

    kind: Kind
    subject: str
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        values = f" ({self.old} → {self.new})" if self.old or self.new else ""
        return _SENTENCES[self.kind].format(subject=self.subject, values=values)


_SENTENCES: dict[str, str] = {
    "forced": "forced: {subject}",
    "new": "new: {subject}",
    "elsewhere": "{subject}",
    "incomplete": "incomplete: {subject}",
    "failed": "compiling it failed, and nothing has changed since: {subject}",
    "missing": "{subject} is missing",
    "corrupt": "{subject} is not what was built{values}",
    "command": "command changed: {subject}{values}",
    "toolchain": "{subject} changed{values}",
    "changed": "{subject} changed{values}",
    "vanished": "{subject}, which it was compiled from, is gone",
    "generated": "generated source {subject} is missing and will be generated again",
    "timestamps": "{subject} has the right contents under a wrong timestamp{values}",
    "log": "ninja's log {subject}{values}",
    "stamp": "the toolchain's stamp changed; nothing of this kernel did",
    "left": "its build was killed when all was done: {subject} is still there",
}


@dataclass(frozen=True)
class Judgement:
    """`fresh`: nothing to do; `look`: audit again; `heal`: put timestamps right; `stale`: compile."""

    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    inputs: int = 0  # how many were compared

    @property
    def first(self) -> Reason | None:
        """The one that is told where there is room for one: by check, why, the list and the build alike."""
        return next(iter(self.reasons), None)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Outputs to make again where everything that they are made from is proven; () where that isn't so."""
        kinds = {reason.kind for reason in self.reasons}
        if self.verdict != "stale" or not kinds <= {"missing", "corrupt", "timestamps"}:
            return ()
        return tuple(reason.subject for reason in self.reasons if reason.kind != "timestamps")

    def __str__(self) -> str:
        return "; ".join(map(str, self.reasons)) or f"fresh: {self.inputs} inputs unchanged"


def judgement(verdict: Verdict, reasons: list[Reason], inputs: int = 0) -> Judgement:
    """With the reasons in order of importance."""
    return Judgement(verdict, tuple(sorted(reasons, key=lambda reason: _ORDER[reason.kind])), inputs)
