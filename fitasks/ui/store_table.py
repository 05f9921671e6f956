"""What `doit store`, `push` and `gc --remote` say, in lines."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from fitasks.ui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fitasks.store.local import Stored
    from fitasks.store.publish import Published
    from fitasks.store.remote.shelf import Removed, Shelf

_UNKNOWN = "(not to be believed)"


def local_lines(root: Path, stored: Sequence[Stored]) -> Iterator[str]:
    """This machine's store: a line for each module."""
    yield from _lines(str(root), [(one.path.parent.name, one.bytes, one.used_ns / 1e9, "") for one in stored])


def remote_lines(url: str, shelf: Shelf) -> Iterator[str]:
    """A store elsewhere: the same, with the keys that have signed."""
    yield from _lines(
        url,
        [(one.receipt.name if one.receipt else _UNKNOWN, one.bytes, one.used, one.signed) for one in shelf.kernels],
    )
    if shelf.loose:
        yield f"  {size(shelf.loose)} in files that no kernel names; doit gc --remote removes those that are a day old"


def _lines(place: str, found: Sequence[tuple[str, int, float, str]]) -> Iterator[str]:
    modules = defaultdict(list)
    for name, count, used, signed in found:
        modules[name].append((count, used, signed))
    total = sum(count for _, count, _, _ in found)
    yield f"{place}: {len(modules)} kernels, {len(found)} versions, {size(total)}"
    width = max(map(len, modules), default=0)
    for name, ones in sorted(modules.items()):
        counts, uses, keys = zip(*ones, strict=True)
        signed = ", ".join(sorted({key[:20] or "unsigned" for key in keys})) if any(keys) else ""
        ago = duration(time.time() - max(uses))
        yield f"  {name:{width}}  {len(ones):3}  {size(sum(counts)):>8}  used {ago} ago  {signed}".rstrip()


def pushed_lines(done: Iterable[Published], left: Sequence[str]) -> Iterator[str]:
    """What each store has got, and which kernels nobody could put there."""
    for one in done:
        words = [f"{len(one.sent)} kernels put there ({size(one.bytes)})", f"{len(one.had)} there already"]
        words += [f"{len(one.lacking)} not put there: {', '.join(one.lacking)}"] if one.lacking else []
        yield f"{one.url}: {', '.join(words)}"
    if left:
        yield f"not fresh, so not put there: {', '.join(left)}; `doit` compiles them"


def removed_line(url: str, removed: Removed, days: int = 1) -> str:
    """What a store has lost, and what is left in it; for fewer `days` than one, what was kept all the same."""
    gone, kept = size(removed.bytes), size(removed.left_bytes)
    young = "" if days else "; what was used or put there within a day is never removed: a machine may be at it"
    return f"{url}: {removed.kernels} kernels removed ({gone}), {removed.left} kept ({kept}){young}"
