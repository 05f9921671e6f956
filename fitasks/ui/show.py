"""What cudart, why, env, clear_incomplete, gc and reset say, in lines."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING

from fitasks.base.streams import show as _print
from fitasks.base.streams import show_for_shell, show_text
from fitasks.plan.hopper import left_out
from fitasks.server import buildlog, sm90_switch
from fitasks.server.engine_conditions import finds_nvcc, version_of_engine, wanted_without_nvcc
from fitasks.server.place import moved
from fitasks.server.variables import in_choices, in_commands
from fitasks.ui.units import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fitasks.compile.clear import Incomplete
    from fitasks.cuda.cudart import Cudart, Runtime
    from fitasks.graph.session import Session
    from fitasks.plan.plan import Plan
    from fitasks.store.local import Stored

_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # what a shell can export; an environment may hold other names


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


def show_why(session: Session, names: list[str]) -> None:
    """Each stale kernel with all its reasons; fresh ones too where they're named. Raises for unknown names."""
    chosen = session.plan.chosen(names)
    if session.problem:
        raise session.problem
    shown = 0
    for kernel in chosen:
        if kernel.problem:
            shown += 1
            show_text(f"kernel:{kernel.label}: {kernel.problem}")
            continue
        judged = session.judge(kernel)
        if judged.verdict == "fresh" and not names:
            continue
        shown += 1
        _print(f"kernel:{kernel.label}: {judged.reasons[0] if judged.reasons else judged}")
        for line in [*map(str, judged.reasons[1:]), *session.store.told(kernel, session.judges[kernel.target], judged)]:
            _print(f"{'':{len(kernel.label) + 8}} {line}")
    if not shown and not names:
        _print(f"all {len(chosen)} kernels are fresh")


def show_env(session: Session) -> None:
    """Export lines for a server that is to find its kernels fresh; what it may need elsewhere, as comments."""
    plan = session.plan
    lines = exports(plan, session.ninja.executable.parent)
    for name, word in lines.items():
        show_for_shell(f"export {name}={word}")
    for name, value in wanted_without_nvcc(plan.server).items():
        if name not in lines:
            without = f"{version_of_engine(plan.server)}, where there is no nvcc"
            show_for_shell(_comment(f"{without}: export {name}={shlex.quote(value)}"))
    if line := _build_log(plan):
        show_for_shell(line)


def _build_log(plan: Plan) -> str:
    """A comment that offers FlashInfer's log of what a server builds; "" where it reads no such variable, or has it."""
    set_already = buildlog.VARIABLE in plan.server.env | plan.config.serving.env
    if set_already or not buildlog.is_read_by(plan.first.root):
        return ""
    file = shlex.quote(str(plan.first.workspace / buildlog.NAME))
    said = "every build of a server, with its seconds; doit jitlog reads it"
    return _comment(f"export {buildlog.VARIABLE}={file}  # {said}")


def _comment(text: str) -> str:
    """For a shell, which runs what stands on a comment's next line."""
    return "# " + text.replace("\n", "\n# ")


def exports(plan: Plan, ninja_dir: os.PathLike[str]) -> dict[str, str]:
    """What a server's environment needs beyond a clean one: what is part of ninja's commands, and of where they work.

    Names, and words for a shell: whatever a value is, it runs nothing when it is evaluated. A plan without Hopper's
    modules has no use for a server that chooses them.
    """
    server, cuda_home = plan.server, str(plan.toolkit.home)
    wanted = {"CUDA_HOME": cuda_home}
    if base := server.env.get("FLASHINFER_WORKSPACE_BASE") or moved(plan):
        wanted["FLASHINFER_WORKSPACE_BASE"] = base
    ahead: dict[str, str] = {}
    found = shutil.which("ninja", path=os.defpath)  # as in a clean shell, without what is activated here
    if not found or os.path.dirname(found) != os.fspath(ninja_dir):  # noqa: PTH120
        ahead = {"PATH": f"{shlex.quote(os.fspath(ninja_dir))}:$PATH"}
    if left_out(plan.config, plan.targets):
        wanted[sm90_switch.VARIABLE] = "1"
    if server.env.get("FLASHINFER_DISABLE_JIT") or not finds_nvcc(server.env, cuda_home):
        wanted |= wanted_without_nvcc(server)
    wanted |= in_commands(server) | in_choices(server) | plan.config.serving.env
    words = {name: shlex.quote(value) for name, value in wanted.items() if _VARIABLE.fullmatch(name)}
    return words | {name: word for name, word in ahead.items() if name not in words}


def cleared_lines(removed: Sequence[Incomplete]) -> Iterator[str]:
    """Half-built modules that were removed, or kept and why; their sum."""
    for module in removed:
        yield f"{f'kept ({module.kept})' if module.kept else 'removed'}  {size(module.bytes):>8}  {module.path}"
    gone = [module for module in removed if not module.kept]
    yield f"{len(gone)} incomplete modules removed, {size(sum(module.bytes for module in gone))}"


def collected_line(store: Path, removed: Sequence[Stored], kept: Sequence[Stored]) -> str:
    """What the store has lost, and what is left in it."""
    freed, left = (size(sum(stored.bytes for stored in group)) for group in (removed, kept))
    return f"{store}: {len(removed)} kernels removed ({freed}), {len(kept)} kept ({left})"


def reset_lines(sizes: Mapping[Path, int], left: Sequence[Incomplete]) -> Iterator[str]:
    """What `reset` leaves and why, then what it removes, by size in bytes: modules by the directory they are in."""
    yield from (f"kept ({one.kept})  {size(one.bytes):>8}  {one.path}" for one in left)
    for place in dict.fromkeys(directory.parent for directory in sizes):
        inside = [directory for directory in sizes if directory.parent == place]
        names = ", ".join(directory.name for directory in inside)
        yield f"{size(sum(map(sizes.__getitem__, inside))):>8}  {place}: {names}"
    if not sizes:
        yield "nothing to remove"
