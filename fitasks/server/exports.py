"""What the environment of a server needs beyond a clean one, as lines for its shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING

from fitasks.plan.hopper import left_out
from fitasks.server import buildlog, sm90_switch
from fitasks.server.engine_conditions import finds_nvcc, version_of_engine, wanted_without_nvcc
from fitasks.server.place import caches_of_sglang, moved
from fitasks.server.variables import in_choices, in_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.plan import Plan

_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # what a shell can export; an environment may hold other names


def export_lines(plan: Plan, ninja_dir: os.PathLike[str]) -> Iterator[str]:
    """Export lines for a server that is to find its kernels fresh; what it may need elsewhere, as comments."""
    words = exports(plan, ninja_dir)
    for name, word in words.items():
        yield f"export {name}={word}"
    for name, value in wanted_without_nvcc(plan.server).items():
        if name not in words:
            without = f"{version_of_engine(plan.server)}, where there is no nvcc"
            yield _comment(f"{without}: export {name}={shlex.quote(value)}")
    if line := _build_log(plan):
        yield line


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
    wanted |= {name: str(place) for name, place in caches_of_sglang(plan).items()}
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
