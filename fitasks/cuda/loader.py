"""What the dynamic loader of a server's process has for a library: asked of a process like it, remembered.

Two things are remembered in one file. What each library needs, by its size, times and inode: reading hundreds takes
seconds. And the loader's answers (serving/loading/loader.py, 3 s), for as long as every file and directory that decided
them is what it was, and the same variables are set.
"""

from __future__ import annotations

import contextlib
import sysconfig
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.answers import Loaded, Opened
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import look
from fitasks.cuda.elf import inspect_library, versions_defined
from fitasks.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

SCRIPT = interpreter.SCRIPTS / "loading" / "loader.py"
_VERSION = 1
_TRUSTED = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")  # ld.so(8), and below them the multiarch directory
_CACHES = ("/etc/ld.so.cache", "/etc/ld.so.preload")


@dataclass(frozen=True)
class Needs:
    """What a library asks of the process that loads it."""

    libraries: tuple[str, ...] = ()  # "libcudart.so.13", with its RUNPATH "libcudart.so.13:/opt/lib"
    versions: tuple[str, ...] = ()  # one of these and a version of its symbols, "libc.so.6 GLIBC_2.34"
    symbols: tuple[str, ...] = ()  # "memcpy@GLIBC_2.14", none that is weak


@dataclass(frozen=True)
class Answer:
    """What a process like the server's said. `problem` is why it couldn't be asked."""

    problem: str = ""
    process: str = ""  # "torch 2.13.0, tvm-ffi 0.1.15"
    tvm_ffi: str = ""  # its C ABI, "0.1.16"
    libraries: dict[str, Opened] = field(default_factory=dict)
    offers: dict[str, frozenset[str]] = field(default_factory=dict)  # "" is what all libraries see
    asked: frozenset[str] = frozenset()  # symbols
    versions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # that each library defines, if any

    def covers(self, needs: Needs) -> bool:
        """Whether the process was asked for all of that."""
        return self.libraries.keys() >= set(needs.libraries) and self.asked >= set(needs.symbols)

    def offered(self, libraries: Iterable[str]) -> frozenset[str]:
        """The symbols that a library sees which needs these."""
        nothing: frozenset[str] = frozenset()
        return nothing.union(self.offers.get("", nothing), *(self.offers.get(name, nothing) for name in libraries))


class _Memo(TypedDict):
    version: int
    settings: list[str]
    needs: dict[str, tuple[list[int], Needs]]
    files: dict[str, list[int]]
    answer: Answer | None


class Loader:
    """The loader of one serving environment; shared by threads. `memo` may be lost at any moment."""

    def __init__(self, python: Path, env: Mapping[str, str], memo: Path) -> None:
        self.python = python
        self.env = env
        self._memo = memo
        self._lock = threading.Lock()
        self._loaded = False
        self._needs: dict[str, tuple[list[int], Needs]] = {}  # path → its identity and what it needs
        self._answer: Answer | None = None
        self._files: dict[str, list[int]] = {}  # what the answer depends on
        self._learnt = False
        self.without_driver = False  # whether a library was let pass that needs it

    def needs(self, library: Path) -> Needs:
        """What a file needs; read again where it isn't the one that is remembered. Raises as inspect_library does."""
        with self._lock:
            self._load()
        return self._read(library)

    def answer(self, needs: Needs, others: Callable[[], Iterable[Path]]) -> Answer:
        """What the process has of it. `others` are libraries that will be asked for next: one process tells of all."""
        with self._lock:
            self._load()
            if self._answer is None or not self._answer.covers(needs):
                self._ask([needs, *self._all(others())])
            return self._answer or Answer()

    def save(self) -> None:
        """Remember what was learnt."""
        if not self._learnt:
            return
        with self._lock:
            self._learnt = False
            known = {path: [identity, vars(needs)] for path, (identity, needs) in self._needs.items()}
            data = {"version": _VERSION, "settings": self._settings(), "needs": known, "files": self._files}
            memo.keep(self._memo, data | {"answer": _written(self._answer)})

    def _read(self, library: Path) -> Needs:
        identity, (known, needs) = look(str(library)), self._needs.get(str(library), ([], Needs()))
        if not identity or known != identity:
            needs = _needs(library)
            self._needs[str(library)] = (identity, needs)
            self._learnt = True
        return needs

    def _all(self, libraries: Iterable[Path]) -> Iterator[Needs]:
        for library in libraries:
            with contextlib.suppress(EnvironmentProblem, OSError):  # whoever asks for this one is told
                yield self._read(library)

    def _ask(self, needs: list[Needs]) -> None:
        """All at once, and what was asked for before; kept where the process could be asked."""
        before = self._answer or Answer()
        libraries = sorted(set(before.libraries).union(*(one.libraries for one in needs)))
        symbols = sorted(before.asked.union(*(one.symbols for one in needs)))
        said = _ask(self.python, self.env, {"libraries": libraries, "symbols": symbols})
        self._answer = _read(said, libraries, symbols)
        self._learnt = True
        decided = [*said.get("files", ()), *(found.path for found in self._answer.libraries.values())]
        self._files = {path: look(path) for path in dict.fromkeys([*decided, *_places(self.env)]) if path}

    def _load(self) -> None:
        """The memo, once; the answer only where nothing that decided it has changed."""
        if self._loaded:
            return
        self._loaded = True
        data = memo.read(self._memo, _Memo)
        if data is None or data["version"] != _VERSION:
            return
        self._needs = {path: (known, Needs(**_tuples(said))) for path, (known, said) in data["needs"].items()}
        if data["answer"] and data["settings"] == self._settings() and _unchanged(data["files"]):
            self._answer, self._files = _restored(data["answer"]), data["files"]

    def _settings(self) -> list[str]:
        """The interpreter and the variables that decide what a process finds, and who is asked."""
        named = {name: value for name, value in self.env.items() if name.startswith("LD_") or name == "PYTHONPATH"}
        return [str(self.python), str(look(str(SCRIPT))), *(f"{name}={named[name]}" for name in sorted(named))]


def _needs(library: Path) -> Needs:
    found = inspect_library(library)
    path = "".join(f":{entry}" for entry in found.runpath)
    origin = str(library.resolve().parent)
    path = path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
    names = dict.fromkeys([*found.needed, *(name for name, _ in found.versions)])
    versions = tuple(f"{name}{path} {version}" for name, version in found.versions)
    return Needs(tuple(name + path for name in names), versions, tuple(map(str, found.required)))


def _ask(python: Path, env: Mapping[str, str], request: dict[str, list[str]]) -> dict[str, Any]:
    """The script's response, or its `problem` alone where there is none: a library may kill the process."""
    try:
        return interpreter.ask(python, SCRIPT, Loaded, env, "what the dynamic loader has", request=request)
    except interpreter.NoAnswer as error:
        return {"problem": error.why}


def _read(said: dict[str, Any], libraries: Iterable[str], symbols: Iterable[str]) -> Answer:
    if said["problem"]:
        nothing = {name: Opened("", "") for name in libraries}
        return Answer(said["problem"], libraries=nothing, asked=frozenset(symbols))
    found = {name: Opened(**one) for name, one in said["libraries"].items()}
    versions = {name: _versions(one.path) for name, one in found.items()}
    offers = {name: frozenset(offered) for name, offered in said["offers"].items()}
    return Answer("", said["process"], said["tvm_ffi"], found, offers, frozenset(symbols), versions)


def _versions(path: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(versions_defined(Path(path)))) if path else ()
    except (EnvironmentProblem, OSError):
        return ()


def _places(env: Mapping[str, str]) -> list[str]:
    """Where a library might appear that isn't found today, or another before the one that is."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    trusted = [f"{place}/{name}" if name else place for place in _TRUSTED for name in ("", multiarch)]
    return [*filter(None, env.get("LD_LIBRARY_PATH", "").split(":")), *_CACHES, *dict.fromkeys(trusted)]


def _unchanged(files: dict[str, list[int]]) -> bool:
    return all(look(path) == known for path, known in files.items())


def _written(answer: Answer | None) -> dict[str, Any] | None:
    """None where the process couldn't be asked: that is tried again."""
    if answer is None or answer.problem:
        return None
    offers = {name: sorted(symbols) for name, symbols in answer.offers.items()}
    return asdict(answer) | {"offers": offers, "asked": sorted(answer.asked)}


def _restored(data: dict[str, Any]) -> Answer:
    libraries = {name: Opened(**found) for name, found in data["libraries"].items()}
    offers = {name: frozenset(symbols) for name, symbols in data["offers"].items()}
    sets = {"libraries": libraries, "offers": offers, "asked": frozenset(data["asked"])}
    return Answer(**data | sets | {"versions": _tuples(data["versions"])})


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
