"""A server's first calls of FlashInfer's CuTe-DSL kernels, in processes that may not compile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests import warm

if TYPE_CHECKING:
    from collections.abc import Mapping

GATE = "flashinfer.norm.kernels.rmsnorm_sigmoid_gate"
# FlashInfer reads its variables when it is imported: each environment has a process of its own, which has torch already.
_SERVERS = f"""
import gc; gc.disable()
import importlib, json, os, sys, torch
os.environ["CUTE_DSL_ARCH"] = "sm_90a"
from cutlass import cute
def compile(*args, **kwargs):
    raise SystemExit("it compiles")
type(cute.compile).__call__ = compile
def serve(env):
    os.environ |= env
    module = importlib.import_module({GATE!r})
    return [type(module._get_compiled(heads, 1024, 1024, 16, 4, 1)).__name__ for heads in (8, 4)]
for env in json.loads(sys.argv[1]):
    if not os.fork():
        try:
            print(json.dumps(serve(env)), flush=True)
        except BaseException as error:
            print(json.dumps([str(error)]), flush=True)
        os._exit(0)
    os.wait()
"""
LOADED = ["Function"] * 2


def served(env: Mapping[str, str], *environments: dict[str, str]) -> list[list[str]]:
    """In each environment: what a server is given for 8 and for 4 heads, or the one thing that it says before it ends."""
    done = warm.run(warm.TORCH, ["-c", _SERVERS, json.dumps(environments)], Path.cwd(), env)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
