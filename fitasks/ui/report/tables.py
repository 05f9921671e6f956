"""The sections of the page that are words and numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fitasks.base.wording import counted
from fitasks.ui.report.figures import family_sizes, kernel_sizes, short_names
from fitasks.ui.report.html import bar, path, seconds, section, table, text
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.ui.report.figures import Sized, Utilisation
    from fitasks.ui.report.html import Cell
    from fitasks.ui.report.kernels import KernelInfo
    from fitasks.ui.report.lanes import FileSpan
    from fitasks.ui.report.model import KernelRun, RecordedRun

_UNKNOWN = "&ndash;"
_MEANING = {
    "compiled": "compiled",
    "failed": "failed",
    "stopped": "stopped with the run; the next one goes on",
    "unfinished": "begun, and no end is known",
    "not begun": "stale, and not reached in this run",
    "adopted": "taken from the store, where it was compiled before from equal inputs",
    "healed": "contents proven equal; timestamps put right",
    "audited": "the toolchain's stamp changed, nothing of this kernel did",
    "fresh": "nothing to do",
    "stale": "not asked for in this run, and to be compiled now",
}


def outcomes(run: RecordedRun, infos: Sequence[KernelInfo]) -> dict[str, str]:
    """Label → outcome, of the run's kernels and of those that it had no need to touch."""
    untouched = {info.label: "fresh" if info.fresh else "stale" for info in infos}
    return {kernel.label: kernel.outcome for kernel in run.kernels} | {
        label: outcome for label, outcome in untouched.items() if label not in {one.label for one in run.kernels}
    }


def summary(run: RecordedRun, infos: Sequence[KernelInfo]) -> str:
    """`7 kernels: 5 compiled, 1 failed, 1 fresh`."""
    found = outcomes(run, infos)
    counts = Counter(found.values())
    order = [*_MEANING, *sorted(set(counts) - set(_MEANING))]
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in order if counts[outcome])
    return f"{counted(len(found), 'kernel')}: {said}" if found else "No kernels"


def failures(run: RecordedRun) -> str:
    """What went wrong, first of all; "" where nothing did."""
    failed = [kernel for kernel in run.kernels if kernel.outcome == "failed"]
    parts = [
        f'<article class="failure"><h3>{text(kernel.label)}</h3>\n<pre>{text(_message(kernel))}</pre></article>'
        for kernel in failed
    ]
    return section("Failed", *parts) if parts else ""


def _message(kernel: KernelRun) -> str:
    return kernel.error.removeprefix(f"{kernel.label}: ") or "no message"


def figures(run: RecordedRun, infos: Sequence[KernelInfo], used: Utilisation | None) -> str:
    """The few numbers that most readers came for."""
    peak = max((kernel.peak_rss for kernel in run.kernels if kernel.worked), default=0)
    sizes = kernel_sizes(run, infos)
    pairs = [("whole run", seconds(run.seconds), "")]
    if used:
        pairs.append(("compilers at once", f"{used.mean:.3g}", f"of {used.slots}, on average"))
        known = all(kernel.cpu_seconds for kernel in run.kernels if kernel.worked)
        whose = "of all compilers" if known else "of the finished kernels"
        pairs.append(("CPU time", seconds(used.cpu_seconds), whose))
    if peak:
        pairs.append(("peak memory", size(peak), "of one compiler"))
    if sizes:
        pairs.append(("on disk", size(sum(one.bytes for one in sizes)), f"in {len(sizes)} libraries"))
    items = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>" for name, value, more in pairs)
    return f'<dl class="figures">{items}</dl>'


def time_table(run: RecordedRun, infos: Sequence[KernelInfo], colours: Mapping[str, str]) -> str:
    """Where the time went: a row for each kernel that compilers worked on, longest first."""
    worked = sorted((kernel for kernel in run.kernels if kernel.worked), key=lambda one: one.wall, reverse=True)
    if not worked:
        return section("Where the time went", "<p>Nothing was compiled in this run.</p>")
    threads = {info.label: info.threads for info in infos}
    heads = [("name", "kernel"), ("num", "seconds"), ("num", "CPU seconds"), ("num", "peak memory")]
    heads += [("file", "longest file"), ("num", "size"), ("why", "reason")]
    rows = [_time_row(kernel, _threads(kernel, threads), colours) for kernel in worked]
    return section("Where the time went", table(heads, rows, "wide"))


def _threads(kernel: KernelRun, known: Mapping[str, int]) -> int:
    """By receipt, or as the journal tells of one that has none."""
    return max([known.get(kernel.label, 1), *(span.threads for span in kernel.spans)])


def _time_row(kernel: KernelRun, threads: int, colours: Mapping[str, str]) -> list[Cell]:
    split = f"<small>optimised by {threads} threads</small>" if threads > 1 else ""
    state = f"<small>{text(kernel.outcome)}</small>" if kernel.outcome != "compiled" else ""
    return [
        ("name", f"<div><i{colours.get(kernel.label, '')}></i><b>{path(kernel.label)}{state}</b></div>"),
        ("num", f"{kernel.wall:,.1f}"),
        ("num", f"{kernel.cpu_seconds:,.1f}" if kernel.cpu_seconds else _UNKNOWN),
        ("num", size(kernel.peak_rss) if kernel.peak_rss else _UNKNOWN),
        ("file", _longest(kernel) + split),
        ("num", size(kernel.bytes) if kernel.bytes else _UNKNOWN),
        ("why", _reasons(kernel.why)),
    ]


def _longest(kernel: KernelRun) -> str:
    if not (longest := kernel.longest):
        return _UNKNOWN
    compiled = sum(not span.links for span in kernel.spans)
    count = f", longest of {compiled} files" if compiled > 1 else ""
    return f"{_file(kernel, longest)}<small>{seconds(longest.seconds)}{count}</small>"


def _file(kernel: KernelRun, span: FileSpan) -> str:
    return f'<span title="{text(span.output)}">{path(short_names(kernel)[span.output])}</span>'


def _of_kernel(kernel: KernelRun, span: FileSpan) -> str:
    """The file and its kernel; once where both have one name."""
    file = _file(kernel, span)
    return file if short_names(kernel)[span.output] == kernel.label else f"{file} of {text(kernel.label)}"


def _reasons(why: tuple[str, ...]) -> str:
    """The first three; the others where the reader asks for them."""
    if not why:
        return _UNKNOWN
    first, rest = (
        f"<ul>{''.join(f'<li>{path(reason)}</li>' for reason in some)}</ul>" if some else ""
        for some in (why[:3], why[3:])
    )
    return first + (f"<details><summary>and {len(why) - 3} more</summary>{rest}</details>" if rest else "")


def utilisation_table(used: Utilisation, run: RecordedRun) -> str:
    """The time that compiling took beside the two bounds that no order of work beats."""
    most = max(used.wall, used.bound) or 1.0
    kernel = next(kernel for kernel in run.kernels if kernel.label == used.longest.label)
    what = [
        ("first compiler to last", used.wall),
        (f"bound: CPU seconds over {used.slots} slots", used.even),
        (f"bound: longest file, {_of_kernel(kernel, used.longest)}", used.longest.seconds),
    ]
    rows: list[list[Cell]] = [
        [("", name), ("num", f"{value:,.1f}"), ("bars", bar(value / most))] for name, value in what
    ]
    heads = [("", "time"), ("num", "seconds"), ("bars", "")]
    ratio = f"Compiling took {used.wall / used.bound:.2f} times the larger of its two bounds" if used.bound else ""
    busy = f"{used.mean:.3g} of {used.slots} slots were busy on average, {used.most} at most"
    told = f"; {seconds(run.expected or run.bound)} were foretold when it began" if run.bound else ""
    said = f"<p>{'. '.join(part for part in (busy, ratio) if part)}{told}.</p>"
    return section("Utilisation", said, table(heads, rows))


def sizes(run: RecordedRun, infos: Sequence[KernelInfo], colours: Mapping[str, str]) -> str:
    """By kernel and by family; "" where nothing is on disk."""
    kernels = kernel_sizes(run, infos)
    if not kernels:
        return ""
    by_kernel, families = _size_table("kernel", kernels, colours, count=False), family_sizes(run, infos)
    if len(families) == len(kernels):  # one kernel each: the same table twice
        return section("Sizes", by_kernel)
    by_family = _size_table("family", families, {}, count=True)
    return section("Sizes", f'<div class="pair"><div>{by_kernel}</div><div>{by_family}</div></div>')


def _size_table(title: str, found: Sequence[Sized], colours: Mapping[str, str], *, count: bool) -> str:
    most = max(one.bytes for one in found)
    heads = [("name", title), *([("num", "kernels")] if count else []), ("num", "size"), ("bars", "")]
    rows: list[list[Cell]] = []
    for one in found:
        number: list[Cell] = [("num", str(one.kernels))] if count else []
        drawn = bar(one.bytes / most, colours.get(one.name, ""))
        rows.append([("name", path(one.name)), *number, ("num", size(one.bytes)), ("bars", drawn)])
    return table(heads, rows)


def others(run: RecordedRun, infos: Sequence[KernelInfo]) -> str:
    """What became of the kernels on which no compiler worked; "" where there are none."""
    known = {kernel.label: kernel for kernel in run.kernels}
    found = {label: outcome for label, outcome in outcomes(run, infos).items() if not _shown(known.get(label))}
    rows = [[("name", path(label)), ("", _told(outcome, known.get(label)))] for label, outcome in found.items()]
    return section("Not compiled", table([("name", "kernel"), ("", "what became of it")], rows)) if rows else ""


def _shown(kernel: KernelRun | None) -> bool:
    return kernel is not None and (kernel.worked or kernel.outcome == "failed")


def _told(outcome: str, kernel: KernelRun | None) -> str:
    saved = f"; saved {seconds(kernel.seconds)}" if kernel and outcome == "adopted" and kernel.seconds else ""
    meaning = f": {_MEANING[outcome]}" if outcome in _MEANING else ""
    return text(outcome + meaning + saved)
