"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.ui.report import tables
from fitasks.ui.report.figures import utilisation
from fitasks.ui.report.html import hues, section, text
from fitasks.ui.report.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.ui.report.figures import Utilisation
    from fitasks.ui.report.kernels import KernelInfo
    from fitasks.ui.report.model import RecordedRun

# A page that was tricked into naming a resource would still load nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(run: RecordedRun, infos: Sequence[KernelInfo], trace: str) -> str:
    """The whole page; `trace` is the name of the trace that lies beside it."""
    when = datetime.fromtimestamp(run.begun, UTC).strftime("%Y-%m-%d %H:%M UTC")
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>fitasks, {when}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{text(tables.summary(run, infos))}</h1>
<p>The last run of fitasks, {when}. {text(run.reason.removesuffix("."))}.</p>
</header>
{_body(run, infos)}
<footer><p>The same as a trace, for chrome://tracing or Perfetto: {text(trace)}</p></footer>
</body>
</html>
"""


def _body(run: RecordedRun, infos: Sequence[KernelInfo]) -> str:
    used = utilisation(run)
    worked = sorted((kernel for kernel in run.kernels if kernel.spans), key=lambda kernel: kernel.wall, reverse=True)
    colours = hues([kernel.label for kernel in worked])
    parts = [tables.failures(run), tables.figures(run, infos, used)]
    if used:
        parts.append(section("Timeline", _caption(run, used), timeline(run, colours), _legend(colours)))
    parts += [tables.time_table(run, infos, colours), tables.utilisation_table(used, run) if used else ""]
    parts += [tables.sizes(run, infos, colours), tables.others(run, infos)]
    return "\n".join(part for part in parts if part)


def _caption(run: RecordedRun, used: Utilisation) -> str:
    most = f"At most {used.most} of {used.slots} slots were in use at once"
    words = "Each bar is one compiler or linker process; hold the pointer over it for the file and why it was compiled."
    failed = " Those with a red edge failed or were ended." if any(span.status for span in run.spans) else ""
    return f"<p>{words}{failed} {most}. Times are minutes and seconds.</p>"


def _legend(colours: Mapping[str, str]) -> str:
    """Folded away where it would be longer than the timeline."""
    items = "".join(f"<li><i{hue}></i>{text(label)}</li>" for label, hue in colours.items())
    legend = f'<ul class="legend">{items}</ul>'
    return legend if len(colours) <= 24 else f"<details><summary>{len(colours)} kernels</summary>{legend}</details>"
