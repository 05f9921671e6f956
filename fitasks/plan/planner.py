"""Asking the serving interpreter: one run of `fitasks/serving/plan.py` per target, JSON in and out through files.

The exchange is described at the top of that script. Several targets are asked at once; importing torch and
FlashInfer takes 4 to 10 s each time, which is why the answers are cached (see plan.py beside this file).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fitasks.base import answers, temporary
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.base.limits import in_force
from fitasks.base.streams import HEARTBEAT, heartbeat, tell
from fitasks.processes import process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fitasks.config.model import KernelConfig
    from fitasks.plan.server import Server

    class Interpreter(Protocol):
        """Whatever has a serving interpreter."""

        @property
        def python(self) -> Path: ...


SCRIPT = Path(__file__).parent.parent / "serving" / "plan.py"
Answer = dict[str, Any]

_NO_SCRIPT = "name a Python interpreter that runs what it is given as serving.python in kernels.yaml"
_TIMEOUT = 600  # seconds; generous, because a first import writes byte code for thousands of files


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

    def request(target: str) -> dict[str, Any]:
        wanted = [
            {"id": index, "op": kernel.op, "params": kernel.params}
            for index, kernel in enumerate(kernels)
            if not kernel.targets or target in kernel.targets
        ]
        allowed = {"sm90": sm90, "generators": list(generators), "recorded": recorded}
        return {"version": 1, **allowed, "kernels": wanted}

    with ThreadPoolExecutor(max_workers=2) as pool:
        answers = pool.map(lambda target: _ask_one(server, cuda_home, target, request(target)), targets)
        return dict(zip(targets, answers, strict=True))


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


def _ask_one(server: Server, cuda_home: Path, target: str, request: Mapping[str, Any]) -> Answer:
    with temporary.directory("plan") as directory:
        question, answer = Path(directory, "request.json"), Path(directory, "response.json")
        question.write_text(json.dumps(request), encoding="utf-8")
        words = [SCRIPT, question, answer]
        what = f"an answer while planning for {target}"
        reply = asked(server, words, environment(server, cuda_home, target), what, shape="Plans")
    if [one["id"] for one in reply["kernels"]] != [one["id"] for one in request["kernels"]]:
        raise EnvironmentProblem(f"{server.python} planned other kernels than it was asked for", remedy=_NO_SCRIPT)
    return reply


def asked(
    server: Interpreter, words: Sequence[Path], env: Mapping[str, str], what: str, remedy: str = "", *, shape: str
) -> Answer:
    """What one of our scripts, run by the serving interpreter, wrote into the last of `words`; a log goes beside it.

    The packages' own temporary files go there too (ctypes.util.find_library makes some): a killed run leaves one place.
    `shape` is the answer's class in fitasks/base/answers.py, `what` what was hoped for. Raises EnvironmentProblem where
    it wrote nothing, something else, or that it can't go on.
    """
    within = dict(env) | {"TMPDIR": str(words[-1].parent)}
    output = _run([str(server.python), *map(str, words)], within, words[-1].with_suffix(".log"))
    try:
        return dict(answers.read(words[-1], getattr(answers, shape), str(server.python)))
    except BadInput as error:
        if words[-1].exists():
            raise EnvironmentProblem(error.message, remedy=remedy or _NO_SCRIPT) from None
        raise EnvironmentProblem(
            f"{server.python} ended without {what}:\n{_tail(output)}",
            remedy="; ".join(filter(None, [remedy or f"try `{server.python} -c 'import flashinfer'`", in_force()])),
        ) from None


def _run(command: list[str], env: Mapping[str, str], log: Path) -> str:
    """What it said. It leads a session of its own, which ends with this process, however that ends."""
    with _heartbeat(command[0]):
        finished = process.run(command, cwd=Path.cwd(), env=env, log=log, timeout=_TIMEOUT)
    if finished.timed_out:
        raise EnvironmentProblem(f"{command[0]} did not finish planning within {_TIMEOUT} s")
    if finished.stopped:
        raise EnvironmentProblem(f"{command[0]} was stopped while planning", remedy="run doit again")
    return log.read_text(errors="replace")


@contextlib.contextmanager
def _heartbeat(what: str) -> Iterator[None]:
    """Say every so often that `what` is still waited for: nobody takes a slow first import for a hang."""
    begin, over = time.monotonic(), threading.Event()
    every = min(heartbeat() or HEARTBEAT, threading.TIMEOUT_MAX)  # what is no number, the board will tell

    def beat() -> None:
        while not over.wait(every):
            tell(f"still planning ({time.monotonic() - begin:.0f} s), waiting for {what}")

    threading.Thread(target=beat, name="still planning", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-lines:])
