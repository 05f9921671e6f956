"""doit's reporter: one line at the start and one at the end of each kernel, failures as they happen, a summary.

Called from doit's worker threads (`execute_task`) as well as from the main one; the board writes lines one at a time.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import Any

from doit.exceptions import UnmetDependency

from fitasks.base.wording import counted
from fitasks.compile.pool.usage import Usage
from fitasks.processes import sessions
from fitasks.ui.board import Board, board_for
from fitasks.ui.progress import Progress

_ENDINGS = {
    "compiled": "compiled in {seconds:.1f} s",
    "healed": "timestamps put right, nothing compiled",
    "adopted": "adopted, all inputs equal; {seconds:.1f} s of compiling saved",
    "audited": "looked at again, nothing to do",
    "fresh": "already complete",
}


class Reporter:
    """Lines for people; tasks that print themselves (`check`, `why`, `env`) are left alone."""

    desc = "one line per kernel and a summary"

    def __init__(self, outstream: Any, options: dict[str, Any]) -> None:  # noqa: ARG002 - doit's signature
        self._out = outstream
        self.progress = Progress(lambda _label: 0, Usage)
        self._board: Board | None = None
        self._lock = threading.Lock()  # kernels begin in several threads at once
        self._outcomes: Counter[str] = Counter()
        self._failed: list[str] = []  # each with its log
        self._errors: list[str] = []
        self._saved = 0.0  # seconds that adopted kernels once took

    def write(self, text: str) -> None:
        """One whole line, now; above the board, where there is one."""
        self.board.line(text)

    @property
    def board(self) -> Board:
        """Made once, when first needed: by then doit has given us its stream for good."""
        with self._lock:
            if self._board is None:
                self._board = board_for(self._out, self.progress)
            return self._board

    def observe(self, event: dict[str, Any]) -> None:
        """An event of the journal: the first compile brings the board."""
        self.progress.observe(event)
        if event["event"] == "begin" and not sessions.stopping():
            self.board.start()

    def stop(self) -> None:
        """Take the board away, also from within a signal's handler: the lock may be held by whom it interrupts."""
        if self._board:
            self._board.stop()

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        """Before anything runs, in the main thread."""

    def get_status(self, task: Any) -> None:
        """Before a task is judged."""

    def execute_task(self, task: Any) -> None:
        """A kernel says itself what is done to it, and why, once it knows."""

    def add_failure(self, task: Any, fail: Any) -> None:
        """The message at once; a task that has reported itself stays silent.

        A group fails because one of its kernels did, which has been said.
        """
        if isinstance(fail, UnmetDependency):
            if not task.has_subtask and not task.name.startswith(("kernel:", "_")):
                self.write(f"{task.name}: not done, because a kernel failed; `doit -s {task.name}` goes on without it")
            return
        self._count(task, "failed")
        if task.name.startswith("kernel:"):
            self._failed.append(f"{task.name}: {_log(fail.get_msg())}")
        if fail.report:
            self.write(f"{task.name}: FAILED\n{_indent(fail.get_msg().strip())}")

    def add_success(self, task: Any) -> None:
        """How a kernel became right."""
        outcome = (task.values or {}).get("outcome")
        if outcome:
            self._count(task, outcome)
            self._saved += task.values["seconds"] if outcome == "adopted" else 0
            self.write(f"{task.name}: {_ENDINGS[outcome].format(**task.values)}")

    def skip_uptodate(self, task: Any) -> None:
        """Counted, not listed: hundreds of lines that say nothing hide the one that does."""
        if not task.has_subtask:
            self._count(task, "fresh")
            self.progress.untouched += task.name.startswith("kernel:")

    def skip_ignore(self, task: Any) -> None:
        """After `doit ignore`."""
        self.write(f"{task.name}: ignored")

    def cleanup_error(self, exception: Any) -> None:
        """Of doit's own bookkeeping."""
        self._errors.append(exception.get_msg())

    def runtime_error(self, msg: str) -> None:
        """Of doit itself, shown at the end."""
        self._errors.append(msg)

    def teardown_task(self, task: Any) -> None:
        """We have none."""

    def complete_run(self) -> None:
        """The summary, and what doit has to say of itself."""
        self.board.stop()
        if self._failed:
            self.write("\n".join(["failed:", *(f"  {one}" for one in self._failed)]))
        if text := self._stopped() if sessions.stopping() else self._counts():
            self.write(text)
        for error in self._errors:
            self.write(error)

    def _counts(self) -> str:
        """`7 kernels: 5 fresh, 1 compiled, 1 failed`; "" where it wasn't about kernels."""
        order = ("fresh", "adopted", "compiled", "healed", "audited", "failed")
        parts = [f"{self._outcomes[name]} {name}" for name in order if self._outcomes[name]]
        count = self._outcomes.total()
        saved = f"; {self._saved:.0f} s of compiling saved" if self._saved else ""
        return f"{counted(count, 'kernel')}: {', '.join(parts)}{saved}" if parts else ""

    def _stopped(self) -> str:
        return f"stopped: {self.progress.status()}" if self.progress.wanted else ""

    def _count(self, task: Any, outcome: str) -> None:
        if task.name.startswith("kernel:"):
            self._outcomes[outcome] += 1


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _log(message: str) -> str:
    """Where its compilers' words are; where there are none, what the failure begins with."""
    found = re.search(r"(?m)^\s*(log: .+)$", message)
    return found[1] if found else (message.strip().splitlines() or ["no message"])[0]
