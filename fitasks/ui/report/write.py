"""The two files of a report."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from fitasks.base.files import replacing
from fitasks.compile import journal as journals
from fitasks.ui.report.chrome_trace import chrome_trace
from fitasks.ui.report.model import last_run
from fitasks.ui.report.page import page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from fitasks.ui.report.kernels import KernelInfo
    from fitasks.ui.report.model import RecordedRun


def report_last_run(
    state: Path, known: Sequence[KernelInfo], labels: Collection[str] | None = None
) -> tuple[Path, Path]:
    """Write report.html and report.trace.json into a project's `state`, of the kernels of these labels or of all.

    Raises FitasksError where nothing ran.
    """
    html_path, trace_path = state / "report.html", state / "report.trace.json"
    run = last_run(state / journals.NAME)
    if labels is not None:
        run = replace(run, kernels=tuple(kernel for kernel in run.kernels if kernel.label in labels))
        known = tuple(kernel for kernel in known if kernel.label in labels)
    write_report(run, known, html_path, trace_path)
    return html_path, trace_path


def write_report(run: RecordedRun, kernels_info: Iterable[KernelInfo], html_path: Path, trace_path: Path) -> None:
    """Write the page and the trace: both, or neither where one can't be. Raises OSError, which names that file."""
    trace = json.dumps(chrome_trace(run)) + "\n"
    with contextlib.ExitStack() as both:  # they replace what was there at its end, after all that may fail
        for path, text in ((trace_path, trace), (html_path, page(run, tuple(kernels_info), trace_path.name))):
            stream = both.enter_context(replacing(path, sync=False))
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
