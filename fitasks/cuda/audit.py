"""Will a kernel load? Decided by libraries, versions and symbols, without loading it.

`audit` compares receipts with one libcudart, whichever is to be judged; `refusal` compares a file with what the
dynamic loader of a server's process has (loader.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.cuda.cudart import missing
from fitasks.cuda.elf import is_driver_symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitasks.cuda.cudart import Cudart
    from fitasks.cuda.loader import Answer, Needs

DRIVER = "libcuda.so.1"  # comes with the GPU: the one library that may be missing
_ABSENT = "cannot open shared object file"
_SHOWN = 3


@dataclass(frozen=True)
class Refusal:
    """Why a library won't load, in a sentence; not `certain`: why nobody can say here whether it will."""

    sentence: str
    certain: bool = True


def refusal(name: str, needs: Needs, answer: Answer, remedy: Callable[[str], str]) -> Refusal | None:
    """What a server's dynamic loader has against `name` (`page.so`); None if nothing.

    `remedy` says what to do about a library that isn't found. Symbols count although they are bound late: the process
    dies at the first call of one that is missing.
    """
    if answer.problem:
        sentence = f"the serving interpreter can't be asked what {name} would find: {answer.problem}"
        return Refusal(sentence, certain=False)
    found = (look(name, needs, answer, remedy) for look in (_library, _version, _symbol))
    return next(filter(None, found), None)


def needs_driver(needs: Needs, answer: Answer) -> bool:
    """Whether a library needs the driver's, which isn't here."""
    return any(_soname(one) == DRIVER and answer.libraries[one].problem for one in needs.libraries)


def _library(name: str, needs: Needs, answer: Answer, remedy: Callable[[str], str]) -> Refusal | None:
    """The first library that isn't found, or can't be loaded."""
    for library in needs.libraries:
        soname, problem = _soname(library), answer.libraries[library].problem
        if not problem or soname == DRIVER:
            continue
        if problem.startswith(f"{DRIVER}: "):
            sentence = f"{name} needs {soname}, of which nobody can tell without the driver's {DRIVER}"
            return Refusal(sentence, certain=False)
        if _ABSENT in problem and problem.startswith(f"{soname}: "):
            sentence = f"{name} needs {soname}, which the server's dynamic loader doesn't find ({answer.process})"
            return Refusal(f"{sentence}: {remedy(soname)}")
        return Refusal(f"{name} needs {soname}, which the server's dynamic loader refuses: {problem}")
    return None


def _version(name: str, needs: Needs, answer: Answer, _remedy: Callable[[str], str]) -> Refusal | None:
    """The first version that the library found doesn't define. One that defines none is good for any (dl-version.c)."""
    for said in needs.versions:
        library, _, version = said.rpartition(" ")
        defined = answer.versions.get(library)
        if defined and version not in defined:
            what = f"{name} needs {version} of {_soname(library)}, not in {answer.libraries[library].path}"
            return Refusal(f"{what}: compile where that library is as old as the server's")
    return None


def _symbol(name: str, needs: Needs, answer: Answer, _remedy: Callable[[str], str]) -> Refusal | None:
    """All symbols that nothing offers. The driver's own aren't looked for where it is missing."""
    seen, driver = answer.offered(needs.libraries), needs_driver(needs, answer)
    absent = [one.partition("@")[0] for one in needs.symbols if one not in seen]
    absent = [symbol for symbol in absent if not (driver and is_driver_symbol(symbol))]
    if not absent:
        return None
    sentence = f"{name} needs {_few(absent)}, which no library beside {answer.process} has"
    if any(symbol.startswith("TVMFFI") for symbol in absent):
        sentence += ": compile it again, or install the apache-tvm-ffi that it was compiled with"
    return Refusal(sentence)


def _soname(library: str) -> str:
    """Without the directories of a RUNPATH."""
    return library.partition(":")[0]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def audit(name: str, needed: Sequence[str], undefined: Sequence[str], runtime: Cudart | None) -> str:
    """Why `name` (`page.so`) won't load with the server's libcudart, in a sentence; "" if it will.

    `needed` and `undefined` are the names of its NEEDED libraries and its undefined CUDA symbols ("cudaFree@…").
    """
    wanted = next((library for library in needed if library.startswith("libcudart.so.")), "")
    if not wanted:
        return ""
    if runtime is None:
        return f"{name} needs {wanted}, and the serving environment has no libcudart"
    if runtime.problem:
        return f"{name} needs {wanted}, and the server's is unusable: {runtime.problem}"
    if wanted != runtime.soname:
        major = runtime.soname.rpartition(".")[2]
        return (
            f"{name} needs {wanted}, the server has {runtime.soname} at {runtime.path}: "
            f"compile it again with a CUDA {major} toolkit"
        )
    absent = [symbol.partition("@")[0] for symbol in missing(needed, undefined, runtime)]
    if not absent:
        return ""
    return f"{name} needs {_few(absent)}, not in libcudart {runtime.version} at {runtime.path}"
