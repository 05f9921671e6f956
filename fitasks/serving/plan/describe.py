"""Says where this interpreter looks for packages, and which it would import. Imports none of them: 50 ms.

    <serving python> describe.py RESPONSE.json

The response: {"prefix", "path": directories that an import looks through, without the standard library's, "site": those
of them whose .pth files are read, the environment's own first, "packages": {"flashinfer": {"root", "version"}} of what
can be imported, "reads": all that this answer rests on (plan_reads.py)}. A version is the module's own, "" where it
can't be had without importing the package.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
from plan_reads import Reads, in_standard_library, search_path, site_directories  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry != _HERE]

_PACKAGES = ("flashinfer", "torch", "tvm_ffi", "sglang", "vllm")
_VERSIONS = ("version", "_version", "_build_meta")  # modules that say `__version__`


def main(response: Path) -> int:
    """Run the script; the exit status."""
    reads = Reads()
    reads.start()
    packages = {name: found for name in _PACKAGES if (found := _package(name))}
    answer = {
        "prefix": sys.prefix,
        "path": [path for path in search_path() if os.path.isdir(path) and not in_standard_library(path)],  # noqa: PTH112
        "site": _site(),
        "packages": packages,
        "reads": reads.noted(str(response.parent)),
    }
    response.write_text(json.dumps(answer), encoding="utf-8")
    return 0


def _site() -> list[str]:
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([paths["purelib"], paths["platlib"], *site_directories()]))


def _package(name: str) -> dict[str, str] | None:
    """Where `import name` would find a package; None where it would find none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # what is in its place cannot be imported
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    root = str(next(iter(spec.submodule_search_locations)))
    return {"root": root, "version": _version(name, root)}


def _version(name: str, root: str) -> str:
    """By the package's module of versions, run without the package: a copy's dist-info may be another's, or none."""
    stand_in: Any = types.ModuleType(name)
    stand_in.__path__ = [root]
    sys.modules[name] = stand_in
    try:
        for module in _VERSIONS:
            with contextlib.suppress(Exception):
                return str(importlib.import_module(f"{name}.{module}").__version__)
        return ""
    finally:
        for loaded in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[loaded]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
