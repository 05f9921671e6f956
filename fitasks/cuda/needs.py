"""Which toolkit headers a module needs, known before it is compiled.

The sources' `#include` lines are followed through FlashInfer's own include directories. What is found in none
of them and belongs to a component of the toolkit is needed from the toolkit. Conditions are not evaluated:
measured with `nvcc -M` over twelve modules of FlashInfer 0.7.2.post1 (page, norm, rope, sampling,
quantization, cascade, topk, activation, decode, MLA, fa2 and fa3 prefill) the only includes that the compiler
passes over and this scan does not are CCCL's own (`cuda/std/__compare/…`), which `_is_vendored` recognises.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, isdir, isfile, normpath
from typing import TYPE_CHECKING

from fitasks.cuda.components import component_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_INCLUDE = re.compile(rb'#[ \t]*include[ \t]*(?:<([^>\n]+)>|"([^"\n]+)")')
_DIRECTORY = re.compile(r"(?:^|\s)(?:-I|-isystem)\s*(\S+)")
_ASSIGNMENT = re.compile(r"^(\w+) = (.*)$", re.MULTILINE)

_NONE: frozenset[str] = frozenset()


def _joined(ninja: str) -> str:
    return re.sub(r"\$\n[ \t]*", "", ninja)


def include_dirs(ninja: str) -> tuple[Path, ...]:
    """The -I and -isystem directories of a build.ninja, in order, without the toolkit's ($cuda_home)."""
    text = _joined(ninja)
    homes = tuple(value for name, value in _ASSIGNMENT.findall(text) if name == "cuda_home")
    found = dict.fromkeys(_DIRECTORY.findall(text))
    return tuple(
        Path(name) for name in found if "$" not in name and not any(Path(name).is_relative_to(home) for home in homes)
    )


class IncludeMemo:
    """Every file read once and every name looked up once per process, for all kernels together."""

    def __init__(self) -> None:
        self._includes: dict[str, list[tuple[str, bool]]] = {}
        self._is_file: dict[str, bool] = {}
        self.graphs: dict[tuple[str, ...], _Graph] = {}

    def includes(self, path: str) -> list[tuple[str, bool]]:
        """(name, in quotes?) of each `#include` of a file; none for a file that cannot be read."""
        found = self._includes.get(path)
        if found is None:
            try:
                text = Path(path).read_bytes()
            except OSError:
                text = b""
            found = [
                ((match[1] or match[2]).decode(errors="replace"), match[2] is not None)
                for match in _INCLUDE.finditer(text)  # three times as fast as with "^[ \t]*" in front
                if not text[text.rfind(b"\n", 0, match.start()) + 1 : match.start()].strip()
            ]
            self._includes[path] = found
        return found

    def is_file(self, path: str) -> bool:
        found = self._is_file.get(path)
        if found is None:
            found = self._is_file[path] = isfile(path)
        return found


class _Graph:
    """What the files reachable under one list of include directories need, file by file."""

    def __init__(self, memo: IncludeMemo, dirs: tuple[str, ...]) -> None:
        self._memo = memo
        self._dirs = dirs
        self._needs: dict[str, frozenset[str]] = {}
        self._vendored: dict[str, bool] = {}

    @property
    def read(self) -> Iterable[str]:
        """Every file that was come to."""
        return self._needs.keys()

    def needs(self, source: str) -> frozenset[str]:
        """The toolkit headers that `source` includes, directly or through others."""
        if source not in self._needs:
            self._settle(source)
        return self._needs[source]

    def _settle(self, source: str) -> None:
        """Reads all that is new and reachable, then hands each file's needs to its includers."""
        includers: dict[str, list[str]] = {source: []}
        todo = [source]
        for path in todo:  # grows while it is walked
            children, self._needs[path] = self._resolve(path)
            for child in children:
                if child not in self._needs and child not in includers:
                    todo.append(child)
                includers.setdefault(child, []).append(path)
        spread = [path for path in includers if self._needs[path]]
        while spread:
            path = spread.pop()
            for includer in includers.get(path, ()):
                if not self._needs[path] <= self._needs[includer]:
                    self._needs[includer] |= self._needs[path]
                    spread.append(includer)

    def _resolve(self, path: str) -> tuple[list[str], frozenset[str]]:
        """The files that `path` includes, and what it names that only a toolkit can have."""
        files, needs = [], []
        for name, quoted in self._memo.includes(path):
            found = self._find(name, dirname(path) if quoted else "")
            if found:
                files.append(found)
            elif component_of(name) and not self._is_vendored(name):
                needs.append(name)
        return files, frozenset(needs) if needs else _NONE

    def _find(self, name: str, beside: str) -> str:
        for directory in (beside, *self._dirs) if beside else self._dirs:
            path = f"{directory}/{name}"
            if self._memo.is_file(path):
                return normpath(path)
        return ""

    def _is_vendored(self, name: str) -> bool:
        """Whether an include directory has the tree (`cuda/…`) that a missing name is in."""
        top, slash, _ = name.partition("/")
        if not slash:
            return False
        if top not in self._vendored:
            self._vendored[top] = any(isdir(f"{directory}/{top}") for directory in self._dirs)
        return self._vendored[top]


def reachable(sources: Iterable[Path], dirs: Sequence[Path], memo: IncludeMemo) -> frozenset[str]:
    """`sources` and the files below `dirs` that their `#include` lines lead to. Conditions are not evaluated."""
    graph = _Graph(memo, tuple(str(directory) for directory in dirs))
    for source in sources:
        graph.needs(normpath(str(source)))
    return frozenset(graph.read)


def needed_headers(sources: Iterable[Path], dirs: Sequence[Path], memo: IncludeMemo) -> frozenset[str]:
    """Names of the toolkit headers that `sources` need, as their `#include` lines name them.

    `dirs` are FlashInfer's own include directories, see `include_dirs`. Sources that are not there need
    nothing.
    """
    key = tuple(str(directory) for directory in dirs)
    graph = memo.graphs.get(key)
    if graph is None:
        graph = memo.graphs[key] = _Graph(memo, key)
    return _NONE.union(*(graph.needs(normpath(str(source))) for source in sources))
