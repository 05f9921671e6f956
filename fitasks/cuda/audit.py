"""Will a kernel load? Decided by symbols, without loading anything; versions only explain.

What a kernel needs stands in its receipt, so that hundreds are audited without opening one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.cuda.cudart import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.cuda.cudart import Cudart

_SHOWN = 3


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
    more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
    return f"{name} needs {', '.join(absent[:_SHOWN])}{more}, not in libcudart {runtime.version} at {runtime.path}"
