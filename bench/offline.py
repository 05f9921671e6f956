"""The proof of delivery: attention runs where nothing could be compiled.

    python bench/offline.py            on a GPU, after doit install

A process without privileges, with a read-only home, an empty cache (FlashInfer's import makes its directory, so that
it must be writable), no nvcc, ninja or compiler on PATH, and FLASHINFER_DISABLE_JIT=1 runs paged prefill and decode
(bfloat16, head_dim 128) and compares both with torch's own attention. Prints the seconds of each first call, the
errors, and the files of the modules that were loaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.environment import bare_path

TMP = "/tmp"  # noqa: S108 - the user nobody may write nowhere else # nosec B108

_SERVER = """
import os, shutil, sys, time
assert os.geteuid() != 0, "still root"
assert not any(map(shutil.which, ("nvcc", "ninja", "gcc", "c++"))), "a compiler is on PATH"
import torch
torch.ones(8, device="cuda").sum().item()
import flashinfer

def tensor(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

def numbers(*values):
    return torch.tensor(values, device="cuda", dtype=torch.int32)

length, page, heads, kv_heads, dim = 2048, 16, 32, 8, 128
pages = length // page
k, v = tensor(pages, page, kv_heads, dim), tensor(pages, page, kv_heads, dim)
workspace = torch.zeros(256 << 20, device="cuda", dtype=torch.uint8)
table = torch.arange(pages, device="cuda", dtype=torch.int32)

def expected(q, causal):
    flat = [x.view(length, kv_heads, dim).transpose(0, 1).float() for x in (k, v)]
    many = [x.repeat_interleave(heads // kv_heads, 0) for x in flat]
    out = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1).float(), *many, is_causal=causal)
    return out.transpose(0, 1)

def report(name, q, seconds, out, causal):
    error = ((out.float() - expected(q, causal)).abs().max()).item()
    print(f"{name}: first call {seconds:.3f} s, largest error {error:.4f}")
    assert error < 0.03, error

q = tensor(length, heads, dim)
begin = time.perf_counter()
wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
wrapper.plan(numbers(0, length), numbers(0, pages), table, numbers(page), heads, kv_heads, dim, page, causal=True,
             q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
out = wrapper.run(q, (k, v))
torch.cuda.synchronize()
report(f"prefill ({wrapper._backend})", q, time.perf_counter() - begin, out, True)

q = tensor(1, heads, dim)
begin = time.perf_counter()
wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
wrapper.plan(numbers(0, pages), table, numbers(page), heads, kv_heads, dim, page, q_data_type=torch.bfloat16,
             kv_data_type=torch.bfloat16)
out = wrapper.run(q, (k, v))
torch.cuda.synchronize()
report("decode", q, time.perf_counter() - begin, out, False)
maps = open("/proc/self/maps").read().splitlines()
print(*sorted({line.split()[-1] for line in maps if "fitasks_kernels" in line}), sep="\\n")
"""


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home, bare = Path(directory, "home"), bare_path(Path(directory, "bin"))
        home.mkdir()
        home.chmod(0o555)
        Path(directory).chmod(0o755)
        kept = ("LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        cache = Path(directory, "cache")
        cache.mkdir()
        cache.chmod(0o777)
        env |= {
            "HOME": str(home),
            "FLASHINFER_WORKSPACE_BASE": str(cache),
            "PATH": bare,
            "FLASHINFER_DISABLE_JIT": "1",
            "TMPDIR": TMP,
        }
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
        done = subprocess.run([sys.executable, "-c", _SERVER], env=env, check=False, **as_nobody)  # type: ignore[call-overload]
        home.chmod(0o755)
    return int(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
