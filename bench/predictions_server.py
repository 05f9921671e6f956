"""A server's first need of a kernel, in the serving interpreter: FlashInfer's own build_and_load, and what came of it.

    <serving python> predictions_server.py page

The last line of standard output is JSON: `kind` (loaded, refused, failed), `words`, `seconds` from the need to the
answer, and the libraries of the kernel's name that the process has mapped. Imports nothing of fitasks.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def need(kernel: str) -> dict[str, Any]:
    """What FlashInfer does when a server needs a kernel whose generator has no parameters."""
    try:
        generators = importlib.import_module(f"flashinfer.jit.{kernel}")
        refusal = getattr(importlib.import_module("flashinfer.jit.core"), "MissingJITCacheError", ())
    except BaseException as error:  # noqa: BLE001
        return {"kind": "failed", "words": f"cannot import flashinfer: {last_line(error)}"}
    begin = time.perf_counter()
    answer = load(getattr(generators, f"gen_{kernel}_module"), refusal)
    return answer | {"seconds": time.perf_counter() - begin}


def load(generate: Callable[[], Any], refusal: type[Exception] | tuple[()]) -> dict[str, Any]:
    """FlashInfer's own way; `refusal` is what it raises under FLASHINFER_DISABLE_JIT."""
    try:
        generate().build_and_load()
    except refusal as error:
        return {"kind": "refused", "words": type(error).__name__}
    except BaseException as error:  # noqa: BLE001
        return {"kind": "failed", "words": last_line(error)}
    return {"kind": "loaded", "words": ""}


def last_line(error: BaseException) -> str:
    """The type, and the last line that isn't ninja's."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("ninja: ")]
    return f"{type(error).__name__}: {said[-1] if said else ''}"


def mapped(name: str) -> list[str]:
    """The files named like this that this process has mapped."""
    with Path("/proc/self/maps").open() as maps:
        return sorted({line.split(None, 5)[5].strip() for line in maps if line.rstrip().endswith(name)})


if __name__ == "__main__":
    print(json.dumps(need(sys.argv[1]) | {"libraries": mapped(f"/{sys.argv[1]}.so")}))
