"""Shared objects, whole and damaged; made by the host compiler."""

from __future__ import annotations

import ctypes.util
import struct
import subprocess
from pathlib import Path

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.elf import exported, inspect_library, is_shared_object, machine_code_architectures, segments


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elf") / "lib.so"
    source = (
        'extern "C" int cudaFree(void*); extern "C" int cuInit(unsigned); int f() { return cudaFree(0) + cuInit(0); }'
    )
    command = [
        "c++",
        "-x",
        "c++",
        "-",
        "-shared",
        "-fPIC",
        "-o",
        str(path),
        "-Wl,-soname,libx.so.1,--no-as-needed",
        "-nodefaultlibs",
        "-lstdc++",
    ]
    subprocess.run(command, input=source.encode(), check=True)
    return path


def test_a_whole_library_says_what_it_needs(library: Path) -> None:
    assert is_shared_object(library) == ""
    found = inspect_library(library)
    assert found.soname == "libx.so.1"
    assert found.needed == ("libstdc++.so.6",)
    assert sorted(map(str, found.cuda_symbols())) == ["cuInit", "cudaFree"]
    assert "_Z1fv" in {symbol.name for symbol in exported(library)}


@pytest.mark.parametrize(
    ("machine", "code", "told"),
    [
        ("x86_64", 62, ""),
        ("aarch64", 183, ""),
        ("aarch64", 62, "is for EM_X86_64, this machine is EM_AARCH64"),
        ("x86_64", 183, "is for EM_AARCH64, this machine is EM_X86_64"),
        ("riscv64", 243, ""),  # one that nobody knows here takes what it is given
    ],
)
def test_a_library_of_another_kind_of_machine(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, machine: str, code: int, told: str
) -> None:
    """As one finds it in a home that machines of several kinds share. e_machine stands at byte 18 of ELF's header."""
    data = bytearray(library.read_bytes())
    struct.pack_into("<H", data, 18, code)
    (other := tmp_path / "lib.so").write_bytes(data)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert is_shared_object(other) == (f"{other} {told}" if told else "")
    if not told:
        assert inspect_library(other).soname == "libx.so.1"


def test_symbols_carry_their_versions() -> None:
    libc = next(Path("/lib").rglob("libc.so.6"), None) or Path(ctypes.util.find_library("c") or "")
    assert any(symbol.name == "malloc" and symbol.version.startswith("GLIBC_") for symbol in exported(libc))


def test_every_truncation_is_noticed(library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    part = tmp_path / "part.so"
    for length in [*range(0, 200, 7), *range(200, len(data) - 1, 1009), len(data) - 1]:
        part.write_bytes(data[:length])
        assert is_shared_object(part), length


@pytest.mark.parametrize(
    ("declared", "words", "required"),
    [
        ("int missing(int);", [], set()),
        ("struct T { int missing(int) const; };", [], set()),
        ("int missing(int);", ["-Wl,-z,now"], {"_ZN10flashinfer7missingEi"}),
        ("int missing(int); extern int variable;", [], {"_ZN10flashinfer8variableE"}),
    ],
    ids=["a function", "a member", "bound at once", "a variable"],
)
def test_functions_that_flashinfer_makes_nowhere(
    tmp_path: Path, declared: str, words: list[str], required: set[str]
) -> None:
    """Its dispatch names them; a loader that binds late never asks for one that isn't called."""
    call = "((flashinfer::T*)nullptr)->missing(x)" if "struct" in declared else "flashinfer::missing(x)"
    value = "flashinfer::variable" if "variable" in declared else "0"
    source = f'namespace flashinfer {{ {declared} }} extern "C" int run(int x) {{ return x ? {call} : {value}; }}'
    command = ["c++", "-x", "c++", "-", "-shared", "-fPIC", "-nodefaultlibs", *words, "-o", str(tmp_path / "x.so")]
    subprocess.run(command, input=source.encode(), check=True)
    found = {symbol.name for symbol in inspect_library(tmp_path / "x.so").required}
    assert {name for name in found if "flashinfer" in name} == required


def test_machine_code_of_a_library_without_its_end(library: Path, tmp_path: Path) -> None:
    """Its table of sections is gone, by which the code is found."""
    part = tmp_path / "part.so"
    part.write_bytes(library.read_bytes()[:-200])
    assert machine_code_architectures(part) == ()
    with pytest.raises(OSError, match="undefined symbol"):  # the loader does without: it is beyond the mapping
        ctypes.CDLL(str(part))
    assert segments(part) == "whole"
    part.write_bytes(library.read_bytes()[:2000])
    assert segments(part) == "cut"
    part.write_bytes(b"damaged")
    assert segments(part) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is no shared object"), (b"hello\n" * 99, "is no shared object"), (b"\x7fELF", "is no shared object")],
)
def test_what_is_no_library_at_all(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    assert said in is_shared_object(path)
    with pytest.raises(EnvironmentProblem):
        inspect_library(path)


def test_another_machines_library(library: Path, tmp_path: Path) -> None:
    data = bytearray(library.read_bytes())
    data[18:20] = struct.pack("<H", 0xF3)  # e_machine: RISC-V
    path = tmp_path / "riscv.so"
    path.write_bytes(data)
    assert is_shared_object(path) == f"{path} is for EM_RISCV, this machine is EM_X86_64"


def test_an_object_file_is_no_shared_object(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    subprocess.run(["c++", "-x", "c++", "-", "-c", "-o", str(path)], input=b"int x;", check=True)
    assert is_shared_object(path) == f"{path} is no 64-bit shared object (ET_REL, 64 bits)"


def test_directories_and_dangling_links(tmp_path: Path) -> None:
    (tmp_path / "link.so").symlink_to("nowhere")
    assert is_shared_object(tmp_path) == f"{tmp_path}: Is a directory"
    assert is_shared_object(tmp_path / "link.so") == f"{tmp_path / 'link.so'}: No such file or directory"


def test_a_library_without_machine_code_for_gpus(library: Path) -> None:
    assert machine_code_architectures(library) == ()
