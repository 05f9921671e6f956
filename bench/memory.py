"""Memory limits that are real: a cgroup, FlashInfer's own kernels, and the kernel's OOM killer.

    python bench/memory.py kill     two compilers of 0.4 GB, as asked for (-n 2), in 730 MB: one is killed; again, alone
    python bench/memory.py fa3      as on 16 cores, in 9.5 GB, which is two compilers of fa3: never a third, and no kill

Wants root, and cgroups (version 1 or 2) that may be written. `fa3` takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.pool import Watch  # noqa: E402

FIRST = Path("/sys/fs/cgroup/memory")
# What doit is told of the machine: more cores than there may be, so that memory alone decides.
CORES = """
import os, runpy
os.sched_getaffinity = lambda _: set(range(16))
runpy.run_module("doit", alter_sys=True, run_name="__main__")
"""
FA3 = "{op: batch_prefill, backend: fa3, dtype_q: bfloat16, head_dim: 128}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill", "fa3"))
    if parser.parse_args().what == "kill":
        return _run("page: {}", 700 << 20, [sys.executable, "-m", "doit", "-n", "2"])
    return _run(f"fa3: {FA3}", int(9.5e9), [sys.executable, "-c", CORES])


def _run(entry: str, limit: int, command: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name, _Group(limit) as group:
        base = Path(name)
        shutil.copy(ROOT / "dodo.py", base)
        (base / "kernels.yaml").write_text(f'targets: ["9.0a"]\nkernels:\n  {entry}\n')
        places = {"FLASHINFER_WORKSPACE_BASE": str(base / "base"), "XDG_CACHE_HOME": str(base / "xdg")}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = os.environ | places | {"PYTHONPATH": paths}
        subprocess.run([sys.executable, "-m", "doit", "list"], cwd=base, env=env, check=True, capture_output=True)
        inside = ["sh", "-c", f'echo $$ > {group.path}/cgroup.procs && exec "$@"', "sh", *command]
        process = subprocess.Popen(inside, cwd=base, env=env)
        ended, watch = threading.Event(), Watch(process.pid)
        thread = threading.Thread(target=watch.follow, args=(ended,))
        thread.start()
        status = process.wait()
        ended.set()
        thread.join()
        print((base / ".fitasks" / "journal.jsonl").read_text().splitlines()[0][:300])
        print(f"exit status {status}; at most {max(watch.compilers)} compilers at once; {group.told()}")
        return status


class _Group:
    """A cgroup of its own with a memory limit (bytes), of whichever version there is."""

    def __init__(self, limit: int) -> None:
        self.first = FIRST.is_dir()
        self.path = (FIRST if self.first else FIRST.parent) / f"fitasks-bench-{os.getpid()}"
        self.limit = limit

    def __enter__(self) -> Self:
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self.first else "memory.max")).write_text(str(self.limit))
        return self

    def __exit__(self, *_: object) -> None:
        for _attempt in range(50):  # what ends is gone a moment later
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.1)

    def told(self) -> str:
        most = int((self.path / ("memory.max_usage_in_bytes" if self.first else "memory.peak")).read_text())
        return f"at most {most / 1e9:.2f} GB of {self.limit / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())
