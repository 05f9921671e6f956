"""Will this environment's FlashInfer load each module ahead of time? The gate at the end of an image build.

    <serving python> ahead_of_time.py [FILE.json ...]

Runs alone, from wherever it was copied to: standard library and the installed FlashInfer, no GPU, no toolchain. A FILE
is what `doit check --json` writes: then the planned kernels are asked for. Without one it is the manifest of the
installed wheel (fitasks_kernels/manifest.json): then all that the wheel has.

Exit status 0 if FlashInfer's own lookup finds every module for every architecture, 1 if not, naming those that it
doesn't find, 2 if it cannot be asked. Nothing is loaded: without a GPU's driver no kernel can be.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHEEL = "fitasks_kernels"


class UnusableError(Exception):
    """FlashInfer cannot be asked; the text says what is wrong and what would be right."""


@dataclass(frozen=True)
class Wanted:
    """A module for one kind of host: all its GPU architectures, as FLASHINFER_CUDA_ARCH_LIST writes them: "8.0 9.0a".

    `flashinfer` is the version that it was built for, "" where the file doesn't say.
    """

    module: str
    target: str
    flashinfer: str = ""


@dataclass(frozen=True)
class Found:
    """What FlashInfer said on a host of one target: its version, and the file for each (module, architecture)."""

    flashinfer: str
    files: dict[tuple[str, str], Path | None]


def main(arguments: list[str]) -> int:
    """Ask, report; the exit status."""
    try:
        wanted = [entry for file in map(Path, arguments or [installed_manifest()]) for entry in read(file)]
        return report(wanted, ask(wanted))
    except UnusableError as error:
        print(error, file=sys.stderr)
        return 2


def installed_manifest() -> str:
    """Of the wheel in this environment. Raises UnusableError where there is none."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.origin:
        raise UnusableError(f"{sys.executable} has no {_WHEEL}; install the wheel that `doit wheel` makes")
    return str(Path(spec.origin).with_name("manifest.json"))


def read(file: Path) -> list[Wanted]:
    """What a file asks for, each thing once. Raises UnusableError."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        made_for = data.get("flashinfer", "")
        wanted = [Wanted(kernel["name"], _target(kernel), made_for) for kernel in data["kernels"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableError(f"{file}: neither of `doit check --json` nor a wheel's manifest: {error!r}") from None
    if not wanted:
        raise UnusableError(f"{file} names no kernel")
    return list(dict.fromkeys(wanted))


def _target(kernel: dict[str, Any]) -> str:
    """As `doit check` says it; a wheel names directories after theirs: sm80-sm90a is 8.0 9.0a."""
    if "target" in kernel:
        return str(kernel["target"])
    parts = [re.fullmatch(r"sm(\d+)(\d[a-z]?)", word) for word in kernel["directory"].split("-")]
    return " ".join(f"{part[1]}.{part[2]}" for part in parts if part)


def ask(wanted: list[Wanted]) -> dict[str, Found]:
    """FlashInfer's answers by target, each from a process of its own: it may choose at import. Raises UnusableError."""
    modules: dict[str, list[str]] = {}
    for entry in wanted:
        modules.setdefault(entry.target, []).append(entry.module)
    try:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            return dict(zip(modules, pool.map(look_up, modules, modules.values()), strict=True))
    except BrokenProcessPool:
        raise UnusableError(f"{sys.executable} dies while importing flashinfer") from None


def look_up(target: str, modules: list[str]) -> Found:
    """In a process of its own: where FlashInfer finds modules on a host of one target. Raises UnusableError.

    Each architecture is asked for alone: of several, JitSpec.is_aot is content with one that is served (0.7,
    jit/env.py, get_aot_artifacts, which reads the variable anew at every call).
    """
    os.environ |= {"FLASHINFER_DISABLE_JIT": "1", "FLASHINFER_CUDA_ARCH_LIST": target}
    version = _import_flashinfer()
    files = {}
    for architecture in target.split():
        os.environ["FLASHINFER_CUDA_ARCH_LIST"] = architecture
        files |= {(module, architecture): find(module) for module in modules}
    return Found(version, files)


def find(module: str) -> Path | None:
    """The file that FlashInfer would load ahead of time; None where it would compile."""
    from flashinfer.jit import env

    if not hasattr(env, "get_aot_artifacts"):  # up to 0.6: one directory, chosen at import (JitSpec.is_aot)
        path = Path(env.FLASHINFER_AOT_DIR, module, f"{module}.so")
        return path if path.exists() else None
    return next((Path(artifact.path) for artifact in env.get_aot_artifacts(module)), None)


def _import_flashinfer() -> str:
    try:
        with _device_questions_answered():
            import flashinfer.jit
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a provider for another version raises up to 0.7.0; a package may also exit
        text = " ".join(str(error).split())[:400]
        raise UnusableError(f"import flashinfer fails in {sys.executable}: {type(error).__name__}: {text}") from None
    return str(flashinfer.__version__)


@contextlib.contextmanager
def _device_questions_answered() -> Iterator[None]:
    """Let torch.cuda.get_device_properties fail with RuntimeError, as a CUDA torch without a GPU does.

    flashinfer/gdn_kernels/gdn_decode_bf16_state.py (0.6.8-0.6.11, 0.6.14-0.7.0) asks at import and swallows that;
    a CPU-only torch raises AssertionError.
    """
    import torch

    original = torch.cuda.get_device_properties

    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except AssertionError as error:
            raise RuntimeError(str(error)) from None

    torch.cuda.get_device_properties = answer
    try:
        yield
    finally:
        torch.cuda.get_device_properties = original


def report(wanted: list[Wanted], found: dict[str, Found]) -> int:
    """Print what is missing, or how much is there; the exit status."""
    version = next(iter(found.values())).flashinfer
    files = {(target, *key): path for target, one in found.items() for key, path in one.files.items()}
    missing = [key for key, path in files.items() if path is None]
    for target, module, architecture in missing:
        host = "" if target == architecture else f" (targets: {target})"
        print(f"{module}: not found ahead of time for {architecture}{host}")
    for made_for in sorted({entry.flashinfer for entry in wanted} - {"", version}):
        print(f"the wheel is for FlashInfer {made_for}, which is {version} here")
    if missing:
        print(f"FlashInfer {version} would compile {len(missing)} of {len(files)} module(s)")
        return 1
    size = sum(path.stat().st_size for path in set(files.values()) if path)
    print(f"FlashInfer {version} finds all {len(files)} module(s) ahead of time, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
