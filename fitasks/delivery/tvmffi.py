"""The C ABI of tvm-ffi: kernels have its headers inlined, and call the libtvm_ffi of the process that loads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_HEADER = "tvm_ffi/include/tvm/ffi/c_api.h"
_MACRO = re.compile(r"^#define TVM_FFI_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", re.MULTILINE)
_VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}")


def headers_abi(site_packages: Iterable[Path]) -> str:
    """The version that the environment's headers define, "0.1.16"; "" where there are none.

    It is not the package's: 0.1.15.post2 has 0.1.16.
    """
    for site in site_packages:
        try:
            numbers = _MACRO.findall((site / _HEADER).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        return ".".join(numbers) if len(numbers) == 3 else ""
    return ""


def is_version(text: str) -> bool:
    """Whether a text is such a version: manifests come from elsewhere."""
    return bool(_VERSION.fullmatch(text))


def same_abi(one: str, other: str) -> bool:
    """Whether "0.1.16" and "0.1.11" promise each other's ABI: before 1.0 minor versions break it (tvm-ffi's README)."""
    (major, minor, _), (other_major, other_minor, _) = one.split("."), other.split(".")
    return major == other_major and (major != "0" or minor == other_minor)
