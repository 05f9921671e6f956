"""The commands of a Markdown page, and whether what they say is what the page shows.

A block ```console has commands after `$ ` (a user's) and `# ` (root's), each with the output that is shown below it. A
comment before a block, which no reader sees, decides what becomes of it:

    <!-- run -->                          of pages of docs/; README's blocks are run without
    <!-- run, status 1 -->                with that exit status
    <!-- not run: needs a GPU -->         the reason is counted

Behind a command within a sentence, `doit list`<!-- run -->, it has that run, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from markdown_it.token import Token

_DIRECTIVE = re.compile(r"<!--\s*(?:run(?:, status (?P<status>\d+))?|not run: (?P<reason>.+?))\s*-->")
_UNMARKED = "not marked as runnable"
_ANYTHING = "…"
_HEARTBEAT = re.compile(  # not a command's own words
    r"(fitasks: )?still \w+ing\b|\S+: pip is installing|WARNING: |\s+━"
)
_WAIT = re.compile(r"fitasks: .* …")  # said where something takes more than a second, which it may or may not
_NUMBER = re.compile(r"\d[\d.,]*( ?(B|[kMG]B|ms|s|m|h)\b)?")
_MARK = "@@ of the test @@"


@dataclass(frozen=True)
class Command:
    """One command of a page. `shown` is its output there; `reason` why it isn't run, "" if it is."""

    page: str
    line: int
    text: str
    shown: tuple[str, ...] = ()
    root: bool = False
    status: int = 0
    reason: str = ""

    @property
    def session(self) -> str:
        """Commands of one kind, one after the other, share a shell: root's, and those of an activated environment."""
        each = self.text.removeprefix('eval "$(').split(" && ")
        ours = any(words.startswith(("doit", "fitasks")) for words in each)
        return "root" if self.root else "activated" if ours else "plain"

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    command: Command
    status: int
    seconds: float
    said: tuple[str, ...]

    @property
    def problem(self) -> str:
        """Why the page isn't right about it; "" if it is."""
        if self.status != self.command.status:
            return f"exit status {self.status}"
        line = first_difference(self.command.shown, self.said)
        return f"doesn't say: {line}" if line else ""


def commands(text: str, page: str) -> Iterator[Command]:
    """All of a page, in its order."""
    always = page == "README.md"
    pending: Command | None = None
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            pending = _directive(token.content)
        elif token.type == "fence" and token.info == "console":
            says = pending or Command("", 0, "", reason="" if always else _UNMARKED)
            yield from (replace(one, reason=says.reason, status=says.status) for one in _of_block(token, page, line))
            pending = None
        elif token.type == "inline":
            yield from _within(token, page, line)


def _directive(comment: str) -> Command | None:
    found = _DIRECTIVE.fullmatch(comment.strip())
    return Command("", 0, "", status=int(found["status"] or 0), reason=found["reason"] or "") if found else None


def _of_block(token: Token, page: str, line: int) -> Iterator[Command]:
    """A command goes on in the next line after a backslash; what isn't one is the output of the one before."""
    command: Command | None = None
    for number, content in enumerate(token.content.splitlines(), line + 1):
        if command and command.text.endswith("\\"):
            command = replace(command, text=f"{command.text}\n{content}")
        elif content[:2] in ("$ ", "# "):
            if command:
                yield command
            command = Command(page, number, content[2:], root=content.startswith("#"))
        elif command:
            command = replace(command, shown=(*command.shown, content))
    if command:
        yield command


def _within(token: Token, page: str, line: int) -> Iterator[Command]:
    children = token.children or []
    for code, comment in pairwise(children):
        says = _directive(comment.content) if comment.type == "html_inline" else None
        if says and code.type == "code_inline":
            yield replace(says, page=page, line=line, text=code.content)


def first_difference(shown: Iterable[str], said: Iterable[str]) -> str:
    """The first line that is shown and wasn't said, numbers and widths apart; `…` stands for any lines, or words."""
    shown = [_plain(line) for line in shown]
    lines = [_plain(line) for line in said if not _HEARTBEAT.match(line)]
    at, free = 0, False
    for line in filter(lambda line: not _HEARTBEAT.match(line), shown):
        if line == _ANYTHING:
            free = True
            continue
        pattern = re.compile(".*".join(map(re.escape, line.split(_ANYTHING))))
        last = len(lines) if free else _after_waits(lines, at) + 1
        found = [i for i in range(at, min(last, len(lines))) if pattern.fullmatch(lines[i])]
        if not found:
            return line
        at, free = found[0] + 1, False
    return ""


def _after_waits(lines: Sequence[str], at: int) -> int:
    """Where the next line is that is said in any case."""
    return next((i for i in range(at, len(lines)) if not _WAIT.fullmatch(lines[i])), len(lines))


def _plain(line: str) -> str:
    return _NUMBER.sub("N", " ".join(line.split()))


def sessions(all_commands: Iterable[Command]) -> Iterator[list[Command]]:
    """Those that are run, by the shell that they share: no page begins where another has gone to."""
    for _, group in groupby((one for one in all_commands if not one.reason), key=lambda one: (one.page, one.session)):
        yield list(group)


def script(group: Sequence[Command], before: str = "") -> str:
    """For bash: each command in turn, with a mark before and after it, until one has another exit status.

    `before` is a line that each is preceded by.
    """
    lines = ["[ ! -d ~/fitasks ] || cd ~/fitasks", "umask 022"]
    if group[0].session == "activated":
        lines.append(". .venv/bin/activate")
    for number, command in enumerate(group):
        lines += [
            before,
            f"printf '\\n{_MARK} begin {number} %s\\n' $EPOCHREALTIME",
            command.text,
            f"status=$?; printf '\\n{_MARK} end {number} %s %s\\n' $EPOCHREALTIME $status",
            f"[ $status = {command.status} ] || exit 0",
        ]
    return "\n".join(lines) + "\n"


def ran(group: Sequence[Command], output: str) -> list[Ran]:
    """What became of those that were begun, by the output of their script. One that ended the shell has status -1."""
    begun = re.split(rf"\n{_MARK} begin (\d+) ([\d.]+)\n", output)[1:]
    return [
        _ran(group[int(number)], float(since), rest) for number, since, rest in zip(*[iter(begun)] * 3, strict=True)
    ]


def _ran(command: Command, since: float, rest: str) -> Ran:
    said, _, end = rest.partition(f"\n{_MARK} end ")
    words = end.split()
    status, until = (int(words[2]), float(words[1])) if len(words) >= 3 else (-1, since)
    return Ran(command, status, until - since, tuple(said.splitlines()))
