"""The one way to a rich console: it shows what it is given, and neither markup nor escape sequences in it act."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

from fitasks.streams import clean, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType


def console(file: IO[str] | None = None) -> Console:
    """Return a console on a stream, by default standard output."""
    return _Clean(file=whole(file or sys.stdout), highlight=False, markup=False, emoji=False)


class _Clean(Console):
    """rich itself passes escapes on, and reads `[red]` and `[/]` in a reason as markup."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's own control codes as they are, and texts cleaned."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)
