"""`doit --reporter json`: doit's own object on standard output, always whole; on standard error, what goes on."""

from __future__ import annotations

import sys
from typing import Any

from doit import reporter

from fitasks.base.streams import Enduring
from fitasks.ui.aside import Aside


class JsonReporter(reporter.JsonReporter):  # type: ignore[misc]  # doit has no types
    """What the run says goes into the object's `out`, like all that is printed meanwhile; and is heard at once."""

    def __init__(self, outstream: Any, options: Any = None) -> None:
        stderr = sys.stderr
        super().__init__(Enduring(outstream), options)  # which puts buffers in place of both streams
        self._said = sys.stdout
        self._begun: set[str] = set()
        self._aside = Aside(stderr)
        self.progress, self.observe = self._aside.progress, self._aside.observe

    def write(self, text: str) -> None:
        """One line; into the buffer also when a thread is late and the streams are back in place."""
        self._said.write(f"{text}\n")
        self._aside.write(text)

    def stop(self) -> None:
        """No more heartbeats."""
        self._aside.stop()

    def execute_task(self, task: Any) -> None:
        """Called by the thread that does it."""
        self._begun.add(task.name)
        super().execute_task(task)

    def complete_run(self) -> None:
        """Write the object, as far as it can be; a signal may have come before every task had its result."""
        self._aside.stop()
        for name, one in self.t_results.items():
            if one.result is None:
                one.set_result(*(("fail", "stopped before it was done") if name in self._begun else (None,)))
        super().complete_run()
        self.outstream.flush()
        self.outstream.complain("the object isn't whole")
