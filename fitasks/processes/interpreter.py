"""The one way to ask a script of the serving interpreter: words or a JSON request in, a JSON answer by a file out.

Importing torch and FlashInfer takes 4 to 10 s, and may go wrong in any way: `serving.python` may be any program, and a
library that is loaded may kill the process. Its locale and its directory are the server's, which decide what it finds.
What packages leave in TMPDIR (ctypes.util.find_library makes files there) goes with the answer's own directory.

A GPU's process, which is asked line by line (verify/worker.py), shares the time limit and the words for an end
without an answer; what it is asked next comes by a pipe.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fitasks.base import temporary
from fitasks.base.answers import MOST_BYTES, Fatal, checked
from fitasks.base.border import read_json
from fitasks.base.doing import doing
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.base.limits import in_force
from fitasks.processes import process

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SCRIPTS = Path(__file__).parent.parent / "serving"
TIMEOUT = 600.0  # seconds; generous, because a first import writes byte code for thousands of files
REMEDY = "name a Python interpreter that runs what it is given as serving.python in kernels.yaml"
_SHOWN = 12  # lines of what it said


class NoAnswer(EnvironmentProblem):
    """There is no answer that can be used. `why` is one line, for a caller that has a sentence of its own."""

    def __init__(self, sought: str, why: str, said: Sequence[str] = (), *, remedy: str = "") -> None:
        super().__init__("\n  ".join([f"{sought}: {why}{':' * bool(said)}", *said]), remedy=remedy)
        self.why = ": ".join([why, *said[-1:]])


class Late(NoAnswer):
    """It was ended at its time limit."""


class CantSay(NoAnswer):
    """The script itself says why there is no answer."""


def ask(
    python: Path,
    script: Path,
    shape: type[Any],
    env: Mapping[str, str],
    what: str,
    *,
    request: object = None,
    words: Iterable[object] = (),
    remedy: str = "",
    identity: Mapping[str, Any] = MappingProxyType({}),
    quiet: bool = False,
    limit: float | None = None,
) -> dict[str, Any]:
    """Return the answer of `script [REQUEST] ANSWER [WORD ...]`, which has a shape of fitasks/base/answers.py.

    `what` is asked for, as in "can't say which libcudart it loads"; `remedy` helps where the script ends without an
    answer; `identity` is another user, in Popen's words; `quiet` where it has been told what is done; `limit`
    is in seconds, 0 is none, None is TIMEOUT. The script leads a session, which ends with this process, however that
    ends. Raises NoAnswer, Late among them, and OSError where no file can be made.
    """
    sought = f"{python} can't say {what}"
    with temporary.directory("python") as directory:
        if identity:
            os.chown(directory, identity["user"], identity["group"])
        answer, log = directory / "response.json", directory / "log"
        command = [str(python), str(script), *_asking(directory, request), str(answer), *map(str, words)]
        seconds = TIMEOUT if limit is None else limit
        with doing(f"asking {python} {what}", quiet=quiet):  # nobody takes a slow first import for a hang
            finished = _run(command, {**env, "TMPDIR": str(directory)}, log, sought, identity=identity, limit=seconds)
        try:
            return _read(answer, shape, sought)
        except BadInput as error:
            if answer.exists() and not finished.status:
                why = error.message.replace(str(answer), "its answer")
                raise NoAnswer(sought, why, remedy=REMEDY) from None
        why = f"it ended without an answer ({process.ended(finished.status)})"
        advice = "; ".join(filter(None, [remedy, in_force()]))
        raise NoAnswer(sought, why, process.last_lines(log, _SHOWN), remedy=advice)


def _asking(directory: Path, request: object) -> list[str]:
    if request is None:
        return []
    asking = directory / "request.json"
    asking.write_text(json.dumps(request), encoding="utf-8")
    return [str(asking)]


def _run(
    command: list[str], env: Mapping[str, str], log: Path, sought: str, *, identity: Mapping[str, Any], limit: float
) -> process.Finished:
    try:
        finished = process.run(command, cwd=Path.cwd(), env=env, log=log, timeout=limit, identity=identity)
    except EnvironmentProblem as error:
        raise NoAnswer(sought, error.message) from None
    if finished.stopped:
        raise NoAnswer(sought, "it was stopped", remedy="run doit again")
    if finished.timed_out:
        raise Late(sought, f"it doesn't answer within {limit:.0f} s")
    return finished


def _read(answer: Path, shape: type[Any], sought: str) -> dict[str, Any]:
    """The answer in a file. What Python names files by, and computes with, is in it: half characters, Infinity."""
    said = read_json(answer, MOST_BYTES, finite=False, encodable=False)
    if isinstance(said, dict) and "fatal" in said:
        fatal = checked(said["fatal"], Fatal)
        raise CantSay(sought, fatal["message"], remedy=fatal.get("remedy", ""))
    return dict(checked(said, shape))
