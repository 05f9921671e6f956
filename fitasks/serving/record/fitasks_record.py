"""Waits for FlashInfer to be imported, then has its modules noted (fitasks_notes.py).

Standard library only, and little of it: this runs in every process of a recorded server.
"""

from __future__ import annotations

import sys

from fitasks_quietly import quietly

TYPE_CHECKING = False  # typing itself would cost 5 ms
if TYPE_CHECKING:
    from typing import Any

_CORE = "flashinfer.jit.core"
_trace = ""


def install(path: str) -> None:
    """Record into `path`, which is absolute, from the moment that FlashInfer is imported. Once per process."""
    global _trace
    if not _trace:
        _trace = path
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Stands first in sys.meta_path until flashinfer.jit.core has been executed (finding it isn't importing it)."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _CORE:
            return None
        for finder in list(sys.meta_path):
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if spec is not None:
                quietly(self._wrap_after, spec.loader)
                return spec
        return None

    def _wrap_after(self, loader: Any) -> None:
        original = loader.exec_module

        def exec_module(module: Any) -> None:
            original(module)
            quietly(_wrap, module)
            quietly(sys.meta_path.remove, self)

        loader.exec_module = exec_module


def _wrap(core: Any) -> None:
    import fitasks_notes

    fitasks_notes.wrap(core, _trace)
