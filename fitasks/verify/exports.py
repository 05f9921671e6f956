"""Which functions a module should export, by its sources: what the compiled file itself exports proves nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# One of: #if and its kin, #endif, tvm-ffi's TVM_FFI_DLL_EXPORT_TYPED_FUNC(name, …), which may go over several lines.
_TOKEN = re.compile(r"^[ \t]*#[ \t]*(if|endif)|^[ \t]*TVM_FFI_DLL_EXPORT_TYPED_FUNC\(\s*(\w+)", re.MULTILINE)


def expected_exports(sources: Iterable[Path]) -> list[str]:
    """The names that the sources export whatever is defined, sorted; those within #if may be left out by design."""
    return sorted({name for source in sources for name in _unconditional(source)})


def _unconditional(source: Path) -> Iterator[str]:
    try:
        text = source.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[2] and depth == 0:
            yield token[2]
        depth += {"if": 1, "endif": -1}.get(token[1] or "", 0)
