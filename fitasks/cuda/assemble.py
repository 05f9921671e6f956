"""A directory of links that makes pip's toolkit look like an installed one to FlashInfer and to nvcc.

    home/bin/nvcc …           → root/bin/nvcc …        (a real directory: nvcc takes its own place from the
    path that
                                                        it is called by, and looks for lib64 beside that)
    home/include, nvvm        → root/include, nvvm
    home/lib64/libX.so.N      → root/lib/libX.so.N     (home/lib → lib64)
    home/lib64/libX.so        → libX.so.N
    home/lib64/stubs/libcuda.so   NVIDIA's stub where there is one, else made from include/cuda.h

The place is part of FlashInfer's commands, so it is named by the toolkit's version and stays as it is while
it is whole, even if it leads into another virtual environment that has the very same versions.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base import memo, temporary
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import write_atomic
from fitasks.base.locks import locked
from fitasks.base.shape import fits
from fitasks.cuda.components import compiler_command
from fitasks.cuda.survey import pip_versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MARKER = ".fitasks-toolkit.json"
_STUB = "lib64/stubs/libcuda.so"

# The exported names: declared ones, what macros turn them into (cuMemAlloc → cuMemAlloc_v2), and per-thread
# variants.
_DECLARED = re.compile(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(")
_DEFINED = re.compile(r"^\s*#\s*define\s+cu[A-Z]\w*\s+(?:__CUDA_API_PT\w+\()?(cu[A-Z]\w+)", re.MULTILINE)


def assembled_root(home: Path) -> Path | None:
    """The pip toolkit that `home` was assembled around; None if `home` isn't of `assemble`'s making."""
    said = memo.read(home / MARKER, dict[str, Any], unsealed=True)
    return Path(said["root"]) if said and fits(said.get("root"), Path) else None


def is_whole(root: Path, home: Path) -> bool:
    """Whether `home` has all that `root` offers and every link leads somewhere.

    Costs some forty stat calls.
    """
    other = assembled_root(home)
    if other is None or (other != root and not _same_versions(other, root)):
        return False
    links = [*_links(root)]
    if other == root:
        return all(_leads_to(home / name, target) for name, target in links) and (home / _STUB).is_file()
    return all((home / name).exists() for name, _ in links) and (home / _STUB).is_file()


def assemble(root: Path, home: Path, *, compiler: str | Path = "c++", stubs: Iterable[Path] = ()) -> None:
    """Make `home` a CUDA_HOME of the pip toolkit `root`; mend dangling links; do nothing if it is whole.

    `stubs` are places where NVIDIA's own libcuda.so stub may be. Safe while other processes do the same.
    Raises EnvironmentProblem where `home` is somebody else's, cannot be written, or does not link.
    """
    if is_whole(root, home):
        return
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with locked(home.parent / f".{home.name}.lock"):
            if not is_whole(root, home):
                _make(root, home, str(compiler), stubs)
    except OSError as error:
        raise EnvironmentProblem(
            f"{home}: the toolkit cannot be assembled there: {error.strerror or error}",
            remedy="set XDG_CACHE_HOME to a directory that can be written",
        ) from None


def _make(root: Path, home: Path, compiler: str, stubs: Iterable[Path]) -> None:
    if assembled_root(home) is not None:
        _fill(root, home, compiler, stubs)
        return
    if os.path.lexists(home):
        raise EnvironmentProblem(f"{home} is in the way: it has no {MARKER}", remedy=f"mv {home} {home}.old")
    beside = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        beside.chmod(0o755)
        _fill(root, beside, compiler, stubs)
        beside.rename(home)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _fill(root: Path, home: Path, compiler: str, stubs: Iterable[Path]) -> None:
    """Puts every link right, one atomic replacement each; removes those that `root` has nothing for."""
    links = dict(_links(root))
    for directory in ("bin", "lib64"):
        for path in (home / directory).glob("*"):
            if path.is_symlink() and f"{directory}/{path.name}" not in links:
                path.unlink()
    for name, target in links.items():
        if not _leads_to(home / name, target):
            _replace_link(home / name, target)
    if not (home / _STUB).is_file():
        _make_stub(home, compiler, stubs)
    _check_links(home, compiler)
    write_atomic(home / MARKER, json.dumps({"root": str(root)}) + "\n")


def _links(root: Path) -> Iterator[tuple[str, str]]:
    """(place in home, what the link says) of everything but the stub."""
    yield from ((name, str(root / name)) for name in ("include", "nvvm"))
    yield "lib", "lib64"
    yield from ((f"bin/{name}", str(root / "bin" / name)) for name in _listed(root / "bin"))
    libraries = _listed(root / "lib")
    yield from ((f"lib64/{name}", str(root / "lib" / name)) for name in libraries)
    plain = {name[: name.index(".so.") + 3]: name for name in libraries if ".so." in name}
    yield from ((f"lib64/{name}", target) for name, target in plain.items() if name not in libraries)


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208, names only
    except OSError:
        return []


def _leads_to(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) == target and link.exists()
    except OSError:
        return False


def _replace_link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.replace(link)


def _same_versions(one: Path, other: Path) -> bool:
    versions = pip_versions(one)
    return bool(versions) and versions == pip_versions(other)


def _make_stub(home: Path, compiler: str, stubs: Iterable[Path]) -> None:
    """NVIDIA's stub, copied, or a library of the same soname and names.

    An empty library would link as well, but under --as-needed the kernel would not name libcuda.so.1 as
    needed.
    """
    stub = home / _STUB
    stub.parent.mkdir(parents=True, exist_ok=True)
    temporary = stub.with_name(f".{stub.name}.{os.getpid()}.tmp")
    real = next((path for path in stubs if path.parent.name == "stubs" and _is_elf(path)), None)
    if real is not None:
        shutil.copyfile(real, temporary)
    else:
        _compile(compiler, _stub_source(home / "include" / "cuda.h"), temporary, "-Wl,-soname,libcuda.so.1")
    temporary.replace(stub)


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError:
        return False


def _stub_source(header: Path) -> str:
    text = header.read_text(encoding="utf-8", errors="replace") if header.is_file() else ""
    declared = {*_DECLARED.findall(text), *_DEFINED.findall(text)}
    names = sorted({f"{name}{suffix}" for name in declared for suffix in ("", "_ptds", "_ptsz")})
    return 'extern "C" {\n' + "".join(f"void {name}() {{}}\n" for name in names) + "}\n"


def _check_links(home: Path, compiler: str) -> None:
    """Links a one-line object with FlashInfer's line (jit/cpp_ext.py). Raises EnvironmentProblem."""
    source = 'extern "C" { int cudaGetLastError(); int cuInit(unsigned); }\n'
    source += "int probe() { return cudaGetLastError() + cuInit(0); }\n"
    with temporary.directory("toolkit") as directory:
        lines = (f"-L{home}/lib64", f"-L{home}/lib64/stubs", "-lcudart", "-lcuda")
        _compile(compiler, source, Path(directory, "probe.so"), *lines)


def _compile(compiler: str, source: str, output: Path, *flags: str) -> None:
    """A shared object out of C++ source, without the C++ library. Raises EnvironmentProblem."""
    with temporary.directory("toolkit") as directory:
        file = Path(directory, "source.cpp")
        file.write_text(source, encoding="utf-8")
        command = [compiler, "-shared", "-fPIC", "-nostdlib", "-w", str(file), "-o", str(output), *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EnvironmentProblem(
                f"{compiler} does not run: {error.strerror}",
                remedy=f"{compiler_command()}, or set CXX to the compiler",
            ) from None
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:5])
        raise EnvironmentProblem(f"{' '.join(command)} failed:\n{said}")
