"""From a server to its kernels and back: recorded, imported, compiled, delivered; then nothing may be compiled.

    python bench/recorded.py            on a GPU, in a project whose serving interpreter may be installed into

A stand-in for a server, with FlashInfer's own wrappers: the parent forks one worker (attention decode, page append,
rmsnorm) before it imports FlashInfer, which brings CUDA up (0.7.2.post1: flashinfer/kda_kernels asks for the GPU's
capability; a forked process can't use CUDA then), spawns another (ragged prefill with fa2, cascade merge), and works
itself (activation, packbits). It runs with an empty cache under `python -m fitasks.record`; its trace goes into an
empty kernels.yaml with `doit import_trace --write`; `doit` compiles, `doit install` delivers, `doit check --trace`
counts what isn't covered. Then the same server runs with FLASHINFER_DISABLE_JIT=1, an empty cache and no nvcc and no
ninja on PATH.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import bare_path  # noqa: E402

SERVER = """
import multiprocessing, sys, time

def workspace():
    import torch
    return torch.zeros(256 << 20, device="cuda", dtype=torch.uint8)

def tensor(*shape):
    import torch
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

def numbers(*values):
    import torch
    return torch.tensor(values, device="cuda", dtype=torch.int32)

def decoding():
    import flashinfer
    cache = (tensor(8, 16, 8, 128), tensor(8, 16, 8, 128))
    tables = numbers(*range(8)), numbers(0, 8), numbers(16)
    k, v, places = tensor(128, 8, 128), tensor(128, 8, 128), numbers(*range(128))
    flashinfer.append_paged_kv_cache(k, v, numbers(*[0] * 128), places, cache, *tables)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace(), "NHD")
    wrapper.plan(tables[1], tables[0], tables[2], 32, 8, 128, 16, q_data_type=k.dtype, kv_data_type=k.dtype)
    out = wrapper.run(tensor(1, 32, 128), cache)
    flashinfer.rmsnorm(out.view(1, -1), tensor(4096))

def prefilling():
    import flashinfer
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace(), "NHD", backend="fa2")
    at, q, k, v = numbers(0, 512), tensor(512, 32, 128), tensor(512, 8, 128), tensor(512, 8, 128)
    wrapper.plan(at, at, 32, 8, 128, causal=True, q_data_type=q.dtype, kv_data_type=q.dtype)
    (one, a), (two, b) = wrapper.run_return_lse(q, k, v), wrapper.run_return_lse(q, v, k)
    flashinfer.merge_state(one, a, two, b)

def itself():
    import flashinfer, torch
    flashinfer.silu_and_mul(tensor(7, 2 * 1024))
    flashinfer.packbits(torch.ones(100, device="cuda", dtype=torch.bool))

if __name__ == "__main__":
    begin = time.perf_counter()
    workers = [multiprocessing.get_context(way).Process(target=work) for way, work in
               (("fork", decoding), ("spawn", prefilling))]
    for worker in workers:
        worker.start()
    import torch
    itself()
    for worker in workers:
        worker.join()
    torch.cuda.synchronize()
    print(f"SERVED in {time.perf_counter() - begin:.1f} s")
    sys.exit(any(worker.exitcode for worker in workers))
"""


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="fitasks-recorded-") as name:
        base = Path(name)
        shutil.copy(ROOT / "dodo.py", base)
        (base / "kernels.yaml").write_text('targets: ["9.0a"]\nkernels: {}\n')
        (base / "server.py").write_text(SERVER)
        trace = base / "trace.jsonl"
        record = [sys.executable, "-m", "fitasks.record", "-o", str(trace), "--"]
        if _run("recorded", base, [*record, sys.executable, "server.py"], _env(base, "server")):
            return 1
        _tell(trace)
        ours = _env(base, "ours")
        status = 0
        for words in ("import_trace --write", "", "install", "check --trace"):
            told = [*words.split(), *([str(trace)] if "trace" in words else [])]
            status += _run(f"doit {words}".strip(), base, [sys.executable, "-m", "doit", *told], ours) != 0
        bare = _env(base, "bare", FLASHINFER_DISABLE_JIT="1", PATH=bare_path(base / "bin"))
        status += _run("delivered, JIT forbidden", base, [sys.executable, "server.py"], bare) != 0
        _run("doit uninstall", base, [sys.executable, "-m", "doit", "uninstall"], ours)
        return status


def _env(base: Path, cache: str, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "FITASKS"))}
    places = {"FLASHINFER_WORKSPACE_BASE": str(base / cache), "XDG_CACHE_HOME": str(base / "xdg")}
    return clean | places | {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"} | more


def _run(what: str, base: Path, command: list[str], env: dict[str, str]) -> int:
    begin = time.perf_counter()
    status = subprocess.run(command, cwd=base, env=env, check=False).returncode
    print(f"== {what}: exit status {status} after {time.perf_counter() - begin:.1f} s\n", flush=True)
    return status


def _tell(trace: Path) -> None:
    """Which process asked for which module."""
    asked = collections.defaultdict(list)
    for line in map(json.loads, trace.read_text().splitlines()):
        if line.get("name") and line["how"] != "begun":
            asked[line["pid"]].append(f"{line['name'][:60]} ({line['how']}, {line.get('seconds') or 0:.1f} s)")
    for pid, modules in asked.items():
        print(f"process {pid}:", *modules, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
