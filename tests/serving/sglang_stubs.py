"""SGLang's real package without what a kernel's module doesn't need: its server's dependencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_STUBS = {
    "sglang/__init__.py": "__path__.append({real!r} + '/sglang')",
    "sglang/srt/__init__.py": "__path__.append({real!r} + '/sglang/srt')",
    "sglang/utils.py": "is_in_ci = lambda: False",
    "sglang/srt/utils/__init__.py": "",
    "sglang/srt/utils/common.py": "get_cuda_version = lambda: (13, 0)\nis_cuda = lambda: True",
    "sglang/srt/utils/custom_op.py": "register_custom_op = lambda made=None, **more: made or (lambda function: function)",
    "sglang/kernels/__init__.py": "__path__.append({real!r} + '/sglang/kernels')",
}


def stubbed(place: Path, real: Path) -> Path:
    """What PYTHONPATH needs for the package in `real`; made in `place`."""
    for name, text in _STUBS.items():
        file = place / "stubs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if (real / name).exists() or "kernels" not in name:
            file.write_text(text.format(real=str(real)))
    return place / "stubs"
