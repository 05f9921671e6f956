"""A Python that has imported torch, and forks itself for each script: torch is half of what a planner imports.

A script has arguments, environment, directory and streams as in a process of its own; only torch is there beforehand.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LOOP = """
import contextlib, gc
gc.disable()
with contextlib.suppress(ImportError):
    import torch
gc.freeze()
import atexit, json, os, runpy, sys, traceback
found = list(sys.path)
def be(asked):
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    for number, path in enumerate([os.devnull, asked["out"], asked["err"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    sys.argv = asked["words"]
    more = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [os.path.dirname(sys.argv[0]), *more, *found]
    gc.enable()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        return error.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
for line in sys.stdin:
    child = os.fork()
    if not child:
        status = be(json.loads(line))
        if isinstance(status, str):
            status = print(status, file=sys.stderr) or 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@functools.cache
def _python() -> subprocess.Popen[str]:
    """One for each process of the suite; it ends with it, at the end of its standard input."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", _LOOP]
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_script(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python words…` as subprocess.run does, which captures its streams: the script is the first word."""
    python, out, err = _python(), cwd / "stdout.txt", cwd / "stderr.txt"
    out.unlink(missing_ok=True)
    err.unlink(missing_ok=True)
    asked = {"words": list(words), "env": dict(env), "cwd": str(cwd), "out": str(out), "err": str(err)}
    assert python.stdin is not None
    assert python.stdout is not None
    python.stdin.write(json.dumps(asked) + "\n")
    python.stdin.flush()
    status = int(python.stdout.readline())
    return subprocess.CompletedProcess([sys.executable, *words], status, out.read_text(), err.read_text())
