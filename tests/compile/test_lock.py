"""FlashInfer's lock, held by somebody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.compile.lock import module_lock

HOLDER = "import sys, time; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"


def test_the_holder_is_named_in_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "page.lock"
    command = [sys.executable, "-c", HOLDER, str(lock), "\x1b[31m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        server.stdout.readline()
        said: list[str] = []
        with pytest.raises(KernelFailure) as failure, module_lock(lock, timeout=1.5, say=said.append):
            pass
        server.kill()
    for text in (*said, failure.value.message):
        assert f"held by pid {server.pid} ({sys.executable} -c import sys, time; from" in text[:400]
        assert text.isprintable()
    assert len(said) == 1
