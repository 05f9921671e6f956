"""What `doit list` without words or options says of this project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fitasks.base.streams import one_line
from fitasks.compile import receipt as receipts
from fitasks.plan.names import GROUP
from fitasks.ui.overview import MOST, Row, judged, kernel_lines, task_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitasks.graph.session import Session
    from fitasks.plan.kernel import Kernel

TITLE = "title"  # in a task's `meta`: the docstring of the function of dodo.py that it comes from


def overview(session: Session, tasks: Iterable[Any]) -> Iterator[str]:
    """Yield lines: the kernels, then the tasks by the functions of dodo.py that they come from."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for task in tasks:
        if not task.subtask_of and not task.name.startswith("_"):
            groups.setdefault((task.meta or {}).get(TITLE, ""), []).append((task.name, task.doc or ""))
    for title, listed in groups.items():
        others = [(name, doc) for name, doc in listed if name != GROUP]
        yield from (title, *map(one_line, _kernels(session))) if len(others) < len(listed) else ()
        yield from task_lines(title or "others", others) if others else ()
        yield ""
    yield "`doit help TASK`: its options. `doit list --all --status`: all by name."


def _kernels(session: Session) -> Iterator[str]:
    if session.problem:
        yield f"  nothing can be built: {' '.join(session.problem.message.split())}"
        yield f"    remedy: {' '.join(session.problem.remedy.split())}"
        return
    look = _judged if len(session.kernels) <= MOST else _seen
    yield from kernel_lines([look(session, kernel) for kernel in session.kernels])


def _judged(session: Session, kernel: Kernel) -> Row:
    if kernel.problem:
        return Row(kernel.label, kernel.entry, "can't be built", why=kernel.problem.partition("\n")[0])
    if kernel.twin:
        return Row(kernel.label, kernel.entry, "a twin", why=f"the same module as {kernel.twin}")
    try:
        return judged(kernel, session.judge(kernel), _bytes(kernel))
    except Exception as error:  # noqa: BLE001 - the list is to be shown whatever keeps a kernel from being judged
        return Row(kernel.label, kernel.entry, "unknown", why=str(error))


def _seen(_session: Session, kernel: Kernel) -> Row:
    """Return whether a build was finished; to judge hundreds of kernels takes longer than a list may."""
    if kernel.problem or kernel.twin:
        return Row(kernel.label, kernel.entry, "can't be built" if kernel.problem else "a twin")
    weight = _bytes(kernel)
    built = weight and os.path.exists(f"{kernel.build_dir}/{receipts.NAME}")  # noqa: PTH110 - hundreds
    return Row(kernel.label, kernel.entry, "built" if built else "not built", weight)


def _bytes(kernel: Kernel) -> int:
    try:
        return os.stat(kernel.library).st_size  # noqa: PTH116
    except OSError:
        return 0
