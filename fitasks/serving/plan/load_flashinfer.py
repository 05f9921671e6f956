"""Imports FlashInfer as a server would, also where torch has no CUDA, and says what was found.

Nothing here may change what FlashInfer would plan. The two shims only replace answers that a CPU-only torch
cannot give: a failure that FlashInfer expects as RuntimeError, and the CUDA_HOME that a CUDA torch would find.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import linecache
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plan_errors import FatalError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

# One architecture as FlashInfer's CompilationContext splits it: on single spaces, `major.minor` and a suffix.
_ARCH_LIST = re.compile(r"\d+\.\d+[a-z]?( \d+\.\d+[a-z]?)*")
_ARCH_REMEDY = 'write it like "9.0a", or several with one space between: "8.0 9.0a"'
# Modules whose wrappers decide which generator counts; `import flashinfer` loads them in every known version.
_RUNTIME = ("prefill", "decode", "attention", "mla")


def load() -> dict[str, Any]:
    """Import torch and FlashInfer; return what heads every response. Raises FatalError."""
    import_flashinfer()
    try:
        return _description()
    except AttributeError as error:
        raise FatalError(
            "unsupported",
            f"this FlashInfer lacks what planning needs: {one_line(error)}",
            "use FlashInfer 0.6.7 or newer",
        ) from error


def import_flashinfer() -> None:
    """Import torch and FlashInfer as a server would. Raises FatalError."""
    for module, package in (("torch", "torch"), ("flashinfer", "flashinfer-python")):
        if importlib.util.find_spec(module) is None:
            raise FatalError(
                f"no_{module}",
                f"import {module} fails in {sys.executable}: No module named {module!r}",
                f"install {package} there, or name the server's own interpreter as serving.python",
            )
    with uncollected():
        _import("torch")
        _import_flashinfer()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from what is imported: looking at it again and again, and at exit, is a third."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a package may also leave with SystemExit
        raise _import_failure(name, error) from error


def _import_failure(name: str, error: BaseException) -> FatalError:
    archs = os.environ.get("FLASHINFER_CUDA_ARCH_LIST")
    if archs is not None and not _ARCH_LIST.fullmatch(archs):
        message = f"FLASHINFER_CUDA_ARCH_LIST is {archs!r}, which FlashInfer cannot read"
        return FatalError("arch_list", message, _ARCH_REMEDY)
    return FatalError(
        "import",
        f"import {name} fails in {sys.executable}: {one_line(error)}",
        _remedy(name, error),
    )


def _remedy(name: str, error: BaseException) -> str:
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's, of jit/env.py
        return "set HOME to a directory that this user can write to, for doit and the server alike"
    if variable := _variable(error):
        return f"correct {variable} (it is {os.environ[variable]!r}), or unset it"
    return f'make this work: {sys.executable} -c "import {name}"'


def _variable(error: BaseException) -> str:
    """The variable of the environment whose value the error speaks of, and that a file on the way to it reads."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    text = "".join(line for file in files for line in linecache.getlines(file))
    said = str(error).lower()
    spoken = (name for name, value in os.environ.items() if len(value) > 1 and value.lower() in said)
    own = ("HOME", "FLASHINFER_")
    read = [name for name in spoken if name.startswith(own) or f'"{name}"' in text or f"'{name}'" in text]
    return max(read, key=lambda name: len(os.environ[name]), default="")


def _import_flashinfer() -> None:
    import torch

    cpu_only = torch.version.cuda is None
    with _device_questions_answered(torch) if cpu_only else contextlib.nullcontext():
        _import("flashinfer")
        _import("flashinfer.jit")
        _import("flashinfer.jit.attention")
    for name in _RUNTIME:
        with contextlib.suppress(Exception):
            importlib.import_module(f"flashinfer.{name}")
    if cpu_only:
        _give_cuda_home()


@contextlib.contextmanager
def _device_questions_answered(torch: Any) -> Iterator[None]:
    """Let torch.cuda.get_device_properties fail with RuntimeError, as a CUDA torch without a GPU does.

    flashinfer/gdn_kernels/gdn_decode_bf16_state.py (0.6.8-0.6.11, 0.6.14-0.7.0) asks at import, and its
    importers swallow RuntimeError and ImportError; a CPU-only torch raises AssertionError.
    """
    original = torch.cuda.get_device_properties

    def ask(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except AssertionError as error:
            raise RuntimeError(str(error)) from None

    torch.cuda.get_device_properties = ask
    try:
        yield
    finally:
        torch.cuda.get_device_properties = original


def _give_cuda_home() -> None:
    """Set torch's CUDA_HOME as a CUDA torch does at import; generators that link torch's libraries ask for it.

    A CPU-only torch leaves it None (torch/utils/cpp_extension.py: CUDA_HOME = _find_cuda_home() if ...).
    """
    with contextlib.suppress(Exception):
        cpp_extension: Any = importlib.import_module("torch.utils.cpp_extension")
        if cpp_extension.CUDA_HOME is None:
            cpp_extension.CUDA_HOME = cpp_extension._find_cuda_home()


def _description() -> dict[str, Any]:
    import flashinfer
    import torch
    import tvm_ffi
    from flashinfer.jit import core, env

    try:
        core.check_cuda_arch()
    except RuntimeError as error:
        raise FatalError("arch_list", one_line(error), _ARCH_REMEDY) from error
    home = _toolkit()
    return {
        "flashinfer": flashinfer.__version__,
        "flashinfer_root": str(Path(flashinfer.__file__).parent),
        "torch": str(torch.__version__),
        "tvm_ffi": tvm_ffi.__version__,
        "workspace": str(env.FLASHINFER_WORKSPACE_DIR),
        "arch": env.FLASHINFER_WORKSPACE_DIR.name,
        # Whether an ahead-of-time module that can't be loaded is passed over, for the cache (JitSpec.build_and_load).
        "passes_over": hasattr(core.JitSpec, "try_load"),
        "cuda_home": home,
    }


def _toolkit() -> str:
    """CUDA_HOME as FlashInfer finds it, with an nvcc that tells its release: both are part of every ninja file."""
    from flashinfer.jit import cpp_ext

    try:
        cpp_ext.get_cuda_version()
        return str(cpp_ext.get_cuda_path())
    except (RuntimeError, OSError) as error:
        raise FatalError(
            "toolkit",
            f"FlashInfer finds no CUDA toolkit: {one_line(error)}",
            "set CUDA_HOME to a toolkit with bin/nvcc",
        ) from error
