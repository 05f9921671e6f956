"""Pythons that have imported something, and fork themselves for each run: importing is most of what short runs do.

torch is half of what a planner imports; doit and fitasks are two thirds of `doit list`. A run has arguments,
environment, directory, streams and an end as in a process of its own; only modules are there beforehand, and hashes
are those of PYTHONHASHSEED=0.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
TORCH = "import torch"
DOIT = """
import doit.doit_cmd, fitasks, importlib, pkgutil
apart = *(f"fitasks.{one}" for one in ("serving", "dodo", "__main__", "worker", "delivery.wheel.payload")),
for one in pkgutil.walk_packages(fitasks.__path__, "fitasks."):
    if not one.name.startswith(apart):
        importlib.import_module(one.name)
"""  # of dodo.py the import plans, and of worker.py it is Dask's

_LIBRARIES = "LD_LIBRARY_PATH"

_LOOP = """
import contextlib, gc, sys
imports, root = sys.argv[1:]
found = sys.path[1:]
sys.path[0] = root
gc.disable()
with contextlib.suppress(ImportError):
    exec(imports)
gc.freeze()
import json, os, runpy, socket
asking = socket.socket(fileno=0)
def be(env, cwd, words, streams):
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, stream in enumerate([os.open(os.devnull, os.O_RDWR), *streams]):
        os.dup2(stream, number)
        os.close(stream)
    way = words.pop(0) if words[0] in ("-c", "-m") else ""
    sys.argv = words
    more = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    sys.path[:] = [cwd if way else os.path.dirname(words[0]), *more, *found]
    if any(os.path.exists(os.path.join(path, "sitecustomize.py")) for path in more):
        sys.modules.pop("sitecustomize", None)
        import sitecustomize
    gc.enable()
    if way == "-c":
        text, words[0] = words[0], "-c"
        exec(text, {"__name__": "__main__"})
    elif way == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")
while True:
    asked, streams, _, _ = socket.recv_fds(asking, 1 << 20, 2)
    if not asked:
        break
    child = os.fork()
    if not child:
        asking.detach()
        be(*json.loads(asked), streams)
        break
    for stream in streams:
        os.close(stream)
    asking.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@functools.cache
def _python(imports: str, libraries: str) -> socket.socket:
    """One for each process of the suite, and for each LD_LIBRARY_PATH; it ends with it, where nothing more is asked."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", _LIBRARIES}}
    env |= {"PYTHONHASHSEED": "0"} | ({_LIBRARIES: libraries} if libraries else {})
    with its:
        python = subprocess.Popen([sys.executable, "-c", _LOOP, imports, str(ROOT)], env=env, stdin=its.fileno())
    atexit.register(_end, ours, python)
    return ours


def _end(ours: socket.socket, python: subprocess.Popen[bytes]) -> None:
    ours.close()
    python.wait()


def run(
    imports: str, words: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run `python words…` as subprocess.run does, which captures its streams."""
    python = _python(imports, env.get(_LIBRARIES, ""))
    python.settimeout(timeout)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        asked = json.dumps([dict(env), str(cwd), list(words)]).encode()
        socket.send_fds(python, [asked], [out.fileno(), err.fileno()])
        try:
            status = int(python.recv(100))
        except TimeoutError:
            _python.cache_clear()  # that answer would be taken for the next one
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([sys.executable, *words], status, out.read(), err.read())


def starts_alike(env: Mapping[str, str]) -> bool:
    """Whether Python would start with this environment as those here did: locale, switches, no module of a test's own."""
    other = {"PYTHONPATH", "PYTHONHASHSEED", _LIBRARIES}
    names = {name for name in {*os.environ, *env} if name.startswith(("LANG", "LC_", "LD_", "PYTHON"))} - other
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    own = any(Path(path, "sitecustomize.py").exists() for path in paths)
    return not own and all(os.environ.get(name) == env.get(name) for name in names)
