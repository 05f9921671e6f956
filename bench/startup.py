"""What a server's users wait for: the first prefill and the first decode of a fresh process, and fa2 against fa3.

    python bench/startup.py [--only warm,ahead]        on a Hopper GPU, in the project's directory

Each row is a process of its own that imports FlashInfer, warms the GPU up, and then times its first prefill (backend
chosen by FlashInfer) and its first decode, bfloat16, head_dim 128. Caches are made below a temporary directory; headers
of the installed FlashInfer are touched ("the same wheel reinstalled") and get their times back; no content is changed.
`ahead` builds and installs the wheel, `sm90 off` installs the switch; both are removed again, unless they were there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import bare_path, exports  # noqa: E402
from fitasks.cuda.gpus import all_gpus, visible  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNELS = ("kernel:decode*", "kernel:prefill*")

_PROBE = """
import time, torch
torch.ones(8, device="cuda").sum().item()
import flashinfer
def tensor(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
def indices(*numbers):
    return torch.tensor(numbers, device="cuda", dtype=torch.int32)
pages = 128
cache = (tensor(pages, 16, 8, 128), tensor(pages, 16, 8, 128))
workspace = torch.zeros(256 << 20, device="cuda", dtype=torch.uint8)
table = torch.arange(pages, device="cuda", dtype=torch.int32)
begin = time.perf_counter()
prefill = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
prefill.plan(indices(0, 2048), indices(0, pages), table, indices(16), 32, 8, 128, 16, causal=True,
             q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
prefill.run(tensor(2048, 32, 128), cache)
torch.cuda.synchronize()
middle = time.perf_counter()
decode = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD")
decode.plan(indices(0, pages), table, indices(16), 32, 8, 128, 16, q_data_type=torch.bfloat16,
            kv_data_type=torch.bfloat16)
decode.run(tensor(1, 32, 128), cache)
torch.cuda.synchronize()
end = time.perf_counter()
print("SECONDS", middle - begin, end - middle, prefill._backend)
"""

_KERNELS = """
import torch, flashinfer
workspace = torch.zeros(256 << 20, device="cuda", dtype=torch.uint8)
for length in (1024, 2048, 4096, 8192):
    times = {}
    for backend in ("fa2", "fa3"):
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=backend)
        at = torch.tensor([0, length], device="cuda", dtype=torch.int32)
        wrapper.plan(at, at, 32, 8, 128, causal=True, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
        q, k, v = (torch.randn(length, heads, 128, device="cuda", dtype=torch.bfloat16) for heads in (32, 8, 8))
        runs = []
        for _ in range(23):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(); wrapper.run(q, k, v); end.record()
            torch.cuda.synchronize()
            runs.append(begin.elapsed_time(end))
        times[backend] = sorted(runs[3:])[10]
    print("KERNEL", length, times["fa2"], times["fa3"])
"""


@dataclass
class Bench:
    """Caches below `base`; `rows` are what is printed in the end."""

    base: Path
    rows: list[str]

    def env(self, cache: str, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "FITASKS"))}
        places = {"FLASHINFER_WORKSPACE_BASE": str(self.base / cache), "XDG_CACHE_HOME": str(self.base / "xdg")}
        return clean | places | more

    def doit(self, cache: str, *words: str, **more: str) -> float:
        """Seconds that `doit` takes in the project's directory."""
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "doit", *words], cwd=ROOT, env=self.env(cache, **more), check=True)
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def installed(self, install: str, uninstall: str, module: str) -> Iterator[None]:
        """Between two tasks; what was installed before, of which `module` tells, stays."""
        there = importlib.util.find_spec(module) is not None
        self.doit("ours", install)
        try:
            yield
        finally:
            if not there:
                self.doit("ours", uninstall)

    def served(self, cache: str, **more: str) -> dict[str, str]:
        """A server's environment: with the CUDA_HOME that `doit env` prints (the rest is this process's own)."""
        if not cache.startswith("plain"):
            told = [sys.executable, "-m", "doit", "env"]
            lines = subprocess.run(told, cwd=ROOT, env=self.env(cache), capture_output=True, text=True, check=True)
            home = exports(lines.stdout, self.env(cache)).get("CUDA_HOME")
            more |= {"CUDA_HOME": home} if home else {}
        return self.env(cache, **more)

    def server(self, what: str, cache: str, **more: str) -> None:
        """A row: a fresh process."""
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=self.served(cache, **more), capture_output=True, text=True, check=False
        )
        found = next((line.split() for line in done.stdout.splitlines() if line.startswith("SECONDS")), None)
        if found is None:
            print(done.stdout[-2000:], done.stderr[-3000:], file=sys.stderr)
            last = ["", *done.stderr.strip().splitlines()][-1][:120]
            self.rows.append(f"| {what} | failed ({done.returncode}) | {last} | |")
        else:
            self.rows.append(f"| {what} | {float(found[1]):.2f} s | {float(found[2]):.2f} s | {found[3]} |")
        print(self.rows[-1], flush=True)


@contextlib.contextmanager
def reinstalled() -> Iterator[None]:
    """New times for every header, as pip leaves them; the old ones afterwards."""
    found = importlib.util.find_spec("flashinfer")
    packages = (found.submodule_search_locations or ()) if found else ()
    headers = [path for package in packages for path in Path(package, "data").rglob("*.*h")]
    times = {path: path.stat().st_mtime_ns for path in headers}
    for path in headers:
        path.touch()
    try:
        yield
    finally:
        for path, time_ns in times.items():
            os.utime(path, ns=(time_ns, time_ns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="cold,warm,reinstalled,ahead,sm90,kernels")
    only = parser.parse_args().only.split(",")
    if not visible(all_gpus(), os.environ):
        sys.exit("needs a Hopper GPU; none is visible here")
    with tempfile.TemporaryDirectory(prefix="fitasks-startup-") as directory:
        bench = Bench(Path(directory), [])
        if "cold" in only:
            bench.server("no precompilation", "plain")
        seconds = bench.doit("ours", *KERNELS)
        if "warm" in only:
            bench.server(f"after `doit` (which took {seconds:.0f} s, before the server)", "ours")
        if "reinstalled" in only:
            with reinstalled():
                if "cold" in only:
                    bench.server("the same wheel reinstalled, FlashInfer alone", "plain")
                seconds = bench.doit("ours", *KERNELS)
                bench.server(f"the same wheel reinstalled, then `doit` ({seconds:.1f} s)", "ours")
        if "ahead" in only:
            ahead_of_time(bench)
        if "sm90" in only:
            with bench.installed("install_sm90_switch", "uninstall_sm90_switch", "fitasks_sm90_switch"):
                bench.server("Hopper's modules off (`FLASHINFER_DISABLE_SM90=1`)", "ours", FLASHINFER_DISABLE_SM90="1")
        print("\n| | first prefill | first decode | backend |\n|---|--:|--:|---|", *bench.rows, sep="\n")
        if "kernels" in only:
            kernels(bench)


def ahead_of_time(bench: Bench) -> None:
    """The wheel, in an empty cache, no compiler on PATH, JIT forbidden."""
    bare = bare_path(bench.base / "bin")
    with bench.installed("install", "uninstall", "fitasks_kernels"):
        bench.server("delivered ahead of time (`doit install`)", "plain-empty", FLASHINFER_DISABLE_JIT="1", PATH=bare)


def kernels(bench: Bench) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _KERNELS], env=bench.served("ours"), capture_output=True, text=True, check=True
    )
    print("\n| tokens | fa2 | fa3 | fa2 / fa3 |\n|--:|--:|--:|--:|")
    for line in told.stdout.splitlines():
        if line.startswith("KERNEL"):
            _, length, fa2, fa3 = line.split()
            print(f"| {length} | {float(fa2):.3f} ms | {float(fa3):.3f} ms | {float(fa2) / float(fa3):.2f} |")


if __name__ == "__main__":
    main()
