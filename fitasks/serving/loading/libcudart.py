"""Which libcudart a server really has: seen in its own process after `import torch`. Runs in the serving interpreter.

    <serving python> libcudart.py RESPONSE.json [LIBRARY ...]

Standard library only, and torch if it is there. The response: {"version": 1, "loaded": path or null, "how": sentence,
"runtime_versions": {path: what cudaRuntimeGetVersion says, 12040 for 12.4, or a sentence why it can't be asked}} for
the loaded library and every LIBRARY. Each library is opened in a child process of its own, since a bad one may crash.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

_ASK = """
import ctypes, sys
version = ctypes.c_int()
status = ctypes.CDLL(sys.argv[1]).cudaRuntimeGetVersion(ctypes.byref(version))
print(version.value if status == 0 else "cudaRuntimeGetVersion returns %d" % status)
"""
_CHOOSE = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
print(*[line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line][:1])
"""


def main(arguments: list[str]) -> int:
    """Write the response; the exit status."""
    response, libraries = arguments[0], arguments[1:]
    os.dup2(2, 1)  # torch may print
    gc.disable()  # it would look at all of torch again and again
    loaded, how = _loaded()
    paths = list(dict.fromkeys([*([loaded] if loaded else []), *libraries]))
    answer = {
        "version": 1,
        "loaded": loaded,
        "how": how,
        "runtime_versions": {path: _runtime_version(path) for path in paths},
    }
    beside = Path(response + ".tmp")
    beside.write_text(json.dumps(answer), encoding="utf-8")
    beside.replace(response)
    gc.freeze()  # nor at exit
    return 0


def _loaded() -> tuple[str | None, str]:
    try:
        import torch

        name = "torch " + torch.__version__
    except Exception as error:
        name = f"no torch ({type(error).__name__})"
    if path := _mapped():
        return path, name + " has loaded it"
    for soname in _sonames():
        if chosen := _child(_CHOOSE, soname):
            return chosen, name + " loads none; the dynamic loader finds it for " + soname
    return None, name + " loads none, and the dynamic loader finds none"


def _mapped() -> str | None:
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        if "/libcudart" in line:
            return line.split(None, 5)[5].strip()
    return None


def _sonames() -> list[str]:
    """Newest first, of what lies in this environment; a kernel asks for one of them by name."""
    names = {path.name for root in sys.path for path in Path(root).glob("nvidia/*/lib/libcudart.so.*")}
    return sorted({".".join(name.split(".")[:3]) for name in names} | {"libcudart.so.13", "libcudart.so.12"})[::-1]


def _runtime_version(path: str) -> int | str:
    said = _child(_ASK, path)
    return int(said) if said.isdigit() else said or "it can't be loaded"


def _child(script: str, argument: str) -> str:
    command = [sys.executable, "-I", "-S", "-c", script, argument]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
