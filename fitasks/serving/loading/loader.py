"""What the dynamic loader of a server's process finds: libraries by name, symbols in them. Runs in serving's Python.

    <serving python> loader.py REQUEST.json RESPONSE.json

It imports torch and tvm_ffi, as a server does before its first kernel, and asks the loader; no kernel is loaded.

The request: {"libraries": ["libcudart.so.13", "libx.so:/a/rpath"], "symbols": ["cudaFree@libcudart.so.13", "malloc"]}.
The response: {"version": 1, "problem": what kept torch or tvm_ffi from being imported, or "",
"process": "torch 2.13.0, tvm-ffi 0.1.15", "tvm_ffi": the C ABI's version by TVMFFIGetVersion, or "",
"files": all that decided this (libraries that are mapped, the packages' own modules),
"libraries": {each LIBRARY: {"path": the file that its name leads to, "problem": what the loader said}},
"offers": {each LIBRARY, and "" for what all libraries see: the SYMBOLs that are found there}}.

A kernel sees the process's global scope and, with what these need, the libraries that it names (dlopen(3)).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)
sys.path[:] = [entry for entry in sys.path if entry != _HERE]  # torch is to find no script of ours

_LINK_MAP = 2  # RTLD_DI_LINKMAP of dlinfo(3)
_LIBC = ctypes.CDLL(None)
_LIBC.dlopen.restype = _LIBC.dlsym.restype = _LIBC.dlvsym.restype = ctypes.c_void_p
_LIBC.dlopen.argtypes = [ctypes.c_char_p, ctypes.c_int]
_LIBC.dlsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_LIBC.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
_LIBC.dlinfo.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_LIBC.dlerror.restype = ctypes.c_char_p


class _Version(ctypes.Structure):
    _fields_ = [("numbers", ctypes.c_uint32 * 3)]  # TVMFFIVersion: major, minor, patch


def main(arguments: list[str]) -> int:
    """Write the response; the exit status."""
    asked = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    os.dup2(2, 1)  # torch may print
    answer = {"version": 1, "problem": "", "process": "", "tvm_ffi": "", "files": [], "libraries": {}, "offers": {}}
    try:
        answer["process"], modules = _start()
    except Exception as error:
        answer["problem"] = f"{type(error).__name__}: {error}"[:400]
    else:
        found = {name: _open(name) for name in asked["libraries"]}
        scopes = {"": ctypes.CDLL(None)._handle, **{name: handle for name, (handle, _) in found.items() if handle}}
        answer["tvm_ffi"] = _abi()
        answer["libraries"] = {name: _described(handle, said) for name, (handle, said) in found.items()}
        answer["offers"] = {
            name: [symbol for symbol in asked["symbols"] if _offers(scope, symbol)] for name, scope in scopes.items()
        }
        answer["files"] = [*modules, *_mapped()]
    response = Path(arguments[1])
    beside = Path(f"{response}.tmp")
    beside.write_text(json.dumps(answer), encoding="utf-8")
    beside.replace(response)
    return 0


def _start() -> tuple[str, list[str]]:
    """As a server's process: what it is made of, and the files that decided that."""
    torch, tvm_ffi = importlib.import_module("torch"), importlib.import_module("tvm_ffi")
    modules = (torch, sys.modules.get("torch.version"), tvm_ffi, sys.modules.get("tvm_ffi.libinfo"))
    files = [str(file) for module in modules if (file := getattr(module, "__file__", None))]
    return f"torch {torch.__version__}, tvm-ffi {tvm_ffi.__version__}", files


def _open(name: str) -> tuple[int | None, str]:
    """The handle, or what the loader says. Lazily, as tvm_ffi does; directories after the name are tried last."""
    soname, *directories = name.split(":")
    said = ""
    for path in (soname, *filter(os.path.exists, (f"{directory}/{soname}" for directory in directories))):
        if handle := _LIBC.dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL):
            return int(handle), ""
        said = os.fsdecode(_LIBC.dlerror() or b"")
    return None, said


def _described(handle: int | None, said: str) -> dict[str, str]:
    return {"path": _path(handle) if handle else "", "problem": said}


def _path(handle: int) -> str:
    """Of the file, by the loader's own link_map: {address, name, …}."""
    link_map = ctypes.c_void_p()
    if _LIBC.dlinfo(handle, _LINK_MAP, ctypes.byref(link_map)) or not link_map.value:
        return ""
    return os.fsdecode(ctypes.c_char_p.from_address(link_map.value + ctypes.sizeof(ctypes.c_void_p)).value or b"")


def _offers(scope: int, symbol: str) -> bool:
    """Whether the loader finds it there. An address may be 0, and dlerror alone tells that from none."""
    name, _, version = symbol.partition("@")
    _LIBC.dlerror()
    address = _LIBC.dlvsym(scope, name.encode(), version.encode()) if version else _LIBC.dlsym(scope, name.encode())
    return bool(address) or _LIBC.dlerror() is None


def _abi() -> str:
    version = _Version()
    try:
        _LIBC.TVMFFIGetVersion(ctypes.byref(version))  # libtvm_ffi is opened for all (RTLD_GLOBAL)
    except AttributeError:
        return ""
    return ".".join(map(str, version.numbers))


def _mapped() -> list[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    paths = {line.split(None, 5)[5] for line in lines if "/" in line}
    return sorted(path for path in paths if ".so" in path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
