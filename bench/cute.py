"""FlashInfer's CuTe-DSL objects on a GPU: recorded, imported, made ahead, foretold, loaded, and computing right.

    python bench/cute.py --out DIR            on a GPU, with FlashInfer of 0.7.4 or newer and nvidia-cutlass-dsl

A server calls gated_residual_rmsnorm (two modes, five numbers of rows, in eight objects) and two of FlashInfer's nvcc
modules, and compares each result with torch's. It runs with an empty cache, recorded; its trace goes
into kernels.yaml with `doit import_trace --write`; `doit` compiles; `doit check` foretells, in the environment that the
same server then runs in, with the cache that `doit` filled. It may compile nothing: CuTe-DSL refuses, and no nvcc and
no host compiler is on PATH; ninja is, since FlashInfer asks it. Last comes `doit check --trace`. Exit status 0 if all
that succeeds, all results are right, and each outcome was foretold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import bare_path, exports  # noqa: E402
from bench.server_tables import foretold  # noqa: E402
from fitasks.record import variables  # noqa: E402

SERVER = """
import importlib, sys, time
import torch, flashinfer

if "--no-compiling" in sys.argv:
    from cutlass import cute
    def refuse(*args, **kwargs):
        raise SystemExit("CuTe-DSL compiles")
    type(cute.compile).__call__ = refuse

def tensor(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)

def residuals(rows, mode):
    kernel = importlib.import_module("flashinfer.norm.kernels.gated_residual_rmsnorm")
    branch, weight = tensor(rows, kernel.H), tensor(kernel.H)
    stream, alpha, beta = (tensor(n, kernel.H, dtype=torch.float32) for n in (rows, 1, 1))
    alpha, beta = alpha[0], beta[0]
    out = kernel.gated_residual_rmsnorm(branch, stream, weight, alpha, beta, 1e-5, 1.0, mode)
    x = branch.float() * (weight.float() + 1.0) if mode else branch.float()
    return out, alpha * stream + beta * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

def activated():
    x = tensor(7, 2048)
    gate, up = x.float().chunk(2, -1)
    return flashinfer.silu_and_mul(x).float(), (torch.nn.functional.silu(gate) * up).to(x.dtype).float()

def packed():
    bits = torch.arange(4096, device="cuda") % 3 == 0
    weights = 1 << torch.arange(7, -1, -1, device="cuda")
    return flashinfer.packbits(bits).float(), (bits.view(-1, 8) * weights).sum(-1).float()

CALLS = [(f"residual {rows} {mode}", residuals, rows, mode) for rows in (1, 16, 24, 48, 256) for mode in (0, 1)]
CALLS += [("silu_and_mul", activated), ("packbits", packed)]

wrong = 0
for name, call, *arguments in CALLS:
    begin = time.perf_counter()
    got, wanted = call(*arguments)
    torch.cuda.synchronize()
    worst = (got - wanted).abs().max().item()
    right = torch.allclose(got, wanted, rtol=2e-2, atol=2e-2)
    wrong += not right
    print(f"{name}: {'right' if right else 'WRONG'}, at most {worst:.2g} off, {time.perf_counter() - begin:.3f} s")
sys.exit(wrong)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="traces, predictions, and what is made")
    parser.add_argument("--target", default="9.0a")
    wanted = parser.parse_args()
    base = wanted.out.resolve()
    _project(base, wanted.target)
    cold, again, checked = (base / name for name in ("cold.jsonl", "again.jsonl", "check.json"))
    status = _run("cold", base, [sys.executable, "server.py"], _served(_env(base, "cold"), cold))
    env = _env(base, "ours")
    for words in (("import_trace", "--write", str(cold)), ()):
        status |= _doit(base, env, *words)
    serves = _doit_env(base, env) | {"PATH": bare_path(base / "bin", "ninja")}
    status |= _doit(base, serves, "check", "--json", str(checked))
    serving = [sys.executable, "server.py", "--no-compiling"]
    status |= _run("after doit", base, serving, _served(serves, again))
    status |= _doit(base, serves, "check", "--trace", str(again))
    told = foretold(checked, again)
    print("foretold:", ", ".join(f"{len(names)} {verdict}" for verdict, names in told.items()))
    print(json.dumps({verdict: names for verdict, names in told.items() if verdict != "right"}, indent=1))
    return int(status != 0 or set(told) != {"right"})


def _project(base: Path, target: str) -> None:
    base.mkdir(parents=True)
    shutil.copy(ROOT / "dodo.py", base)
    (base / "kernels.yaml").write_text(f"targets: [{json.dumps(target)}]\nkernels: {{}}\n")
    (base / "server.py").write_text(SERVER)


def _env(base: Path, cache: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "FITASKS"))}
    paths = [str(ROOT), *filter(None, clean.get("PYTHONPATH", "").split(os.pathsep))]
    places = {"FLASHINFER_WORKSPACE_BASE": str(base / cache), "XDG_CACHE_HOME": str(base / "xdg")}
    return clean | places | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _served(env: dict[str, str], trace: Path) -> dict[str, str]:
    return env | variables(trace, env)


def _doit(base: Path, env: dict[str, str], *words: str) -> int:
    return _run(" ".join(["doit", *words]), base, [sys.executable, "-m", "doit", *words], env)


def _doit_env(base: Path, env: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-m", "doit", "env"]
    said = subprocess.run(command, cwd=base, env=env, check=True, capture_output=True, text=True).stdout
    return env | exports(said, env)


def _run(what: str, base: Path, command: list[str], env: dict[str, str]) -> int:
    begin = time.perf_counter()
    status = subprocess.run(command, cwd=base, env=env, check=False).returncode
    print(f"== {what}: exit status {status} after {time.perf_counter() - begin:.1f} s\n", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
