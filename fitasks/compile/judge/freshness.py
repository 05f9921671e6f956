"""Is a kernel what a build would make now? Contents decide; timestamps only say whether ninja would agree.

    no receipt, or one that can't be believed             → stale (new, incomplete, failed, elsewhere)
    an input, command or tool differs, the .so is damaged → stale (changed, command, toolchain, missing, corrupt)
    all equal, but ninja would compile                    → heal  (timestamps, log, generated)
    all equal, the stamp differs                          → look  (audit again)
    otherwise                                             → fresh

Nothing here writes, locks or starts a process; 655 kernels are judged by about 5,000 stat calls.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING

from fitasks.base.files import sha256_text
from fitasks.compile import begun
from fitasks.compile import receipt as receipts
from fitasks.compile.failure import failed
from fitasks.compile.judge import cute, keyed
from fitasks.compile.judge.elsewhere import elsewhere
from fitasks.compile.judge.reasons import Judgement, Reason, judgement
from fitasks.compile.ninja.ninja import DEPS, LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fitasks.compile.judge.contents import Contents, State
    from fitasks.compile.judge.roots import Roots
    from fitasks.compile.receipt import Output, Receipt
    from fitasks.plan.kernel import Kernel, Kind

_WHOLE: dict[Kind, Callable[[Kernel, Contents], Judgement]] = {"cute": cute.judge, "sglang-keyed": keyed.judge}
_SHORT = 12  # digits of a hash that people compare
_WORDS = 8  # of a command that are shown of either side


@dataclass
class Judge:
    """Judges kernels of one target in one run; what it learns of a header holds for all of them."""

    roots: Roots
    contents: Contents
    toolchain: dict[str, str]
    ninja: str  # version
    stamp: str
    bases: tuple[Path, ...] = ()  # FlashInfer's caches in which the same kernel may lie
    _equal: dict[str, int] = field(default_factory=dict)  # input line that holds → the file's mtime
    _commands: dict[str, str] = field(default_factory=dict)

    def judge(self, kernel: Kernel) -> Judgement:
        """The verdict on one kernel, with every reason."""
        judge = _WHOLE.get(kernel.kind)
        return judge(kernel, self.contents) if judge else self._module(kernel)

    def _module(self, kernel: Kernel) -> Judgement:
        receipt = receipts.read(kernel)
        if receipt is None:
            return judgement("stale", [self._without_receipt(kernel)])
        lines = receipt.inputs.split("\n")
        stale, newest = self._inputs(lines)
        stale += self._commands_and_tools(kernel, receipt) + self._library(kernel, receipt)
        if stale:
            return judgement("stale", stale, len(lines))
        heal = self._timestamps(kernel, receipt, newest)
        if heal:
            damaged = any(reason.kind in {"missing", "corrupt"} for reason in heal)
            return judgement("stale" if damaged else "heal", heal, len(lines))
        if receipt.stamp != self.stamp:
            return judgement("look", [Reason("stamp", "")], len(lines))
        if left := begun.left(kernel):
            return judgement("look", [Reason("left", left)], len(lines))
        return Judgement("fresh", (), len(lines))

    def differences(self, kernel: Kernel, receipt: Receipt) -> list[Reason]:
        """In what a build would now be made from other things than this receipt's; nothing is said of its outputs."""
        return self._commands_and_tools(kernel, receipt) + self._inputs(receipt.inputs.split("\n"))[0]

    def refreshed(self) -> Judge:
        """One that looks at every file again: something was built or generated since."""
        return Judge(self.roots, self.contents.refreshed(), self.toolchain, self.ninja, self.stamp, self.bases)

    def commands(self, kernel: Kernel) -> str:
        """The kernel's build.ninja with roots named, and the sources that are written with it.

        SGLang's name their headers by absolute paths, so that their contents differ from place to place.
        """
        if kernel.ninja not in self._commands:
            texts = (f"{path.rpartition('/')[2]} = {json.dumps(text)}\n" for path, text in kernel.texts.items())
            self._commands[kernel.ninja] = self.roots.text("".join([kernel.ninja, *texts]))
        return self._commands[kernel.ninja]

    def _without_receipt(self, kernel: Kernel) -> Reason:
        if receipts.path_of(kernel).exists():
            return Reason("incomplete", "its receipt is torn, or of another version of fitasks")
        if kernel.library.exists():
            return Reason("incomplete", f"{kernel.library.name} has no receipt")
        if error := failed.remembered(kernel, self):
            return Reason("failed", error)
        if kernel.ninja_file.exists():  # its directory may be there for SGLang's lock alone
            return Reason("incomplete", "its build was begun and not finished")
        if there := elsewhere(kernel, self.bases):
            return Reason("elsewhere", there)
        return Reason("new", "never built")

    def _inputs(self, lines: list[str]) -> tuple[list[Reason], int]:
        """(reasons, newest mtime of the inputs). Lines that held for another kernel aren't looked at again."""
        known = list(map(self._equal.get, lines))  # hundreds of lines of hundreds of kernels
        if None not in known:
            return [], max(filter(None, known), default=0)
        unseen = [line for line in lines if line not in self._equal]
        reasons = [reason for line in unseen if line and (reason := self._input(line))]
        if reasons:
            return reasons, 0
        return [], max(map(self._equal.get, lines, repeat(0)))

    def _input(self, line: str) -> Reason | None:
        digest, blank, relative = line[:64], line[64:65], line[65:]
        if blank != " ":
            return Reason("vanished", f"a file that its receipt can't name ({line!r:.100})")
        state = self.contents.state(self.roots.absolute(relative))
        if state is None:
            if relative.startswith("{CACHE}/generated/"):
                self._equal[line] = 0
                return None  # the planner writes it again; `_timestamps` says so
            return Reason("vanished", relative)
        if state.digest != digest:
            return Reason("changed", relative, digest[:_SHORT], state.digest[:_SHORT])
        self._equal[line] = state.mtime_ns
        return None

    def _commands_and_tools(self, kernel: Kernel, receipt: Receipt) -> list[Reason]:
        reasons = [
            Reason("toolchain", tool, receipt.toolchain.get(tool, "none"), now)
            for tool, now in self.toolchain.items()
            if receipt.toolchain.get(tool) != now
        ]
        now = self.commands(kernel)
        if now != receipt.commands and now != self.roots.text(receipt.commands):  # it may be older than a root
            reasons.append(Reason("command", *_difference(receipt.commands, now)))
        return reasons

    def _library(self, kernel: Kernel, receipt: Receipt) -> list[Reason]:
        name = kernel.library.name
        state = self.contents.state(str(kernel.library))
        if state is None:
            return [Reason("missing", name)]
        recorded = receipt.outputs[name]
        if state.digest == recorded.sha256:
            return []
        if state.size != recorded.size:
            return [Reason("corrupt", name, f"{recorded.size} bytes", f"{state.size} bytes")]
        return [Reason("corrupt", name, recorded.sha256[:_SHORT], state.digest[:_SHORT])]

    def _timestamps(self, kernel: Kernel, receipt: Receipt, newest: int) -> list[Reason]:
        """Why ninja, asked by the server, would compile although nothing differs."""
        reasons = []
        for name, output in receipt.outputs.items():
            if reason := self._output(str(kernel.build_dir / name), name, output):
                reasons.append(reason)
        if sha256_text(kernel.ninja) != receipt.build_ninja:
            reasons.append(Reason("log", "has the same commands with other paths"))
        if self.ninja != receipt.ninja:
            reasons.append(Reason("log", "is another version's", receipt.ninja, self.ninja))
        reasons += [
            Reason("generated", self.roots.relative(str(source)))
            for source in kernel.sources
            if self.contents.state(str(source)) is None
        ]
        if newest > receipt.sealed_ns:
            reasons.append(self._newest(receipt, newest))
        return reasons

    def _output(self, path: str, name: str, output: Output) -> Reason | None:
        """Objects are read only where their timestamps differ: a server never loads them."""
        if name in {LOG, DEPS}:
            return _log(name, output, self.contents.state(path))
        if self.contents.stamp(path) == (output.size, output.mtime_ns):
            return None
        state = self.contents.state(path)
        if state is None:
            return Reason("missing", name)
        if state.digest != output.sha256:
            return Reason("corrupt", name, output.sha256[:_SHORT], state.digest[:_SHORT])
        return Reason("timestamps", name, str(output.mtime_ns), str(state.mtime_ns))

    def _newest(self, receipt: Receipt, newest: int) -> Reason:
        newer = [
            relative
            for relative, digest in receipts.parse_inputs(receipt.inputs)
            if self._equal[f"{digest} {relative}"] > receipt.sealed_ns
        ]
        others = f" and {len(newer) - 1} more" if len(newer) > 1 else ""
        return Reason("timestamps", newer[0] + others, str(receipt.sealed_ns), str(newest))


def _log(name: str, output: Output, state: State | None) -> Reason | None:
    if state is None:
        return Reason("log", f"{name} is lost")
    if state.digest != output.sha256:
        return Reason("log", f"{name} changed", output.sha256[:_SHORT], state.digest[:_SHORT])
    return None


def _difference(old: str, new: str) -> tuple[str, str, str]:
    """(where, old words, new words) of two ninja files: the first statement that differs, word by word."""
    before, after = _statements(old), _statements(new)
    changed = [head for head in {**before, **after} if before.get(head) != after.get(head)]
    if not changed:
        return "build.ninja", "", ""
    ours, theirs = before.get(changed[0], ()), after.get(changed[0], ())
    removed, added = (
        _shortened([word for word in one if word not in other]) for one, other in ((ours, theirs), (theirs, ours))
    )
    where = f"{changed[0]} in build.ninja" + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")
    if not removed and not added:
        return f"{where}, in another order", "", ""
    return where, removed or "nothing", added or "nothing"


def _statements(text: str) -> dict[str, tuple[str, ...]]:
    """The words of each statement of a ninja file, by what it is about: `cuda_cflags`, `link: command`, `page.o`."""
    found: dict[str, tuple[str, ...]] = {}
    rule = ""
    for line in text.replace("$\n", " ").splitlines():
        head, _, value = line.strip().partition(" = ")
        if not line.startswith(" "):
            rule = f"{line[5:].strip()}: " if line.startswith("rule ") else ""
        if line.startswith("build "):
            outputs, _, value = line[6:].partition(": ")
            head = outputs.rpartition("/")[2]
        elif line.startswith("default "):
            head, _, value = line.partition(" ")
        if value:
            found[rule + head] = tuple(value.split())
    return found


def _shortened(words: Sequence[str]) -> str:
    """As many whole words as a line has room for."""
    return " ".join(words) if len(words) <= _WORDS else " ".join([*words[:_WORDS], "…"])
