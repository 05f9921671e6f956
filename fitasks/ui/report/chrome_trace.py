"""The run in the Trace Event Format, which chrome://tracing, Perfetto and speedscope show.

Complete events ("X") with times in microseconds, and metadata events ("M") that name process and threads; from
"Trace Event Format", the Chromium project's document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitasks.ui.report.lanes import FileSpan
    from fitasks.ui.report.model import KernelRun, RecordedRun

_PROCESS = 1


def chrome_trace(run: RecordedRun) -> dict[str, Any]:
    """One thread per slot, one event per compiler process and slot that it takes; JSON-serialisable."""
    lanes = sorted({lane for span in run.spans for lane in span.lanes})
    events = [_metadata("process_name", 0, name="fitasks")]
    for lane in lanes:
        events += [_metadata("thread_name", lane, name=f"slot {lane + 1}")]
        events += [_metadata("thread_sort_index", lane, sort_index=lane)]
    events += [_complete(kernel, span, lane) for kernel in run.kernels for span in kernel.spans for lane in span.lanes]
    about = {"slots": run.slots, "reason": run.reason, "seconds": round(run.seconds, 3), "begun": run.begun}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _metadata(kind: str, lane: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": _PROCESS, "tid": lane + 1, "args": args}


def _complete(kernel: KernelRun, span: FileSpan, lane: int) -> dict[str, Any]:
    args = {"kernel": kernel.label, "op": kernel.op, "target": kernel.target, "why": list(kernel.why)}
    facts = {"status": (span.status, 0), "threads": (span.threads, 1)}
    more = {"cname": "terrible"} if span.status else {}  # red, in the viewer's palette
    return more | {
        "ph": "X",
        "name": span.output,
        "cat": "link" if span.links else "compile",
        "pid": _PROCESS,
        "tid": lane + 1,
        "ts": round(span.begin * 1e6),
        "dur": round(span.seconds * 1e6),
        "args": args | {name: value for name, (value, usual) in facts.items() if value != usual},
    }
