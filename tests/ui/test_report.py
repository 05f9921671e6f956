"""`doit report`: the journal read back, the page and the trace that are made of it."""

from __future__ import annotations

import itertools
import json
import os
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitasks.base.errors import FitasksError
from fitasks.compile.journal import Journal
from fitasks.ui.report import FileSpan, KernelInfo, RecordedRun, last_run, write_report
from fitasks.ui.report.chrome_trace import chrome_trace
from fitasks.ui.report.figures import Sized, family_sizes, kernel_sizes, short_names, utilisation
from fitasks.ui.report.html import clock
from fitasks.ui.report.lanes import SLACK, assign_lanes
from fitasks.ui.report.page import page

if TYPE_CHECKING:
    from pathlib import Path

T = 1_795_440_000.0
VOID = {"meta", "rect", "line", "wbr"}  # elements without an end, or that end themselves


def start(*labels: str, t: float = T, slots: int = 2) -> dict[str, Any]:
    kernels = [{"label": label, "files": 2, "cpu_seconds": 9.0, "learnt": True} for label in labels]
    return {"event": "run", "t": t, "version": 1, "slots": slots, "reason": "2 cores", "bound": 9.5, "kernels": kernels}


def begin(label: str, at: float, *why: str, op: str = "op") -> dict[str, Any]:
    facts = {"label": label, "op": op, "target": "9.0a", "files": 2, "why": list(why) or ["new: never built"]}
    return {"event": "begin", "t": T + at} | facts


def file(label: str, output: str, first: float, last: float, told: float = 100.0) -> dict[str, Any]:
    return {"event": "file", "t": T + told, "begin": T + first, "end": T + last, "label": label, "output": output}


def end(label: str, at: float, outcome: str = "compiled", **more: Any) -> dict[str, Any]:
    return {"event": "end", "t": T + at, "label": label, "outcome": outcome, "error": ""} | more


def built(label: str, at: float, **more: Any) -> dict[str, Any]:
    return end(label, at, **{"seconds": 20.0, "cpu_seconds": 18.0, "peak_rss": 500_000_000, "bytes": 600_000} | more)


RUN = (
    start("page", "rope", "norm", "late"),
    end("cascade", 0.1, "adopted", seconds=9.8, bytes=200_000, cpu_seconds=9.0, peak_rss=1),
    begin("page", 1.0),
    begin("rope", 1.0, "utils.cuh changed (aa → bb)", op="rotary"),
    file("page", "csrc_page.cuda.o", 1.0, 11.0),
    file("page", "csrc_page_binding.cuda.o", 11.0, 20.9),
    file("page", "page.so", 20.9, 21.0),
    built("page", 21.0),
    file("rope", "csrc_rope.cuda.o", 1.0, 31.0),
    built("rope", 31.0, seconds=30.0, cpu_seconds=30.0, peak_rss=600_000_000, bytes=900_000),
    begin("norm", 22.0),
    end("norm", 40.0, "failed", error="norm: a.cu(3): error: no <b>\n  log: norm.log"),
)
INFOS = (
    KernelInfo("page", "page", "9.0a", fresh=True, bytes=600_000, threads=4),
    KernelInfo("prefill", "rotary", "9.0a", fresh=True, bytes=100_000),
    KernelInfo("old", "page", "9.0a", fresh=False),
)


def read(directory: Path, *events: dict[str, Any] | str) -> RecordedRun:
    journal = directory / "journal.jsonl"
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return last_run(journal)


@pytest.fixture
def run(tmp_path: Path) -> RecordedRun:
    return read(tmp_path, *RUN)


def words(document: str) -> str:
    """What a reader sees: without style, title elements and tags, each white space once."""
    body = re.sub(r"(?s)<(style|title)>.*?</\1>", "", document.partition("<body>")[2])
    return " ".join(re.sub(r"<[^>]*>", " ", body.replace("<wbr>", "")).split())


class Elements(HTMLParser):
    """Every element with its attributes; balanced, or an assertion fails."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_a_run_was(run: RecordedRun) -> None:
    outcomes = {kernel.label: (kernel.outcome, kernel.wall) for kernel in run.kernels}
    assert outcomes == {
        "page": ("compiled", 20.0),
        "rope": ("compiled", 30.0),
        "norm": ("failed", 18.0),
        "late": ("not begun", 0.0),
        "cascade": ("adopted", 9.8),
    }
    rope = next(kernel for kernel in run.kernels if kernel.label == "rope")
    assert (rope.op, rope.why, rope.peak_rss) == ("rotary", ("utils.cuh changed (aa → bb)",), 600_000_000)
    assert rope.spans == (FileSpan("rope", "csrc_rope.cuda.o", 1.0, 31.0, lane=1),)
    assert (run.begun, run.slots, run.seconds) == (T, 2, 100.0)


@pytest.mark.parametrize("there", ["pipe", "/dev/zero"])
def test_a_journal_that_is_no_file_is_none(tmp_path: Path, there: str) -> None:
    journal = tmp_path / "journal.jsonl"
    if there == "pipe":
        os.mkfifo(journal)
    else:
        journal.symlink_to(there)
    with pytest.raises(FitasksError, match="tells of no run"):
        last_run(journal)


def test_the_journal_is_read_as_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("run", version=1, slots=3, reason="jobs: 3", bound=1.0, kernels=[])
    journal.write("end", label="page", outcome="healed", seconds=0.0, bytes=5, error="")
    run = last_run(tmp_path / "journal.jsonl")
    assert (run.slots, run.reason, run.kernels[0].outcome, run.kernels[0].bytes) == (3, "jobs: 3", "healed", 5)


def test_the_last_of_several_runs(tmp_path: Path) -> None:
    second = [start("gdn", t=T + 500, slots=7), begin("gdn", 501)]
    run = read(tmp_path, *RUN, *second)
    assert (run.slots, [kernel.label for kernel in run.kernels]) == (7, ["gdn"])
    assert run.kernels[0].outcome == "unfinished"


FOREIGN = [
    '{"event": "file", "label": "pa',
    "",
    "null",
    "[" * 100_000,
    "\x00\udcff",
    '{"event": "run"}',
    '{"event": "lunch", "t": 1}',
    '{"event": ["end"]}',
    json.dumps(end("page", 3) | {"seconds": float("nan")}),
    json.dumps(end("page", 3) | {"t": 10**400}),
    json.dumps(end("page", 3) | {"label": 7}),
    json.dumps(begin("page", 3) | {"why": None}),
    json.dumps(file("page", "x.o", 9.0, 3.0)),
    json.dumps(file("page", "x.o", -3600.0, 3.0)),
    json.dumps(file("page", "x.o", 50.0, 150.0)),  # ends after it was told
]


@pytest.mark.parametrize("line", FOREIGN)
def test_torn_and_foreign_lines_are_skipped(tmp_path: Path, line: str, run: RecordedRun) -> None:
    for place in (1, 6, len(RUN)):
        assert read(tmp_path, *RUN[:place], line, *RUN[place:]) == run


def test_a_torn_end_leaves_the_rest(tmp_path: Path, run: RecordedRun) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes((tmp_path / "journal.jsonl").read_bytes()[:-30])
    assert [kernel for kernel in last_run(torn).kernels if kernel.label != "norm"] == [
        kernel for kernel in run.kernels if kernel.label != "norm"
    ]
    assert next(kernel for kernel in last_run(torn).kernels if kernel.label == "norm").outcome == "unfinished"


@pytest.mark.parametrize("text", [None, "", "\n", "nonsense\n", json.dumps(RUN[2]) + "\n"])
def test_no_run(tmp_path: Path, text: str | None) -> None:
    journal = tmp_path / "journal.jsonl"
    if text is not None:
        journal.write_text(text)
    with pytest.raises(FitasksError) as error:
        last_run(journal)
    assert str(error.value) == f"{journal} tells of no run\n  remedy: run doit first"


def test_files_of_an_earlier_ninja_count_once(tmp_path: Path) -> None:
    """A ninja that goes on where another was killed has both in its log, and both are told at its own times."""
    twice = [
        file("page", "a.o", 1.0, 11.0, told=15.0),
        file("page", "a.o", 20.0, 30.0, told=60.0),
        file("page", "b.o", 20.0, 55.0, told=60.0),
    ]
    run = read(tmp_path, start("page"), begin("page", 1.0), *twice)
    assert [(span.output, span.begin, span.end) for span in run.spans] == [("a.o", 1.0, 11.0), ("b.o", 20.0, 55.0)]


moments = st.integers(0, 3000).map(lambda value: value / 10)


def span(label: str, begin: float, seconds: float, slots: int) -> FileSpan:
    return FileSpan(label, "x.o", begin, begin + seconds, slots=slots)


lengths = st.one_of(st.just(0.0), st.floats(0, 200))
spans = st.lists(st.builds(span, st.sampled_from("abcd"), moments, lengths, st.just(1)))
wide_spans = st.lists(st.builds(span, st.sampled_from("abcd"), moments, lengths, st.integers(1, 4)))


def times(span: FileSpan) -> tuple[str, float, float]:
    return span.label, span.begin, span.end


@given(wide_spans, st.integers(0, 6))
def test_lanes_never_overlap(found: list[FileSpan], slots: int) -> None:
    placed = assign_lanes(found, slots)
    assert len(placed) == len(found)
    assert all(len(set(span.lanes)) == span.slots for span in placed)
    for lane in {lane for span in placed for lane in span.lanes}:
        own = [span for span in placed if lane in span.lanes]
        assert all(one.end <= two.begin for one, two in itertools.pairwise(own))
    assert all(span.begin <= span.end for span in placed)


@given(spans)
def test_no_more_lanes_than_compilers_at_once(found: list[FileSpan]) -> None:
    found = [span for span in found if span.seconds]
    placed = assign_lanes(found, 0)
    most = max((sum(one.begin <= at.begin < one.end for one in found) for at in found), default=0)
    assert len({span.lane for span in placed}) == most
    assert sorted(map(times, placed)) == sorted(map(times, found))


def test_a_ninja_that_started_slowly_opens_no_further_lane() -> None:
    apart = [FileSpan("a", "x.o", 0.0, 10.0), FileSpan("b", "y.o", 10.0 - SLACK / 2, 20.0)]
    assert [(span.lane, span.begin) for span in assign_lanes(apart, 1)] == [(0, 0.0), (0, 10.0)]
    assert [span.lane for span in assign_lanes(apart, 2)] == [0, 1]
    for other in (FileSpan("b", "y.o", 9.5, 20.0), FileSpan("b", "y.o", 9.97, 9.99)):  # too early; over before
        assert [(span.lane, span.begin) for span in assign_lanes([apart[0], other], 1)] == [(0, 0.0), (1, other.begin)]


def test_a_split_file_has_as_many_lanes_as_slots() -> None:
    found = [
        FileSpan("a", "1.o", 0.0, 10.0),
        FileSpan("b", "1.o", 0.0, 20.0),
        FileSpan("c", "1.o", 10.0, 19.0, slots=2),
    ]
    assert [span.lanes for span in assign_lanes(found, 3)] == [(0,), (1,), (0, 2)]


def test_a_kernel_keeps_its_lane() -> None:
    found = [
        FileSpan("a", "1.o", 0.0, 10.0),
        FileSpan("b", "1.o", 0.0, 10.0),
        FileSpan("b", "2.o", 10.0, 19.0),
        FileSpan("a", "2.o", 10.0, 19.0),
    ]
    assert [(span.label, span.lane) for span in assign_lanes(found, 2)] == [("a", 0), ("b", 1), ("a", 0), ("b", 1)]


def test_figures(run: RecordedRun) -> None:
    used = utilisation(run)
    assert used
    assert (used.wall, used.busy, used.cpu_seconds, used.even, used.bound, used.most) == (
        30.0,
        50.0,
        48.0,
        24.0,
        30.0,
        2,
    )
    assert kernel_sizes(run, INFOS) == [
        Sized("rope", 900_000),
        Sized("page", 600_000),
        Sized("cascade", 200_000),
        Sized("prefill", 100_000),
    ]
    assert family_sizes(run, INFOS) == [
        Sized("rotary", 1_000_000, 2),
        Sized("page", 600_000),
        Sized("cascade", 200_000),
    ]


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (["csrc_sampling.cuda.o", "csrc_renorm.cuda.o", "sampling.so"], ["sampling", "renorm", "link"]),
        (["m_kernel_mask_0.cuda.o", "m_kernel_mask_1.cuda.o"], ["mask_0", "mask_1"]),
        (["0_1.o", "0_2.o"], ["0_1", "0_2"]),
        (["csrc_page.cuda.o", "page.so"], ["csrc_page", "link"]),
        (["a.o", "b.cuda.o"], ["a", "b"]),
    ],
)
def test_short_names_of_files(tmp_path: Path, outputs: list[str], names: list[str]) -> None:
    (kernel,) = read(tmp_path, start("k"), *(file("k", output, 1, 2) for output in outputs)).kernels
    assert short_names(kernel) == dict(zip(outputs, names, strict=True))


STOPPED = (
    start("page", "rope", "norm", slots=3),
    begin("page", 1.0),
    begin("rope", 1.0),
    file("page", "csrc_page.cuda.o", 1.0, 11.0) | {"status": 2, "cpu_seconds": 9.0},
    file("page", "csrc_page_binding.cuda.o", 1.0, 5.0) | {"status": 0, "cpu_seconds": 3.5, "threads": 1, "slots": 1},
    end("page", 11.5, "failed", error="page: a.cu(3): error"),
    file("rope", "csrc_rope.cuda.o", 2.0, 20.0) | {"status": -15, "cpu_seconds": 30.0, "threads": 4, "slots": 2},
    end("rope", 20.0, "stopped"),
    end("norm", 20.0, "stopped"),
)


def test_what_failed_or_was_stopped_is_shown(tmp_path: Path) -> None:
    run = read(tmp_path, *STOPPED)
    document = page(run, (), "t")
    Elements(document)
    said = words(document)
    for part in (
        "3 kernels: 1 failed, 2 stopped",
        "Failed page a.cu(3): error",
        "CPU time 42 s of all compilers",
        "rope stopped 19.0 30.0 &ndash; csrc_rope 18 s optimised by 4 threads &ndash; new: never built",
        "page failed 10.5 12.5 ",
        "norm stopped: stopped with the run; the next one goes on",
        "Those with a red edge failed or were ended.",
    ):
        assert part in said
    bars = re.findall(r'(?s)<g class="failed">(.*?)</g>', document)
    assert [(bar.count("<rect"), bar.partition("<title>")[2].split("\n")[1:3]) for bar in bars] == [
        (1, ["csrc_page.cuda.o", "failed, exit status 2"]),
        (2, ["csrc_rope.cuda.o", "ended by SIGTERM"]),
    ]
    used = utilisation(run)
    assert used
    assert (used.busy, used.most) == (10.0 + 4.0 + 2 * 18.0, 4)


def test_what_failed_is_marked_in_the_trace(tmp_path: Path) -> None:
    events = [event for event in chrome_trace(read(tmp_path, *STOPPED))["traceEvents"] if event["ph"] == "X"]
    facts = [(one["name"], one.get("cname"), one["args"].get("status"), one["args"].get("threads")) for one in events]
    rope = ("csrc_rope.cuda.o", "terrible", -15, 4)
    page_cu, binding = ("csrc_page.cuda.o", "terrible", 2, None), ("csrc_page_binding.cuda.o", None, None, None)
    assert sorted(facts) == sorted([page_cu, binding, rope, rope])


@pytest.mark.parametrize(
    "odd",
    [{"slots": 0}, {"slots": 10**9}, {"threads": -1}, {"status": "2"}, {"status": 10**400}, {"cpu_seconds": None}],
)
def test_absurd_facts_of_a_file_make_its_line_foreign(tmp_path: Path, run: RecordedRun, odd: dict[str, Any]) -> None:
    assert read(tmp_path, *RUN, file("page", "x.o", 1.0, 2.0) | odd) == run


def test_the_page_says_it_all(run: RecordedRun) -> None:
    document = page(run, INFOS, "report.trace.json")
    Elements(document)
    said = words(document)
    for part in (
        "7 kernels: 2 compiled, 1 failed, 1 not begun, 1 adopted, 1 fresh, 1 stale",
        "The last run of fitasks, 2026-11-23 13:20 UTC. 2 cores.",
        "Failed norm a.cu(3): error: no &lt;b&gt; log: norm.log",
        "compilers at once 1.67 of 2, on average",
        "rope 30.0 30.0 600 MB csrc_rope 30 s 900 kB utils.cuh changed (aa → bb)",
        "page 20.0 18.0 500 MB page 10 s, longest of 2 files optimised by 4 threads 600 kB new: never built",
        "norm failed 18.0 &ndash; &ndash; &ndash; &ndash; new: never built",
        "1.67 of 2 slots were busy on average, 2 at most. Compiling took 1.00 times the larger of its two bounds; 9.5 s",
        "first compiler to last 30.0 bound: CPU seconds over 2 slots 24.0 bound: longest file, csrc_rope of rope 30.0",
        "rotary 2 1.0 MB",
        "cascade adopted: taken from the store, where it was compiled before from equal inputs; saved 9.8 s",
        "prefill fresh: nothing to do",
        "chrome://tracing or Perfetto: report.trace.json",
    ):
        assert part in said


def test_what_is_the_same_is_said_once(tmp_path: Path) -> None:
    """A kernel whose file has its name, and families of one kernel each."""
    alone = (start("page"), begin("page", 1.0, op="page"), file("page", "csrc_page.cuda.o", 1.0, 11.0))
    also = file("page", "csrc_page_binding.cuda.o", 11.0, 20.9)
    said = words(page(read(tmp_path, *alone, also, built("page", 21.0)), (), "t"))
    assert "bound: longest file, page 10.0" in said
    assert "kernel size page 600 kB" in said
    assert "family" not in said


def test_every_process_has_a_tooltip(run: RecordedRun) -> None:
    titles = re.findall(r"(?s)<title>(.*?)</title>", page(run, (), "t"))[1:]
    assert sorted(title.split("\n")[1] for title in titles) == sorted(span.output for span in run.spans)
    assert "rope\ncsrc_rope.cuda.o\n0:01 to 0:31, 30 s\nutils.cuh changed (aa → bb)" in titles


def test_a_run_that_compiled_nothing(tmp_path: Path) -> None:
    document = page(read(tmp_path, start(), end("page", 0.1, "audited", bytes=5, seconds=0.0)), (), "t")
    Elements(document)
    assert "1 kernel: 1 audited" in words(document)
    assert "Nothing was compiled in this run." in words(document)
    assert "Timeline" not in document


def test_a_run_of_nothing(tmp_path: Path) -> None:
    assert "<h1>No kernels</h1>" in page(read(tmp_path, start()), (), "t")


def test_reasons_beyond_three_are_folded_away(tmp_path: Path) -> None:
    run = read(tmp_path, start("k"), begin("k", 1, *(f"h{n}.cuh changed" for n in range(9))))
    folded = page(run, (), "t").partition("<details>")[2].partition("</details>")[0]
    assert folded.startswith("<summary>and 6 more</summary>")
    assert folded.count("<li>") == 6


def test_hundreds_of_kernels_on_many_slots(tmp_path: Path) -> None:
    labels = [f"kernel-{n}" for n in range(200)]
    events = [file(label, "x.o", n % 5 * 10, n % 5 * 10 + 9) for n, label in enumerate(labels)]
    document = page(read(tmp_path, start(slots=40), *events), (), "t")
    Elements(document)
    assert document.count("<title>") == 201
    assert "<summary>200 kernels</summary>" in document


NASTY = [
    "</title><script>alert(1)</script>",
    '"><img src="http://example.com/x.png" onerror=alert(1)>',
    "' onload='alert(1)",
    "</style></svg><iframe src=//example.com>",
    "a&lt;b & ${c} {d} %s",
    "\ud800\x00\x1b[31m\u202e",
    "<!--",
    "]]>",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_nasty_names_are_only_text(tmp_path: Path, nasty: str) -> None:
    def events(name: str) -> list[dict[str, Any]]:
        head = start(name, "failing") | {"reason": name}
        failing = [begin("failing", 2), file("failing", "x.o", 2, 3), end("failing", 5, "failed", error=name)]
        done = [begin(name, 1, name, op=name), file(name, name, 1, 99), file(name, f"{name}.so", 99, 100)]
        return [head, *done, built(name, 100), *failing, end(f"{name}2", 5, name)]

    def elements(name: str) -> list[tuple[str, list[str]]]:
        infos = [KernelInfo(name, name, name, fresh=True, bytes=5)]
        found = Elements(page(read(tmp_path, *events(name)), infos, name)).found
        # where a bar has room for a name depends on the name
        return [(tag, sorted(attrs)) for tag, attrs in found if tag not in {"wbr", "text"}]

    assert elements(nasty) == elements("harmless")
    written(tmp_path, last_run(tmp_path / "journal.jsonl"))


def written(directory: Path, run: RecordedRun) -> tuple[str, dict[str, Any]]:
    html_path, trace_path = directory / "out" / "report.html", directory / "out" / "report.trace.json"
    write_report(run, INFOS, html_path, trace_path)
    assert sorted(path.name for path in html_path.parent.iterdir()) == ["report.html", "report.trace.json"]
    return html_path.read_text(encoding="utf-8"), json.loads(trace_path.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(tmp_path: Path, run: RecordedRun) -> None:
    document, _ = written(tmp_path, run)
    assert not re.findall(r"https?://|url\(|@import|<script|<link|<img|<iframe", document)
    assert all(not set(attrs) & {"src", "href", "xlink:href"} for _, attrs in Elements(document).found)
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in document
    assert "prefers-color-scheme: dark" in document


def test_the_trace_has_every_process_where_it_was(tmp_path: Path, run: RecordedRun) -> None:
    _, trace = written(tmp_path, run)
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [(event["name"], event["tid"], event["ts"], event["dur"]) for event in complete] == [
        (span.output, span.lane + 1, round(span.begin * 1e6), round(span.seconds * 1e6)) for span in run.spans
    ]
    assert sum(event["dur"] for event in complete) == 50_000_000
    names = {(event["name"], event["tid"]): event["args"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert names["thread_name", 1] == {"name": "slot 1"}
    assert names["thread_name", 2] == {"name": "slot 2"}
    assert ("thread_name", 3) not in names
    rope = next(event for event in complete if event["args"]["kernel"] == "rope")
    assert rope["args"] == {"kernel": "rope", "op": "rotary", "target": "9.0a", "why": ["utils.cuh changed (aa → bb)"]}
    assert {event["cat"] for event in complete if event["name"].endswith(".so")} == {"link"}


def test_an_empty_trace_is_one_too(tmp_path: Path) -> None:
    assert [event["ph"] for event in chrome_trace(read(tmp_path, start()))["traceEvents"]] == ["M"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0:00"), (65, "1:05"), (3599.6, "1:00:00"), (3725, "1:02:05"), (86400, "24:00:00")]
)
def test_times_on_the_axis(value: float, shown: str) -> None:
    assert clock(value) == shown
