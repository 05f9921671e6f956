"""`doit report` of a real run: eight kernels cold on a GPU machine of 16 cores, its journal as it was written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.ui.report import last_run
from fitasks.ui.report.chrome_trace import chrome_trace
from fitasks.ui.report.figures import utilisation
from fitasks.ui.report.page import page

if TYPE_CHECKING:
    from fitasks.ui.report import RecordedRun

JOURNAL = Path(__file__).with_name("journal_16_slots.jsonl")


@pytest.fixture(scope="module")
def run() -> RecordedRun:
    return last_run(JOURNAL)


def test_what_it_came_to(run: RecordedRun) -> None:
    used = utilisation(run)
    assert used
    assert (run.slots, len(run.kernels), len(run.spans), used.most) == (16, 8, 42, 15)
    told = f"{used.wall:.1f} s, {used.mean:.1f} at once; bounds {used.even:.1f} and {used.longest.seconds:.1f}"
    assert told == "116.0 s, 12.2 at once; bounds 92.0 and 96.1"
    assert used.longest.output.endswith("ragged_sm90_kernel_mask_0.cuda.o")


def test_where_its_time_went(run: RecordedRun) -> None:
    body = page(run, [], "t").partition("Where the time went")[2].replace("<wbr>", "")
    cells = re.findall(r"(?s)<td[^>]*>(.*?)</td>", body)[7:14]
    assert [re.sub(r"<[^>]*>", "", cell) for cell in cells] == [
        "fa3-fa3-bf16-d128",
        "96.2",
        "877.0",
        "3.7 GB",
        "ragged_sm90_kernel_mask_01 m 36 s, longest of 10 files",
        "3.8 MB",
        "new: never built",
    ]


def test_each_bar_is_where_its_process_was(run: RecordedRun) -> None:
    bars = re.findall(r'<g><rect x="([\d.]+)%" y="(\d+)" width="([\d.]+)%"', page(run, [], "t"))
    length = max(span.end for span in run.spans)
    assert len(bars) == len(run.spans)
    for (x, y, width), span in zip(bars, run.spans, strict=True):
        assert float(x) == pytest.approx(100 * span.begin / length, abs=0.001)
        assert float(width) == pytest.approx(100 * span.seconds / length, abs=0.001)
        assert int(y) // 26 == span.lane


def test_the_trace_has_the_seconds_of_the_journal(run: RecordedRun) -> None:
    lines = [json.loads(line) for line in JOURNAL.read_text().splitlines()]
    files = {(one["label"], one["output"]): one["end"] - one["begin"] for one in lines if one["event"] == "file"}
    told = [event for event in chrome_trace(run)["traceEvents"] if event["ph"] == "X"]
    assert {(one["args"]["kernel"], one["name"]): one["dur"] / 1e6 for one in told} == pytest.approx(files, abs=1e-5)


def test_torn_at_any_byte_it_tells_what_was_written(tmp_path: Path) -> None:
    whole, torn = JOURNAL.read_bytes(), tmp_path / "journal.jsonl"
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole), 61):
        torn.write_bytes(whole[:cut])
        run = last_run(torn)
        assert len(run.spans) == len(re.findall(rb'(?m)^{"event": "file".*}$', whole[:cut]))
        assert page(run, [], "t").endswith("</html>\n")


@pytest.mark.parametrize("at", [10.0**12, 10.0**17, 10.0**300])
def test_a_time_that_no_calendar_has_begins_no_run(tmp_path: Path, run: RecordedRun, at: float) -> None:
    path = tmp_path / "journal.jsonl"
    odd = {"event": "run", "t": at, "version": 1, "slots": 2, "reason": "", "bound": 1.0, "kernels": []}
    path.write_text(JOURNAL.read_text() + json.dumps(odd) + "\n")
    assert last_run(path) == run
