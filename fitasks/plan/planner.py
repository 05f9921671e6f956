"""Asking the serving interpreter: one run of `fitasks/serving/plan/plan.py` per target, JSON in and out through files.

The exchange is described at the top of that script. Targets are asked side by side, and a target's CuTe-DSL objects
beside its modules; importing torch and FlashInfer takes 4 to 10 s each time, which is why the answers are cached (see
plan.py beside this file).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fitasks.base.answers import Plans
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.config.generators import may_make_object
from fitasks.cuda.architecture import is_one, single
from fitasks.plan.cute import Record, ask_objects
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fitasks.config.model import KernelConfig
    from fitasks.plan.server import Server

SCRIPT = interpreter.SCRIPTS / "plan" / "plan.py"
Answer = dict[str, Any]
_AT_ONCE = 3  # interpreters, each of some 500 MB


def ask(
    server: Server,
    cuda_home: Path,
    targets: Sequence[str],
    kernels: Sequence[KernelConfig],
    *,
    sm90: bool,
    generators: Sequence[str] = (),
    recorded: bool = False,
) -> dict[str, Answer]:
    """FlashInfer's answer for each target. Raises EnvironmentProblem where it cannot be asked at all.

    `generators` are packages beside FlashInfer whose generators may be called. What was `recorded` is data: of that
    FlashInfer's own are called alone, and may start nothing and write nowhere but in its cache.
    """

    def of_target(target: str) -> dict[int, KernelConfig]:
        known = enumerate(kernels)
        return {index: kernel for index, kernel in known if not kernel.targets or target in kernel.targets}

    def objects(target: str) -> tuple[list[Record], list[dict[str, Any]]]:
        wanted = {index: kernel for index, kernel in of_target(target).items() if may_make_object(kernel.op)}
        if not wanted:
            return [], []
        env = environment(server, cuda_home, target)
        return ask_objects(server.python, env, target, wanted, recorded=recorded)

    def modules(target: str) -> Answer:
        return _ask_one(server, cuda_home, target, request(target))

    def request(target: str) -> dict[str, Any]:
        wanted = [
            {"id": index, "op": kernel.op, "params": kernel.params, "if_loaded": kernel.if_loaded}
            for index, kernel in of_target(target).items()
            if not may_make_object(kernel.op)
        ]
        allowed = {"sm90": sm90, "generators": list(generators), "recorded": recorded}
        return {"version": 1, **allowed, "kernels": wanted}

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        asked_for = {target: (pool.submit(modules, target), pool.submit(objects, target)) for target in targets}
        return {target: _together(of.result(), *others.result()) for target, (of, others) in asked_for.items()}


def _together(answer: Answer, records: list[Record], reads: list[dict[str, Any]]) -> Answer:
    """Of one target: its modules, and the objects that were asked for apart."""
    if not records:
        return answer
    kernels = sorted([*answer["kernels"], *records], key=lambda one: int(one["id"]))
    return {**answer, "kernels": kernels, "more_reads": reads}


def environment(server: Server, cuda_home: Path, target: str) -> dict[str, str]:
    """The server's environment on a GPU of `target`, with the toolkit that kernels are built with."""
    return server.env | {"CUDA_HOME": str(cuda_home), "FLASHINFER_CUDA_ARCH_LIST": target}


def basis(server: Server) -> dict[str, Any]:
    """All that an answer depends on, but what the scripts read (reads.py), in a form that survives JSON."""
    return {
        "script": [sha256_file(path) for path in sorted(SCRIPT.parent.glob("*.py"))],
        "python": [str(server.python), str(server.python.resolve())],
        "path": list(map(str, server.site_packages)),
        "packages": [list(asdict(package).values()) for package in server.packages],
        "environment": server.relevant_environment(),
    }


def asked(
    server: Server, script: Path, shape: type[Any], env: Mapping[str, str], what: str, *, request: object = None
) -> Answer:
    """What a script says that imports FlashInfer; see interpreter.ask. Raises NoAnswer."""
    remedy = f"try `{server.python} -c 'import flashinfer'`"
    return interpreter.ask(server.python, script, shape, env, what, request=request, remedy=remedy)


def _ask_one(server: Server, cuda_home: Path, target: str, request: Mapping[str, Any]) -> Answer:
    env, what = environment(server, cuda_home, target), f"how it builds kernels for {target}"
    reply = asked(server, SCRIPT, Plans, env, what, request=request)
    if not all(map(is_one, single(reply["arch"]))):
        message = f"{server.python} planned for {reply['arch']!r}, which is no set of GPU architectures"
        raise EnvironmentProblem(message, remedy=interpreter.REMEDY)
    if [one["id"] for one in reply["kernels"]] != [one["id"] for one in request["kernels"]]:
        message = f"{server.python} planned other kernels than it was asked for"
        raise EnvironmentProblem(message, remedy=interpreter.REMEDY)
    return reply
