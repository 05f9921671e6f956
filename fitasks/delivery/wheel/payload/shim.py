"""Where FlashInfer looks for ahead-of-time kernels, if its own `flashinfer-jit-cache` isn't installed.

This directory is the last of `sys.path` (fitasks-kernels.pth), so FlashInfer's own package wins wherever both are
there; where another order of directories makes this one win, it stands aside.
"""

from __future__ import annotations

import importlib.metadata
import logging
import pkgutil
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import fitasks_kernels  # type: ignore[import-not-found]

_logger = logging.getLogger("flashinfer.jit")
_here = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class JitCacheProvider:
    """What FlashInfer 0.7 asks of a provider."""

    provider_id: str
    distribution: str
    version: str
    jit_cache_dir: Path
    cuda_architectures: frozenset[str]
    modules: frozenset[str]


def get_jit_cache_providers() -> tuple[JitCacheProvider, ...]:
    """For FlashInfer 0.7: every installed provider that is for it, ours and others'."""
    found = []
    for entry_point in importlib.metadata.entry_points(group="flashinfer.jit_cache.providers"):
        try:
            found.append(_provider(entry_point))
        except Exception as error:  # noqa: BLE001 - one bad provider must not cost the others
            _logger.warning("Ignoring flashinfer jit-cache provider %s: %s", entry_point.name, error)
    return tuple(sorted(found, key=lambda provider: provider.provider_id))


def _provider(entry_point: importlib.metadata.EntryPoint) -> JitCacheProvider:
    said = entry_point.load()()
    if said["schema_version"] != 1:
        raise RuntimeError(f"its manifest has schema {said['schema_version']}")
    if str(said["version"]).partition("+")[0] != __version__.partition("+")[0]:
        raise RuntimeError(f"it is for FlashInfer {said['version']}, this is {__version__}")
    return JitCacheProvider(
        entry_point.name,
        str(said["distribution"]),
        __version__,  # FlashInfer compares it with ours, down to the local part
        Path(said["jit_cache_dir"]),
        frozenset(said["cuda_architectures"]),
        frozenset(said["modules"]),
    )


def get_jit_cache_dir() -> str:
    """For FlashInfer up to 0.6: where its ahead-of-time modules are; its own place if we have none for it."""
    context = sys.modules["flashinfer.compilation_context"].CompilationContext()
    targets = [f"sm{major}{minor}" for major, minor in context.TARGET_CUDA_ARCHS]
    if found := fitasks_kernels.directory(targets):
        return str(found)
    reason = fitasks_kernels.mismatch() or f"it has nothing for {', '.join(targets) or 'no GPU'}"
    _logger.warning("Ignoring the kernels of fitasks-kernels: %s", reason)
    return str(Path(sys.modules["flashinfer"].__path__[0], "data", "aot"))


__version__ = fitasks_kernels.running()  # of the interface; kernels say themselves what they are for
__path__ = pkgutil.extend_path([str(Path(__file__).parent)], __name__)  # FlashInfer's providers lie there

_theirs = PathFinder.find_spec(__name__, [entry for entry in sys.path if Path(entry).resolve() != _here])
if _theirs is not None and _theirs.origin is not None and _theirs.loader is not None:
    __spec__, __file__ = _theirs, _theirs.origin
    __path__ = list(_theirs.submodule_search_locations or ())
    _theirs.loader.exec_module(sys.modules[__name__])
