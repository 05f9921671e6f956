from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.assemble import MARKER, assemble, assembled_root, is_whole
from tests.cuda.fake_toolkit import Maker, put


@pytest.fixture
def root(maker: Maker, tmp_path: Path) -> Path:
    root = maker.pip(tmp_path / "venv")
    for name in ("libcublas.so.13", "libcudadevrt.a", "libplain.so"):
        put(root / "lib" / name)
    return root


def tree(home: Path) -> dict[str, str]:
    """Every entry below `home` with what it links to, "" for a file."""
    found = {}
    for path in home.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(home))] = str(path.readlink())
        elif path.is_file():
            found[str(path.relative_to(home))] = ""
    return found


def expected(root: Path) -> dict[str, str]:
    programs = ("cudafe++", "fatbinary", "nvcc", "nvcc.says", "ptxas")
    libraries = ("libcublas.so.13", "libcudadevrt.a", "libcudart.so.13", "libplain.so")
    return {
        MARKER: "",
        "include": f"{root}/include",
        "nvvm": f"{root}/nvvm",
        "lib": "lib64",
        **{f"bin/{name}": f"{root}/bin/{name}" for name in programs},
        **{f"lib64/{name}": f"{root}/lib/{name}" for name in libraries},
        "lib64/libcublas.so": "libcublas.so.13",
        "lib64/libcudart.so": "libcudart.so.13",
        "lib64/stubs/libcuda.so": "",
    }


def test_the_whole_directory(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache" / "cuda-13.0.88"
    assemble(root, home)
    assert tree(home) == expected(root)
    assert assembled_root(home) == root
    assert sorted(path.name for path in home.parent.iterdir()) == [".cuda-13.0.88.lock", "cuda-13.0.88"]


def dynamic(library: Path) -> tuple[str, set[str], list[str]]:
    """(soname, exported names, needed libraries)."""
    with library.open("rb") as stream:
        elf = ELFFile(stream)
        dynamic, symbols = elf.get_section_by_name(".dynamic"), elf.get_section_by_name(".dynsym")
        assert isinstance(dynamic, DynamicSection)
        assert isinstance(symbols, SymbolTableSection)
        tags: list[Any] = list(dynamic.iter_tags())
        exported = {symbol.name for symbol in symbols.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}
        soname = next((tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"), "")
        return soname, exported, [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"]


def test_the_stub_is_needed_by_whoever_uses_the_driver(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assemble(root, home)
    soname, exported, _ = dynamic(home / "lib64/stubs/libcuda.so")
    assert soname == "libcuda.so.1"
    assert exported >= {"cuInit", "cuMemAlloc", "cuMemAlloc_v2", "cuMemAlloc_v2_ptsz"}
    source = put(tmp_path / "a.cpp", 'extern "C" int cuInit(unsigned); int f() { return cuInit(0); }\n')
    line = [
        "-shared",
        "-fPIC",
        f"-L{home}/lib64",
        f"-L{home}/lib64/stubs",
        "-Wl,--as-needed",
        "-lcudart",
        "-lcuda",
    ]
    subprocess.run(["c++", *line[:2], "-nostdlib", str(source), "-o", str(tmp_path / "a.so"), *line[2:]], check=True)
    assert dynamic(tmp_path / "a.so")[2] == ["libcuda.so.1"]


def test_nvidias_stub_is_preferred_and_a_driver_is_not_copied(root: Path, maker: Maker, tmp_path: Path) -> None:
    driver, stub = tmp_path / "lib" / "libcuda.so", tmp_path / "stubs" / "libcuda.so"
    for path in (driver, stub):
        path.parent.mkdir()
    shutil.copy("/proc/self/exe", driver)
    shutil.copy(maker.library, stub)
    garbage = put(tmp_path / "garbage/stubs/libcuda.so")
    assemble(root, tmp_path / "home", stubs=(tmp_path / "stubs/absent", driver, garbage, stub))
    assert (tmp_path / "home/lib64/stubs/libcuda.so").read_bytes() == stub.read_bytes()


def test_whoever_holds_the_lock_is_named_and_not_waited_for_without_end(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fitasks.base.locks._PATIENCE", 1.5)
    with (tmp_path / ".home.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentProblem, match=rf"waited \d s for .*, held by pid {os.getpid()} \("):
            assemble(root, tmp_path / "home")
    assert f"waiting for .home.lock, held by pid {os.getpid()} (" in capsys.readouterr().err
    assemble(root, tmp_path / "home")


def test_a_whole_one_is_left_alone_without_a_compiler(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assemble(root, home)
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    assemble(root, home, compiler="/absent")
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_virtual_environment_made_elsewhere_is_pointed_to(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assemble(root, home)
    moved = tmp_path / "other"
    (tmp_path / "venv").rename(moved)
    (moved / "nvidia/cu13/lib/libcublas.so.13").unlink()
    new_root = moved / "nvidia" / "cu13"
    assert not is_whole(new_root, home)
    assemble(new_root, home)
    links = expected(new_root)
    assert tree(home) == {name: links[name] for name in links if "libcublas" not in name}
    assert is_whole(new_root, home)


def test_another_environment_of_the_same_versions_does_not_move_it(root: Path, maker: Maker, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assemble(root, home)
    twin = maker.pip(tmp_path / "twin")
    assemble(twin, home)
    assert tree(home) == expected(root)
    (tmp_path / "venv" / "nvidia_nvvm-13.0.88.dist-info").rename(tmp_path / "venv" / "nvidia_nvvm-13.5.1.dist-info")
    assemble(twin, home)
    assert assembled_root(home) == twin
    assert str((home / "include").readlink()) == f"{twin}/include"


@pytest.mark.parametrize("damage", ["lib64/libcudart.so", "bin/nvcc", "include", "lib64/stubs/libcuda.so"])
def test_damage_is_mended(damage: str, root: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assemble(root, home)
    (home / damage).unlink()
    if damage == "include":
        (home / damage).symlink_to("/nowhere")
    assemble(root, home)
    assert tree(home) == expected(root)


def test_what_is_not_ours_is_not_touched(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "home/bin/nvcc", "theirs")
    with pytest.raises(EnvironmentProblem) as caught:
        assemble(root, tmp_path / "home")
    home = tmp_path / "home"
    assert str(caught.value) == f"{home} is in the way: it has no {MARKER}\n  remedy: mv {home} {home}.old"
    assert tree(home) == {"bin/nvcc": ""}


def test_what_does_not_link_is_refused_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    put(root / "lib/libcudart.so.13", "garbage")
    with pytest.raises(EnvironmentProblem, match=r"-lcudart -lcuda failed:\n"):
        assemble(root, tmp_path / "cache" / "home")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".home.lock"]


def test_no_compiler_and_no_permission_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        assemble(root, tmp_path / "home", compiler="/absent/c++")
    assert str(caught.value) == (
        "/absent/c++ does not run: No such file or directory\n  remedy: apt-get install g++, or set CXX to the compiler"
    )
    put(tmp_path / "file")
    with pytest.raises(EnvironmentProblem) as caught:
        assemble(root, tmp_path / "file" / "home")
    assert str(caught.value) == (
        f"{tmp_path}/file/home: the toolkit cannot be assembled there: File exists\n"
        "  remedy: set XDG_CACHE_HOME to a directory that can be written"
    )


def test_two_processes_at_once(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    home = tmp_path / "cache" / "home"
    workers = [context.Process(target=assemble, args=(root, home)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert tree(home) == expected(root)
    assert sorted(path.name for path in home.parent.iterdir()) == [".home.lock", "home"]


def test_a_marker_of_garbage_is_not_ours(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", json.dumps({"root": 1})):
        put(tmp_path / MARKER, text)
        assert assembled_root(tmp_path) is None


@pytest.mark.real
def test_pips_nvcc_compiles_and_links_through_the_links(tmp_path: Path, pip_toolkit: Path) -> None:
    home = tmp_path / "cuda"
    assemble(pip_toolkit, home)
    put(
        tmp_path / "a.cu",
        "#include <curand_kernel.h>\n#include <cuda.h>\n#include <cub/version.cuh>\n"
        "__global__ void k(float *p) { p[threadIdx.x] = 1; }\n"
        'extern "C" int run(float *p) { k<<<1, 1>>>(p); return cuInit(0) + cudaGetLastError(); }\n',
    )
    compile_line = [f"{home}/bin/nvcc", "-arch=sm_90a", "-Xcompiler", "-fPIC", "-c", "a.cu", "-o", "a.o"]
    subprocess.run([*compile_line, "--dependency-output", "a.d", "-MD"], cwd=tmp_path, check=True)
    link = ["-shared", f"-L{home}/lib64", f"-L{home}/lib64/stubs", "-lcudart", "-lcuda", "-o", "a.so"]
    subprocess.run(["c++", "a.o", *link], cwd=tmp_path, check=True)
    needed = dynamic(tmp_path / "a.so")[2]
    assert needed[:2] == ["libcudart.so.13", "libcuda.so.1"]
    toolkit_headers = [word for word in (tmp_path / "a.d").read_text().split() if word.endswith("curand_kernel.h")]
    assert [os.path.normpath(name) for name in toolkit_headers] == [f"{home}/include/curand_kernel.h"]
    subprocess.run([f"{home}/bin/nvcc", "-shared", "a.o", *link[1:5], "-o", "b.so"], cwd=tmp_path, check=True)
