"""What a CuTe-DSL object is made from, said so that it is the same wherever the same packages are installed.

FlashInfer's own key isn't: it has the absolute paths of sources and, since 0.7.4, packages' RECORDs, which differ
between two environments that the same wheels were installed into (hashes of scripts, whose first line names the
environment; byte code; the installer). What is compiled is the same, to the byte where it has no line numbers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import sysconfig
from pathlib import Path
from typing import Any

from plan_spec import replaced

_PACKAGES = ("torch", "apache-tvm-ffi", "flashinfer-python")  # beside all of nvidia-cutlass-dsl*
_COMPILER = "nvidia-cutlass-dsl"


def python() -> str:
    """The interpreter's kind, as far as FlashInfer's key has it."""
    return f"{sys.implementation.cache_tag};{sysconfig.get_config_var('SOABI')}"


def packages() -> list[list[str]]:
    """[name, version, digest of its files] of each package that decides; "" where nobody tells which files it has."""
    found = ((_name(one), one) for one in importlib.metadata.distributions())
    return sorted([name, one.version, _files(one)] for name, one in found if _counts(name))


def _name(package: Any) -> str:
    return (package.metadata["Name"] or "").lower().replace("_", "-")


def _counts(name: str) -> bool:
    return name in _PACKAGES or name.startswith(_COMPILER)


def _files(package: Any) -> str:
    """A digest of RECORD without what an installer makes itself: scripts, byte code, notes about the installation."""
    if package.read_text("direct_url.json") or not (record := package.read_text("RECORD")):
        return ""
    lines = sorted(line for line in record.splitlines() if _is_packed(line.partition(",")[0]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_packed(path: str) -> bool:
    outside = path.startswith(("../", "/", "bin/"))  # pip install --target has bin/ inside
    return not outside and not path.endswith(".pyc") and ".dist-info/" not in path


class Sources:
    """The key files of each object, by the hash that FlashInfer makes of them, while it is asked for objects."""

    def __init__(self, core: Any) -> None:
        self._core, self._hash = core, core._hash_source_files
        self._paths: dict[str, list[str]] = {}

    def noted(self) -> Any:
        """A context in which FlashInfer's hashes are noted."""
        return replaced(self._core, "_hash_source_files", self._noting)

    def _noting(self, paths: Any) -> str:
        sha = str(self._hash(paths))
        self._paths[sha] = list(map(str, paths))
        return sha

    def of(self, spec: Any) -> dict[str, str]:
        """{path below FlashInfer: SHA-256} of what one object's key covers."""
        root = Path(str(sys.modules["flashinfer"].__file__)).parent
        paths = map(Path, sorted(set(self._paths.get(spec.expected_meta["source_sha256"], ()))))
        return {_below(path, root): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if root in path.parents else str(path)
