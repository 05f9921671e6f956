"""Stand-ins for FlashInfer's own packages: the interface that FlashInfer asks, and nothing else of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SHIM = """
import importlib.metadata, pathlib, types
__version__ = "{version}"
def get_jit_cache_providers():
    found = []
    for point in importlib.metadata.entry_points(group="flashinfer.jit_cache.providers"):
        try:
            said = point.load()()
        except Exception as error:
            print("ignored:", point.name, error, file=__import__("sys").stderr)
            continue
        found.append(types.SimpleNamespace(provider_id=point.name, **{{name: said[name] for name in (
            "distribution", "version", "jit_cache_dir", "cuda_architectures", "modules")}}))
    return tuple(found)
"""

_MONOLITH = """
import pathlib
__version__ = "{version}"
def get_jit_cache_dir():
    return str(pathlib.Path(__file__).parent / "jit_cache")
"""

_PROVIDER = """
import json, pathlib
def get_provider():
    here = pathlib.Path(__file__).parent
    return {{**json.loads((here / "manifest.json").read_text()), "jit_cache_dir": str(here / "jit_cache")}}
"""


def shim(site: Path, version: str, *, monolith: tuple[str, ...] = ()) -> Path:
    """`flashinfer-jit-cache`: from 0.7 on a shim; with the modules in it before that."""
    package = site / "flashinfer_jit_cache"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text((_MONOLITH if monolith else _SHIM).format(version=version))
    _modules(package, monolith)
    _info(site, "flashinfer_jit_cache", version)
    return site


def provider(site: Path, version: str, *modules: str, architecture: str = "sm90a") -> Path:
    """`flashinfer-jit-cache-sm90a`: a provider below the shim's name."""
    package = site / "flashinfer_jit_cache" / "providers" / architecture
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PROVIDER.format())
    manifest = {
        "schema_version": 1,
        "provider_id": architecture,
        "distribution": f"flashinfer-jit-cache-{architecture}",
        "version": version,
        "cuda_architectures": [architecture],
        "modules": list(modules),
    }
    (package / "manifest.json").write_text(json.dumps(manifest))
    _modules(package, modules)
    info = _info(site, f"flashinfer_jit_cache_{architecture}", version)
    line = f"{architecture} = flashinfer_jit_cache.providers.{architecture}:get_provider\n"
    (info / "entry_points.txt").write_text(f"[flashinfer.jit_cache.providers]\n{line}")
    return site


def _modules(package: Path, names: tuple[str, ...]) -> None:
    for name in names:
        library = package / "jit_cache" / name / f"{name}.so"
        library.parent.mkdir(parents=True)
        library.touch()


def _info(site: Path, name: str, version: str) -> Path:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    return info
