"""Notes what this interpreter reads on its way to an answer: as long as that stays the same, so does the answer.

Files are those that Python opens for reading, and the source of every module. Names are the modules that were asked
for, found or not, with the directories in which an import would look for them: one that newly appears there decides,
too. For the standard library the interpreter's own file stands. What other processes read, and what a program only
looks at without opening it, isn't noted.
"""

# ruff: noqa: PTH100, PTH110, PTH113, PTH117 -- thousands of paths

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
from pathlib import Path
from typing import Any

_KERNEL = ("/proc/", "/sys/")
_HOOK = ".__path_hook__"  # entry of sys.path that setuptools makes for an editable installation, and no path


class Reads:
    """`start()` it before the first import that counts."""

    def __init__(self) -> None:
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._asked: dict[str, tuple[str, ...] | None] = {}  # module → where it was looked for; None: sys.path

    def start(self) -> None:
        """Listen from now on; there is no end to it."""
        sys.addaudithook(self._on_event)
        sys.meta_path.insert(0, self)  # it finds nothing

    def find_spec(self, name: str, path: Any = None, _target: Any = None) -> None:
        """Called for each module that isn't imported yet, be it by `import` or by importlib.util.find_spec."""
        self._asked[name] = None if path is None else tuple(map(str, path))

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(args[0], (str, bytes)):
            return
        path, flags = os.path.abspath(os.fsdecode(args[0])), args[2]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        (self._written if writes else self._read).add(path)

    def noted(self, *without: str) -> dict[str, Any]:
        """What was read: {"files": [...], "looked": [[directories, names], ...]}, except below `without`."""
        outside = (*_KERNEL, *(f"{os.path.abspath(path)}/" for path in without))
        read = {_source(path) for path in self._read - self._written} | set(_modules()) | _start_up()
        files = [path for path in read if not path.startswith(outside) and _is_content(path)]
        files = [path for path in files if not in_standard_library(path) and not path.endswith(_HOOK)]
        return {"files": sorted({*files, os.path.realpath(sys.executable)}), "looked": self._looked()}

    def _looked(self) -> list[list[list[str]]]:
        """Each module's last name by where it is looked for: beside its parent's other modules, or along sys.path."""
        asked = dict(self._asked)
        for name in list(sys.modules):
            asked.setdefault(name, _places(name))
        names: dict[tuple[str, ...], set[str]] = {}
        for name, places in asked.items():
            where = tuple(search_path()) if places is None else places
            names.setdefault(where, set()).add(name.rpartition(".")[2])
        looked = [([place for place in where if _counts(place)], sorted(found)) for where, found in names.items()]
        return [[places, found] for places, found in looked if places]


def search_path() -> list[str]:
    """Directories of sys.path as a server has it (this script's own left out), and those that site would add."""
    entries = [os.path.abspath(entry) for entry in sys.path if not entry.endswith(_HOOK)]
    return list(dict.fromkeys([*entries, *site_directories()]))


def site_directories() -> list[str]:
    """Directories whose .pth files this interpreter reads, be they there or not."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*site.getsitepackages(), *user]


def in_standard_library(path: str) -> bool:
    """Whether it comes with the interpreter: site-packages may be a directory among the standard library's."""
    own = {f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")}
    return f"{path}/".startswith(tuple(own)) and not {"site-packages", "dist-packages"} & set(path.split("/"))


def _is_content(path: str) -> bool:
    """Whether it is a file, one in /dev/shm as well, or isn't there: no device, pipe or directory."""
    return os.path.isfile(path) or not os.path.exists(path)


def _counts(place: str) -> bool:
    return os.path.isabs(place) and not in_standard_library(place)


def _places(name: str) -> tuple[str, ...] | None:
    parent = name.rpartition(".")[0]
    return tuple(map(str, _own(sys.modules.get(parent), "__path__") or ())) if parent else None


def _own(module: Any, name: str) -> Any:
    """An attribute that a module has itself: those of torch.ops and torch.classes are made up when asked for."""
    return getattr(module, "__dict__", {}).get(name)


def _modules() -> list[str]:
    """Files of what is imported, the source where there is one."""
    found = [_own(module, "__file__") for module in list(sys.modules.values())]
    return [_source(path) for path in found if isinstance(path, str) and os.path.isabs(path)]


def _source(path: str) -> str:
    """A module's own file for its byte code in __pycache__, which says nothing of its own."""
    if not path.endswith(".pyc"):
        return path
    try:
        return importlib.util.source_from_cache(path)
    except ValueError:  # a module without a source
        return path


def _start_up() -> set[str]:
    """What decided sys.path before this script began: .pth files, and a virtual environment's pyvenv.cfg."""
    links = {str(pth) for directory in site_directories() for pth in Path(directory).glob("*.pth")}
    binary = Path(sys.executable)
    return links | {str(directory / "pyvenv.cfg") for directory in (binary.parent, binary.parent.parent)}
