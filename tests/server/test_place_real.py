"""What place.py says of FlashInfer, compared with FlashInfer: its own build_and_load, as another user, under mounts.

Modules of one line for the host compiler: nothing here needs nvcc or a GPU.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fitasks.plan.kernel import Kernel
from fitasks.server.place import Place
from fitasks.server.user import User, access_of
from tests.server.test_place import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and become another user"),
    pytest.mark.usefixtures("flashinfer"),
]

NOBODY = User("nobody", 65534, 65534, frozenset([65534]))
SERVER = """
import json, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
told = {}
try:
    from flashinfer.jit import core, env
    from flashinfer.jit.utils import write_if_different
    for name in sys.argv[1:]:
        source = env.FLASHINFER_GEN_SRC_DIR / name / f"{name}.cc"
        source.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_if_different(source, 'extern "C" int __tvm_ffi_one(void*, const void*, int, void*) { return 0; }')
            spec = core.gen_jit_spec(name, [source])
            before = os.path.exists(spec.jit_library_path) and os.stat(spec.jit_library_path).st_mtime_ns
            spec.build_and_load()
            told[name] = "loaded" if os.stat(spec.jit_library_path).st_mtime_ns == before else "compiled"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    told["workspace"] = str(env.FLASHINFER_WORKSPACE_DIR)
except Exception as error:
    told["import"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A directory that nobody may come to, with a toolkit that has just what a link line names."""
    with tempfile.TemporaryDirectory(prefix="fitasks-place-") as directory:
        made = Path(directory)
        made.chmod(0o755)
        yield _furnished(made)


def _furnished(made: Path) -> Path:
    nvcc = made / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    libraries = made / "cuda" / "lib64"
    libraries.mkdir()
    for name, soname in (("cudart", "libcudart.so.13"), ("cuda", "libcuda.so.1")):
        words = ["-shared", "-o", str(libraries / soname), f"-Wl,-soname,{soname}", "-x", "c", os.devnull]
        subprocess.run(["cc", *words], check=True)
        (libraries / f"lib{name}.so").symlink_to(soname)
    (made / "base").mkdir()
    shutil.chown(made / "base", "nobody")
    return made


def serve(root: Path, *names: str) -> dict[str, Any]:
    """What becomes of each module in a server of the user nobody; it starts as root, for the interpreter's sake."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHINFER", "CUDA"))}
    env |= {
        "CUDA_HOME": str(root / "cuda"),
        "LD_LIBRARY_PATH": str(root / "cuda" / "lib64"),
        "FLASHINFER_WORKSPACE_BASE": str(root / "base"),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = sys.executable
    if not readable(Path(sys.base_prefix)):  # in somebody's home: another build of the same release, if there is one
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        env["PYTHONPATH"] = str(importlib.metadata.distribution("flashinfer-python").locate_file(""))
        if not Path(python).exists():
            pytest.skip(f"nobody may not read {sys.base_prefix}")
    command = [python, "-c", SERVER, *names]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"import": done.stderr}
    if "No module named" in told.get("import", ""):
        pytest.skip(f"nobody can't use this interpreter: {told['import']}")
    return told


def readable(path: Path) -> bool:
    with access_of(NOBODY) as access:
        return bool(access(path, os.R_OK | os.X_OK))


def kernel(workspace: Path, name: str) -> Kernel:
    build_dir = workspace / "cached_ops" / name
    source = workspace / "generated" / name / f"{name}.cc"
    made = Kernel(name, name, name, "9.0a", "", {}, name=name, build_dir=build_dir, library=build_dir / f"{name}.so")
    lock, ninja_file = workspace / "cached_ops" / "tmp" / f"{name}.lock", build_dir / "build.ninja"
    ninja = ninja_file.read_text() if ninja_file.exists() else ""
    return Kernel(**vars(made) | {"lock": lock, "ninja_file": ninja_file, "ninja": ninja, "sources": (source,)})


def ours(path: Path, mode: int = 0o600) -> None:
    """Root's, as a doit that ran as root leaves it."""
    os.chown(path, 0, 0)
    path.chmod(mode)


def predicted(place: Place, workspace: Path, name: str) -> str:
    """As check.py asks it of a module that needs no compile."""
    one = kernel(workspace, name)
    found = (
        place.importing(workspace)
        or place.generating(one)
        or place.locking(one)
        or place.reading(one)
        or place.mapping(one.library)
    )
    return found.reason if found else "loaded"


def test_what_flashinfer_does_is_what_is_predicted(root: Path) -> None:
    names = ["fine", "noexec", "readonly", "lock", "log", "deps", "ninja", "library", "source", "object"]
    first = serve(root, *names)
    assert {first.get(name) for name in names} == {"compiled"}, first
    workspace = Path(first["workspace"])
    modules = {name: workspace / "cached_ops" / name for name in names}
    ours(workspace / "cached_ops" / "tmp" / "lock.lock", 0o644)
    ours(modules["log"] / ".ninja_log")
    ours(modules["deps"] / ".ninja_deps")
    ours(modules["ninja"] / "build.ninja")
    ours(modules["library"] / "library.so")
    ours(next(modules["object"].glob("*.o")))
    ours(workspace / "generated" / "source" / "source.cc")
    for path in (modules["readonly"], *modules["readonly"].iterdir()):
        ours(path, path.stat().st_mode & 0o755)
    with ExitStack() as stack:
        stack.enter_context(mounted(modules["noexec"], "noexec"))
        stack.enter_context(mounted(modules["readonly"], "ro"))
        happened = serve(root, *names)
        place = Place(NOBODY, stack.enter_context(access_of(NOBODY)))
        foretold = {name: predicted(place, workspace, name) for name in names}
    good = {"fine", "readonly", "object"}
    assert {name for name in names if happened[name] == "loaded"} == good, happened
    assert {name for name in names if foretold[name] == "loaded"} == good, foretold
    assert "mounted noexec" in foretold["noexec"]
    assert "failed to map segment" in happened["noexec"]
    for name in set(names) - good - {"noexec"}:
        assert "ermission denied" in happened[name], name
        assert "nobody (uid 65534) may not " in foretold[name], name

    log = workspace / "flashinfer_jit.log"
    with mounted(workspace, "ro"), access_of(NOBODY) as access:
        assert serve(root, "fine")["import"] == f"OSError: [Errno 30] Read-only file system: '{log}'"
        assert predicted(Place(NOBODY, access), workspace, "fine").startswith(
            f"{log} can't be written: {workspace} is "
        )
