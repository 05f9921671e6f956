"""The run in the Trace Event Format, which chrome://tracing, Perfetto and speedscope show.

Complete events ("X") with times in microseconds, and metadata events ("M") that name process and threads; from
"Trace Event Format", the Chromium project's document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitasks.ui.report.lanes import FileSpan
    from fitasks.ui.report.model import KernelRun, Run

_PROCESS = 1


def chrome_trace(run: Run) -> dict[str, Any]:
    """One thread per slot, one event per compiler process; JSON-serialisable."""
    lanes = sorted({span.lane for span in run.spans})
    events = [_metadata("process_name", 0, name="fitasks")]
    for lane in lanes:
        events += [_metadata("thread_name", lane, name=f"slot {lane + 1}")]
        events += [_metadata("thread_sort_index", lane, sort_index=lane)]
    events += [_complete(kernel, span) for kernel in run.kernels for span in kernel.spans]
    about = {"slots": run.slots, "reason": run.reason, "seconds": round(run.seconds, 3), "begun": run.begun}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _metadata(kind: str, lane: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": lane + 1, "args": args}


def _complete(kernel: KernelRun, span: FileSpan) -> dict[str, Any]:
    args = {"kernel": kernel.label, "op": kernel.op, "target": kernel.target, "why": list(kernel.why)}
    return {
        "ph": "X",
        "name": span.output,
        "cat": "link" if span.links else "compile",
        "pid": _PROCESS,
        "tid": span.lane + 1,
        "ts": round(span.begin * 1e6),
        "dur": round(span.seconds * 1e6),
        "args": args,
    }
