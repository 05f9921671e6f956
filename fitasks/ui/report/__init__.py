"""`doit report`: the last run as one HTML page, and as a trace for Chrome's viewer.

journal.jsonl ──model, lanes──▶ RecordedRun ─┬─page, timeline, tables──▶ report.html
receipts ──kernels──▶ KernelInfo ────┴─chrome_trace──▶ report.trace.json
"""

from fitasks.ui.report.kernels import KernelInfo, kernels_on_disk
from fitasks.ui.report.lanes import FileSpan
from fitasks.ui.report.model import KernelRun, RecordedRun, last_run
from fitasks.ui.report.write import report_last_run, write_report

__all__ = [
    "FileSpan",
    "KernelInfo",
    "KernelRun",
    "RecordedRun",
    "kernels_on_disk",
    "last_run",
    "report_last_run",
    "write_report",
]
