"""What an engine asks of a server before it uses FlashInfer at all, read from the installed engine's source.

vLLM 0.33's `has_flashinfer()` is False without nvcc (CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda) or ninja, unless
flashinfer-cubin is installed or VLLM_HAS_FLASHINFER_CUBIN is set; its MoE, FP8 and FP4 GEMM and all-reduce then do
without FlashInfer, silently. A server whose kernels are all delivered needs neither nvcc nor ninja for anything else.
SGLang 0.5.23 asks only whether the package is there and SGLANG_IS_FLASHINFER_AVAILABLE isn't false.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.plan.server import find_package
from fitasks.server.variables import package

if TYPE_CHECKING:
    from fitasks.plan.server import Server

_VLLM, _SGLANG = "VLLM_HAS_FLASHINFER_CUBIN", "SGLANG_IS_FLASHINFER_AVAILABLE"
_OFF = {"0", "false", "no", "off", "n", "f"}


def wanted_without_nvcc(server: Server) -> dict[str, str]:
    """The variables with which this engine uses FlashInfer where there is no nvcc; none where it doesn't ask for it."""
    if server.engine != "vllm" or package(server, "flashinfer_cubin") or not _asks_for_nvcc(server):
        return {}
    return {} if server.env.get(_VLLM, "0").strip() not in {"", "0"} else {_VLLM: "1"}


def _asks_for_nvcc(server: Server) -> bool:
    """Whether has_flashinfer() of the installed vLLM looks for nvcc and can be told not to."""
    root = package(server, "vllm")
    if root is None:
        return False
    try:
        text = (root / "utils" / "flashinfer.py").read_text(encoding="utf-8")
        functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    except (OSError, ValueError, SyntaxError):
        return False
    return "has_flashinfer" in functions and _VLLM in text and "nvcc" in _with_callees("has_flashinfer", functions)


def _with_callees(name: str, functions: dict[str, ast.FunctionDef]) -> str:
    """The code of a function, without its docstring, and of those of its module that it calls."""
    node = functions[name]
    body = node.body[1:] if ast.get_docstring(node) else node.body
    called = {one.id for part in body for one in ast.walk(part) if isinstance(one, ast.Name)}
    others = [functions[other] for other in sorted(called & functions.keys() - {name})]
    return "\n".join(ast.unparse(part) for part in [*body, *others])


def version_of_engine(server: Server) -> str:
    """The engine's name and version, as "vLLM 0.33.0"."""
    found = find_package(server.engine, server.site_packages)
    name = {"vllm": "vLLM", "sglang": "SGLang"}.get(server.engine, server.engine)
    return f"{name} {found.version}" if found else name


def finds_nvcc(env: dict[str, str], cuda_home: str = "") -> bool:
    """Whether vLLM's search would find nvcc and ninja in this environment, with this CUDA_HOME."""
    home = cuda_home or env.get("CUDA_HOME") or env.get("CUDA_PATH")
    nvcc = (
        Path(home, "bin", "nvcc") if home else shutil.which("nvcc", path=env.get("PATH")) or "/usr/local/cuda/bin/nvcc"
    )
    return bool(shutil.which(str(nvcc))) and bool(shutil.which("ninja", path=env.get("PATH")))


def refused(server: Server) -> str:
    """Why this engine doesn't use FlashInfer here whatever is installed; "" where it does, or isn't known not to."""
    if server.engine == "sglang" and server.env.get(_SGLANG, "").strip().lower() in _OFF:
        return f"{_SGLANG}={server.env[_SGLANG]}: {version_of_engine(server)} doesn't use FlashInfer"
    return ""
