"""Pythons that have imported something, and fork themselves for each run: importing is most of what short runs do.

torch is half of what a planner imports; doit and fitasks are two thirds of `doit list`. A run has arguments,
environment, directory, streams and an end as in a process of its own; only modules are there beforehand, and hashes
are those of PYTHONHASHSEED=0.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests import warm_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
TORCH = "import torch"
DOIT = """
import doit.doit_cmd, fitasks, importlib, pkgutil
from tests import warm_client
warm_client.install()
apart = *(f"fitasks.{one}" for one in ("serving", "dodo", "__main__", "worker", "delivery.wheel.payload")),
for one in pkgutil.walk_packages(fitasks.__path__, "fitasks."):
    if not one.name.startswith(apart):
        importlib.import_module(one.name)
"""  # of dodo.py the import plans, and of worker.py it is Dask's

_LIBRARIES = "LD_LIBRARY_PATH"

_COUNT = itertools.count()


@functools.cache
def name_of(imports: str, libraries: str = "") -> str:
    """Of the socket of one, which each process of the suite starts for itself, and for each LD_LIBRARY_PATH.

    It ends with this process.
    """
    name = f"fitasks-tests-{os.getpid()}-{next(_COUNT)}"
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", _LIBRARIES}}
    env |= {"PYTHONHASHSEED": "0"} | ({_LIBRARIES: libraries} if libraries else {})
    script = Path(__file__).with_name("warm_python.py")
    command = [sys.executable, str(script), imports, str(ROOT), name]
    python = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert python.stdin
    assert python.stdout
    python.stdout.readline()
    atexit.register(_end, python)
    return name


def _end(python: subprocess.Popen[bytes]) -> None:
    python.communicate()


def run(
    imports: str, words: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run `python words…` as subprocess.run does, which captures its streams."""
    name = name_of(imports, env.get(_LIBRARIES, ""))
    with (
        Path(os.devnull).open() as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        streams = [one.fileno() for one in (nothing, out, err)]
        status = warm_client.have_run(name, words, cwd, env, streams, timeout=timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([sys.executable, *words], status, out.read(), err.read())


def starts_alike(env: Mapping[str, str]) -> bool:
    """Whether Python would start with this environment as those here did, and imports no module of a test's own."""
    paths = env.get("PYTHONPATH", "").split(os.pathsep)
    own = any(Path(path, "sitecustomize.py").exists() for path in paths)
    return not own and warm_client.starts_alike(env, _LIBRARIES)
