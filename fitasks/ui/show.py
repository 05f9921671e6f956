"""What cudart, why, clear_incomplete, gc and reset say, in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitasks.base.wording import counted, labelled
from fitasks.ui.overview import MOST
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fitasks.compile.clear import Incomplete
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.cuda.cudart import Cudart, Runtime
    from fitasks.store.local import Stored


_FEW = 3  # reasons of one kernel; an upgrade of FlashInfer's brings hundreds
_WORDS = {"names": " [KERNEL …]", "files": " [FILE …]", "words": " [WORD …]"}


def help_lines(task: str, doc: str, words: str, params: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How a task is called, what it does, its options."""
    named = [f"--{one['long']}" + ("" if one["type"] is bool else f" {one['name'].upper()}") for one in params]
    yield f"doit {task}{_WORDS.get(words, '')}{''.join(f' [{one}]' for one in named)}"
    yield f"  {doc}"
    width = max(map(len, named), default=0)
    yield from (f"  {name:{width}}  {one['help']}" for name, one in zip(named, params, strict=True))


def cudart_lines(notes: Sequence[str], runtime: Runtime) -> Iterator[str]:
    """The toolkit that is used and why; each libcudart."""
    yield from (f"note: {note}" for note in notes)
    yield f"toolkit: {_one(runtime.toolkit)}"
    loaded = runtime.loaded if runtime.reached else None
    yield f"server:  {_one(loaded)} ({runtime.how})"
    yield from (f"also:    {_one(found)}" for found in runtime.found if found != loaded)


def _one(found: Cudart | None) -> str:
    if found is None:
        return "none"
    if found.problem:
        return found.problem
    warning = f"; they disagree: {found.disagreement}" if found.disagreement else ""
    return f"libcudart {found.version} at {found.path}{warning}"


def reasons(label: str, name: str, judged: Judgement, told: Sequence[str]) -> tuple[str, ...]:
    """All reasons of one kernel, and what is told of it in the store."""
    return tuple(labelled(line, name, label) for line in (*map(str, judged.reasons or [judged]), *told))


def why_lines(rows: Sequence[tuple[str, tuple[str, ...]]], *, whole: bool) -> Iterator[str]:
    """Labels with their reasons; unless `whole`, the first few, and of many kernels those with equal ones together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for label, told in rows:
        alike.setdefault(told if len(rows) > MOST and not whole else (label, *told), []).append(label)
    reasons_of = dict(rows)
    for labels in alike.values():
        first, *others = reasons_of[labels[0]]
        head = f"kernel:{labels[0]}{f' and {len(labels) - 1} more' * (len(labels) > 1)}"
        few = others if whole else others[: _FEW - 1]
        yield f"{head}: {first}"
        yield from (f"{'':{len(head) + 2}}{line}" for line in few)
        if hidden := len(others) - len(few):
            yield f"{'':{len(head) + 2}}and {counted(hidden, 'reason')} more: `doit why {labels[0]}`"


def cleared_lines(removed: Sequence[Incomplete]) -> Iterator[str]:
    """Half-built modules that were removed, or kept and why; their sum."""
    for module in removed:
        yield f"{f'kept ({module.kept})' if module.kept else 'removed'}  {size(module.bytes):>8}  {module.path}"
    gone = [module for module in removed if not module.kept]
    yield f"{counted(len(gone), 'incomplete module')} removed, {size(sum(module.bytes for module in gone))}"


def collected_line(store: Path, removed: Sequence[Stored], kept: Sequence[Stored]) -> str:
    """What the store has lost, and what is left in it."""
    freed, left = (size(sum(stored.bytes for stored in group)) for group in (removed, kept))
    return f"{store}: {counted(len(removed), 'kernel')} removed ({freed}), {len(kept)} kept ({left})"


def reset_lines(sizes: Mapping[Path, int], left: Sequence[Incomplete]) -> Iterator[str]:
    """What `reset` leaves and why, then what it removes, by size in bytes: modules by the directory they are in."""
    yield from (f"kept ({one.kept})  {size(one.bytes):>8}  {one.path}" for one in left)
    for place in dict.fromkeys(directory.parent for directory in sizes):
        inside = [directory for directory in sizes if directory.parent == place]
        names = ", ".join(directory.name for directory in inside)
        yield f"{size(sum(map(sizes.__getitem__, inside))):>8}  {place}: {names}"
    if not sizes:
        yield "nothing to remove"
