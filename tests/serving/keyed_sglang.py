"""SGLang 0.5.23's real package for tests of its content-addressed JIT: scripts asked about it, and servers with it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests import warm
from tests.serving.flashinfer_wheels import wheel_of
from tests.serving.planner_runs import PLAN, environment, run
from tests.serving.sglang_stubs import stubbed

CLAMP = "sglang.kernels.ops.attention.clamp_position:_jit_clamp_position_module"
NAME = "sgl_kernel_jit_clamp_position_int64_t"
INT64: tuple[str, dict[str, Any]] = (CLAMP, {"dtype": "int64"})
# SGLang itself, each time in a process of its own, which may ask compilers for their version and start nothing else.
SERVERS = """
import gc; gc.disable()
import json, os, subprocess, sys, torch
import sglang.kernels.jit.utils.compile.loader
from sglang.kernels.ops.attention.clamp_position import _jit_clamp_position_module
torch.cuda.current_device, torch.cuda.get_device_capability = lambda: 0, lambda device: (9, 0)
class Popen(subprocess.Popen):
    def __init__(self, command, *args, **kwargs):
        if list(command[1:]) != ["--version"]:
            raise SystemExit(f"it starts {command[0]}")
        super().__init__(command, *args, **kwargs)
subprocess.Popen = Popen
def serve(env):
    os.environ |= env
    try:
        return f"found {type(_jit_clamp_position_module(torch.int64).clamp_position).__name__}"
    except (SystemExit, RuntimeError) as error:
        return str(error)
    except AttributeError:
        return "found"
for env in json.loads(sys.argv[1]):
    if not os.fork():
        print(json.dumps(serve(env)), flush=True)
        os._exit(0)
    os.wait()
"""


class Place(NamedTuple):
    """SGLang with sources of its own, a server's environment for it, and what scripts answered there."""

    root: Path
    env: dict[str, str]
    planned: dict[str, Any]
    made: dict[str, Any]

    @property
    def cache(self) -> Path:
        return self.root / ".cache" / "sglang" / "jit"

    @property
    def module(self) -> dict[str, Any]:
        """As it was built."""
        module: dict[str, Any] = self.made["kernels"][0]
        return module

    def servers(self, *environments: dict[str, str]) -> list[str]:
        """What SGLang says in each."""
        done = warm.run(warm.TORCH, ["-c", SERVERS, json.dumps(environments)], self.root, self.env)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]


def ask(
    script: str, root: Path, env: dict[str, str], *kernels: tuple[str, dict[str, Any]], **more: Any
) -> dict[str, Any]:
    wanted = [{"id": index, "op": op, "params": params} for index, (op, params) in enumerate(kernels)]
    request = {"version": 1, "architecture": "9.0a", "kernels": wanted, **more}
    _, answer = run(PLAN.with_name(script), request, root / "asked", env)
    assert "fatal" not in answer, answer
    return answer


def serving(root: Path, **more: str) -> dict[str, str]:
    """A server's environment, with SGLang's own sources in a copy."""
    place = packages(root)
    env = environment(root, HOME=str(root), SOURCE=str(source_in(place[0])), **more)
    return env | {"PYTHONPATH": os.pathsep.join([*map(str, place), env["PYTHONPATH"]])}


def packages(root: Path) -> tuple[Path, Path]:
    """What PYTHONPATH needs. SGLang's JIT directory is a copy: what it is made from may be changed."""
    real = wheel_of("sglang", "sglang==0.5.23")
    stubs = stubbed(root, real)
    shutil.copytree(real / "sglang" / "kernels" / "jit", stubs / "sglang" / "kernels" / "jit")
    return stubs, wheel_of("msgspec", "msgspec==0.22.0")


def source_in(stubs: Path) -> Path:
    """The source of CLAMP."""
    return stubs / "sglang" / "kernels" / "jit" / "csrc" / "elementwise" / "clamp_position.cuh"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def saying(path: Path, text: str) -> Path:
    """A program that says its version, and can do nothing else."""
    return script(path, f"#!/bin/sh\nprintf %s {shlex.quote(text)}\n")


def image(place: Place, root: Path) -> dict[str, str]:
    """A server's environment without compilers: CUDA_HOME and PATH have what `needs` says of them."""
    said = {name: one["says"] for name, one in place.planned["needs"]["compilers"].items()}
    saying(root / "cuda" / "bin" / "nvcc", said["nvcc"])
    saying(root / "bin" / "c++", said["c++"])
    return {"CUDA_HOME": str(root / "cuda"), "PATH": str(root / "bin")}
