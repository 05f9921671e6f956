"""From the log of a failed ninja to what a person needs: the first real error, where, of what kind, what to do.

The patterns are those of logs that nvcc 13.0, gcc 12, ld 2.40 and ninja 1.13 really wrote, kept in tests/compile/logs.
A cause outranks its consequences: of "No space left on device" and the compiler's "could not be opened" after it,
the first is reported, and a compiler that was killed is no syntax error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fitasks.base.streams import clean
from fitasks.compile.failure.hints import hint_for

Kind = Literal["compile", "link", "oom", "disk", "killed", "toolchain", "unknown"]

_LONGEST = 2000  # letters of a line that are looked at, half of them of its end: C++ has names of 30 kB
_MOST = 1_000_000  # letters of an output, likewise
_NUMBERED = re.compile(r"^\[\d+/\d+\] ")  # ninja's echo of a command, whose options may look like errors
_NINJA_SAYS = (
    "FAILED:",
    "ninja: build stopped: sub",
    "ninja: build stopped: int",
    "ninja: Jobserver mode",
    "ninja: warning:",
    "ninja: Entering",
)
_NO_ERROR = re.compile(r"\b(?:warning|note|remark)\b ?(?:#|:|\[)|^In file included from")

_OOM = re.compile(
    r"^Killed$|Killed signal terminated program|died due to signal 9\b|virtual memory exhausted"
    r"|\bout of memory\b|Cannot allocate memory|std::bad_alloc|collect2: fatal error: ld terminated with signal 9",
    re.IGNORECASE,
)
_DISK = re.compile(r"No space left on device|Disk quota exceeded|File too large")
_TOOLCHAIN = re.compile(
    r"^nvcc fatal\b|^ninja: (?:error|fatal): |unsupported GNU version|Unsupported (?:gpu architecture|\.version)"
    r"|: not found$|Permission denied|Read-only file system|Too many open files|cannot execute"
)
_LINK = re.compile(r"cannot find -l|undefined reference to|: final link failed|ld returned \d|multiple definition of")
_TOOL = r"(?:ptxas|nvlink|nvcc|cicc|cudafe\+\+|fatbinary)"
_COMPILE = re.compile(
    r"^(?P<file>[^\s:(]+)[:(](?P<line>\d+)[):,][\d: ]*(?:catastrophic |fatal |internal )?error\b"  # cudafe, gcc
    rf"|^{_TOOL} (?P<ptx>[^\s,]+), line (?P<at>\d+); (?:error|fatal)\s*:"
    rf"|^{_TOOL}\s*(?:fatal|error)\s*:|: (?:fatal |internal compiler )?error: |^Fatal error: "
)
_CAUSES: tuple[tuple[Kind, re.Pattern[str]], ...] = (("oom", _OOM), ("disk", _DISK))
_ERRORS: tuple[tuple[Kind, re.Pattern[str]], ...] = (("toolchain", _TOOLCHAIN), ("link", _LINK), ("compile", _COMPILE))


@dataclass(frozen=True)
class Diagnosis:
    """The first real error as one line of the log, its place where it has one, and a hint where the cause is known."""

    first_error: str
    file: str | None = None
    line: int | None = None
    hint: str | None = None
    kind: Kind = "unknown"

    @property
    def out_of_memory(self) -> bool:
        """Whether another try, alone, may help: the compiler, or ninja, was killed or found no memory."""
        return self.kind in {"oom", "killed"}


def diagnose(log_text: str, status: int) -> Diagnosis:
    """The cause of a failed build; `status` as subprocess has it (negative: a signal)."""
    lines = _output(log_text)
    kind, text = _find(lines, _CAUSES) or _find(lines, _ERRORS) or ("unknown", lines[-1].strip() if lines else "")
    if kind == "unknown" and status in {-9, 137}:
        kind, text = "killed", "ninja was killed"
    elif kind == "unknown" and status < 0:
        kind, text = "killed", f"ninja was ended by signal {-status}"
    text = text or f"ninja ended with status {status}, and said nothing"
    place = _COMPILE.search(text)
    file = place and (place["file"] or place["ptx"])
    line = place and (place["line"] or place["at"])
    return Diagnosis(text, file or None, int(line) if line else None, hint_for(kind, text), kind)


def _output(log: str) -> list[str]:
    """What the commands said, without ninja's repetition of the commands themselves."""
    found: list[str] = []
    failed = False
    for raw in clean(_shortened(log, _MOST, "\n")).splitlines():  # it may have been told to colour
        line = _shortened(raw.rstrip(), _LONGEST, "...")
        if line and not failed and not _NUMBERED.match(line) and not line.startswith(_NINJA_SAYS):
            found.append(line)
        failed = line.startswith("FAILED:")  # the next line is the command
    return found


def _shortened(text: str, most: int, gap: str) -> str:
    """Beginning and end, where it is longer: no pattern is searched for in what a compiler may make endless."""
    return text if len(text) <= most else text[: most // 2] + gap + text[-most // 2 :]


def _find(lines: list[str], kinds: tuple[tuple[Kind, re.Pattern[str]], ...]) -> tuple[Kind, str] | None:
    """The first line that is of any of these kinds."""
    for line in lines:
        if line.startswith(" ") or _NO_ERROR.search(line):  # indented are excerpts of sources, and notes
            continue
        for kind, pattern in kinds:
            if pattern.search(line):
                return kind, line
    return None
