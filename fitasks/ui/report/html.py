"""Small pieces of HTML. Whatever comes from outside passes through `text`."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fitasks.ui.units import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Cell = tuple[str, str]  # class, HTML


def text(value: object) -> str:
    """Escaped, for content and for attributes in double quotes; what can't be printed, or encoded, is replaced."""
    said = str(value)
    if not said.isprintable():
        said = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in said)
    return escape(said, quote=True)


def path(value: str) -> str:
    """Escaped, and broken after / and _ where a line is too short."""
    return text(value).replace("/", "/<wbr>").replace("_", "_<wbr>")


def seconds(value: float) -> str:
    """A tenth where it tells something: 6.1 s, 45 s, 2 m 10 s."""
    return f"{value:.1f} s" if 0 < value < 9.95 else duration(value)


def clock(value: float) -> str:
    """Minutes and seconds since the start, 2:05; hours where there are any, 1:02:05."""
    whole = round(value)
    minutes = f"{whole // 60}" if whole < 3600 else f"{whole // 3600}:{whole // 60 % 60:02}"
    return f"{minutes}:{whole % 60:02}"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.3f}%"


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{text(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def table(heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], kind: str = "") -> str:
    """Each cell carries its column's name, which a narrow screen shows beside it where the table's kind is "wide"."""
    head = "".join(f'<th scope="col" class="{column}">{text(name)}</th>' for column, name in heads)
    body = "\n".join(_row(heads, row) for row in rows)
    return f'<table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def _row(heads: Sequence[Cell], row: Sequence[Cell]) -> str:
    pairs = zip(heads, row, strict=True)
    cells = (f'<td class="{kind}" data-head="{text(name)}">{cell}</td>' for (_, name), (kind, cell) in pairs)
    return f"<tr>{''.join(cells)}</tr>"


def bar(fraction: float, hue: str = "") -> str:
    """A horizontal bar that fills a part of its cell."""
    fill = f'<rect class="fill" width="{percent(min(1.0, fraction))}" height="10"/>'
    return f'<svg class="bar{" own" if hue else ""}"{hue} width="100%" height="10" aria-hidden="true">{fill}</svg>'


def hues(labels: Sequence[str]) -> dict[str, str]:
    """Label → the style attribute that colours what is the kernel's: hues as far apart as there are kernels."""
    step = 360 / max(1, len(labels)) if len(labels) <= 9 else 137.508  # beyond, the golden angle
    return {label: f' style="--hue:{(35 + index * step) % 360:.0f}"' for index, label in enumerate(labels)}
