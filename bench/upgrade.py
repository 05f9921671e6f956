"""What an upgrade of FlashInfer compiles, and what is adopted from the store.

    python bench/upgrade.py [--from 0.7.2.post1 --to 0.7.4] [--ops page,quantization,...]

Real kernels, real nvcc. Each version's wheel is installed without dependencies into a directory of its own, put first
on PYTHONPATH. Prints `doit why` (which inputs differ) and what doit then did, and asks ninja as the server would.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENTRIES = {
    "page": "{}",
    "quantization": "{}",
    "cascade": "{}",
    "rope": "{}",
    "decode": "{op: batch_decode, dtype_q: bfloat16, head_dim: 128}",
}

# Every undefined symbol of each library is resolved at once; no driver is needed for that.
_LOAD = """
import ctypes, pathlib, sys
import tvm_ffi
from nvidia import cu13
cudart = next(pathlib.Path(next(iter(cu13.__path__))).glob("lib/libcudart.so.13"))
ctypes.CDLL(str(cudart), mode=ctypes.RTLD_GLOBAL)
found = sorted(pathlib.Path(sys.argv[1]).glob(f".cache/flashinfer/{sys.argv[2]}/*/cached_ops/*/*.so"))
for library in found:
    ctypes.CDLL(str(library), mode=2)  # RTLD_NOW
print(f"{len(found)} libraries of {sys.argv[2]} load, all symbols resolved\\n", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="old", default="0.7.2.post1")
    parser.add_argument("--to", dest="new", default="0.7.4")
    parser.add_argument("--ops", default=",".join(ENTRIES))
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        project = root / "project"
        project.mkdir()
        shutil.copy(ROOT / "dodo.py", project)
        lines = [f"  {op}: {ENTRIES[op]}\n" for op in wanted.ops.split(",")]
        (project / "kernels.yaml").write_text('targets: ["9.0a"]\nkernels:\n' + "".join(lines))
        for version in (wanted.old, wanted.new):
            env = environment(root, version)
            print(f"## FlashInfer {version}\n")
            for words in (["why"], [], ["check"]):
                begin = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "doit", *words],
                    cwd=project,
                    env=env,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                print(f"$ doit {' '.join(words)}    # {time.perf_counter() - begin:.1f} s\n{done.stdout}", flush=True)
                if done.returncode:
                    print(done.stderr)
            subprocess.run([sys.executable, "-c", _LOAD, str(root / "base"), version], env=env, check=True)


def environment(root: Path, version: str) -> dict[str, str]:
    """Return a server's of that version, with caches of its own below `root`."""
    site = ROOT / ".test-cache" / f"flashinfer-{version}"
    if not site.exists():
        scratch = site.with_name(f".{site.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(scratch)]
        subprocess.run([*command, f"flashinfer-python=={version}"], check=True)
        scratch.rename(site)
    return os.environ | {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "FLASHINFER_WORKSPACE_BASE": str(root / "base"),
        "XDG_CACHE_HOME": str(root / "xdg"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


if __name__ == "__main__":
    main()
