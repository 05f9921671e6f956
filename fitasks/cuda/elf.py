"""What a shared object is, needs and exports, read with pyelftools; nothing is loaded."""

from __future__ import annotations

import contextlib
import platform
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_ELF64 = b"\x7fELF\x02\x01"  # little-endian, 64 bits
_FATBIN = 0xBA55ED50
_ENTRY = struct.Struct("<HHIQ")  # kind, version, header size, payload size (fatbinary entries, CUDA 11 to 13)
_PTX = 1
_ENTRY_OF_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym, little-endian as all machines that CUDA runs on
_UNDEFINED, _WEAK = 0, 2  # SHN_UNDEF, STB_WEAK
_VERSION_WEAK = 2  # VER_FLG_WEAK
_BIND_NOW, _NOW = 8, 1  # DF_BIND_NOW, DF_1_NOW
_OWN = re.compile(r"_ZN[KV]*10flashinfer")  # a function in FlashInfer's namespace
_PATHS = {"DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}
# Bits of the flags that follow an entry's architecture by twelve bytes. Seen in what nvcc 13.0 writes for sm_90a,
# sm_100a, sm_100f and sm_120f, and absent for sm_90 and sm_100; a toolkit that doesn't write them reads as before.
_SUFFIXES = {1 << 20: "a", 1 << 21: "f"}


@dataclass(frozen=True)
class Symbol:
    """An undefined symbol, with the version that it asks for, if any."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class Library:
    """The dynamic section of a shared object.

    `required` are the undefined symbols that a server's process must have: not the weak ones, nor what FlashInfer
    itself declares and makes nowhere (`_never_called`). `versions` are those that the loader refuses a library for
    which lacks them, as (library, version), symbol or none. `runpath` is where the loader looks for `needed`, with
    $ORIGIN as written.
    """

    path: Path
    soname: str
    needed: tuple[str, ...]
    undefined: tuple[Symbol, ...]
    required: tuple[Symbol, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    runpath: tuple[str, ...] = ()

    def cuda_symbols(self) -> tuple[Symbol, ...]:
        """Those of the CUDA runtime and driver."""
        return tuple(symbol for symbol in self.undefined if _is_cuda(symbol.name))


def is_shared_object(path: Path) -> str:
    """Why `path` can't be loaded on this machine, in a sentence; "" if nothing speaks against it."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as stream:
            return _problem(ELFFile(stream), path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    except (ELFError, ValueError, KeyError, struct.error, AssertionError, UnicodeDecodeError) as error:
        return f"{path} is no shared object: {error or 'damaged'}"


def segments(path: Path) -> Literal["whole", "cut", ""]:
    """Whether a damaged file has all that the dynamic loader maps; "" where that can't be told.

    A file without the table of sections at its end has: it loads. One that was cut before is mapped all the same, and
    kills the process with SIGBUS where a page is touched that isn't there. Program headers are read here, since
    pyelftools opens no file without that table.
    """
    try:
        data = path.read_bytes()
        at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
        ends = [sum(struct.unpack_from("<8xQ16xQ", data, at + size * number)) for number in range(count)]
    except (OSError, struct.error):
        return ""
    if not (data.startswith(_ELF64) and ends):
        return ""
    return "whole" if max(ends) <= len(data) else "cut"


def _end_of_segments(elf: Any) -> int:
    return max((segment["p_offset"] + segment["p_filesz"] for segment in elf.iter_segments()), default=0)


def _problem(elf: Any, path: Path) -> str:
    expected = _MACHINES.get(platform.machine(), elf["e_machine"])
    size = path.stat().st_size
    if elf["e_type"] != "ET_DYN" or elf.elfclass != 64:
        return f"{path} is no 64-bit shared object ({elf['e_type']}, {elf.elfclass} bits)"
    if elf["e_machine"] != expected:
        return f"{path} is for {elf['e_machine']}, this machine is {expected}"
    end = max(_end_of_segments(elf), elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"])
    if end > size:
        return f"{path} is truncated: {size} bytes of {end}"
    if elf.get_section_by_name(".dynamic") is None:
        return f"{path} has no dynamic section"
    return ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The ELF file of a library. Raises EnvironmentProblem for a file that is none."""
    from elftools.elf.elffile import ELFFile

    if problem := is_shared_object(path):
        raise EnvironmentProblem(problem)
    with path.open("rb") as stream:
        yield ELFFile(stream)


def inspect_library(path: Path) -> Library:
    """What a library needs. Raises EnvironmentProblem for a file that is none."""
    with _opened(path) as elf:
        dynamic = list(elf.get_section_by_name(".dynamic").iter_tags())
        needed = tuple(tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED")
        soname = next((tag.soname for tag in dynamic if tag.entry.d_tag == "DT_SONAME"), "")
        said = [getattr(tag, _PATHS[tag.entry.d_tag]) for tag in dynamic if tag.entry.d_tag in _PATHS]
        undefined = [(symbol, weak) for symbol, defined, weak in _symbols(elf) if not defined]
        versions = tuple(_version_needs(elf))
        named = any(_OWN.match(symbol.name) for symbol, _ in undefined)
        own = _never_called(elf, dynamic) if named else set()  # relocations are slow to read
    required = tuple(symbol for symbol, weak in undefined if not weak and symbol.name not in own)
    runpath = tuple(entry for text in said for entry in text.split(":") if entry)
    return Library(path, soname, needed, tuple(symbol for symbol, _ in undefined), required, versions, runpath)


def _never_called(elf: Any, dynamic: list[Any]) -> set[str]:
    """FlashInfer's own functions that the loader would bind at their first call.

    Its dispatch names more instances of a template than its sources make (fa2 prefill of 0.7.4: eight). No library has
    them, a server never calls them, and the loader, which binds late, never asks.
    """
    flags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic}
    now = "DT_BIND_NOW" in flags or flags.get("DT_FLAGS", 0) & _BIND_NOW or flags.get("DT_FLAGS_1", 0) & _NOW
    section = elf.get_section_by_name(".rela.plt")
    if now or section is None:
        return set()
    symbols = elf.get_section(section["sh_link"])
    names = {symbols.get_symbol(entry["r_info_sym"]).name for entry in section.iter_relocations()}
    return {name for name in names if _OWN.match(name)}


def exported(path: Path) -> frozenset[Symbol]:
    """The symbols that a library offers, with their versions. Raises EnvironmentProblem for a file that is none."""
    with _opened(path) as elf:
        return frozenset(symbol for symbol, defined, _ in _symbols(elf) if defined)


def versions_defined(path: Path) -> frozenset[str]:
    """The symbol versions that a library defines; none for one without versions. Raises EnvironmentProblem, OSError."""
    with _opened(path) as elf:
        section = elf.get_section_by_name(".gnu.version_d")
        return frozenset(next(iter(names)).name for _, names in section.iter_versions()) if section else frozenset()


def _symbols(elf: Any) -> Iterator[tuple[Symbol, bool, bool]]:
    """(symbol, is it defined here, is it weak) of the dynamic symbol table.

    Entries are unpacked at once: pyelftools takes 0.3 ms for each, and a kernel has hundreds.
    """
    table, versions = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
    strings, names = elf.get_section(table["sh_link"]).data(), _version_names(elf)
    entries = list(_ENTRY_OF_SYMBOL.iter_unpack(table.data()))
    numbers = [number for (number,) in struct.iter_unpack("<H", versions.data())] if versions else [0] * len(entries)
    for (offset, info, _, section, _, _), number in zip(entries, numbers, strict=True):
        if name := strings[offset : strings.index(b"\0", offset)].decode():
            yield Symbol(name, names.get(number & 0x7FFF, "")), section != _UNDEFINED, info >> 4 == _WEAK


def _version_needs(elf: Any) -> Iterator[tuple[str, str]]:
    """(library, version) that the loader insists on, also where no symbol asks for it (GLIBC_ABI_DT_RELR)."""
    if section := elf.get_section_by_name(".gnu.version_r"):
        for needed, auxiliaries in section.iter_versions():
            yield from ((needed.name, one.name) for one in auxiliaries if not one["vna_flags"] & _VERSION_WEAK)


def _version_names(elf: Any) -> dict[int, str]:
    """Version index → name, of what is needed and of what is defined."""
    names: dict[int, str] = {}
    if needs := elf.get_section_by_name(".gnu.version_r"):
        for _, auxiliaries in needs.iter_versions():
            names |= {auxiliary["vna_other"]: auxiliary.name for auxiliary in auxiliaries}
    if defines := elf.get_section_by_name(".gnu.version_d"):
        for definition, auxiliaries in defines.iter_versions():
            names[definition["vd_ndx"]] = next(iter(auxiliaries)).name
    return names


def machine_code_architectures(path: Path) -> tuple[str, ...]:
    """The GPU architectures in a library's fatbinaries: "sm_90a", and "ptx_90a" for PTX.

    Read from the entries' plain headers (payloads are compressed). () where the library has no code for GPUs, or no
    table of sections that tells where it is, which the loader does without.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as stream:
        try:
            section = ELFFile(stream).get_section_by_name(".nv_fatbin")
            data = section.data() if section else b""
        except ELFError:
            return ()
    return tuple(sorted(set(_architectures(data))))


def _architectures(data: bytes) -> Iterator[str]:
    position = 0
    while (position := data.find(struct.pack("<I", _FATBIN), position)) >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", data, position)
        at, end = position + header, position + header + size
        while at + 64 <= end:
            kind, _, entry_header, payload = _ENTRY.unpack_from(data, at)
            (number,) = struct.unpack_from("<I", data, at + 28)
            (flags,) = struct.unpack_from("<Q", data, at + 40)
            suffix = next((letter for bit, letter in _SUFFIXES.items() if flags & bit), "")
            yield f"{'ptx' if kind == _PTX else 'sm'}_{number}{suffix}"
            at += entry_header + payload
        position = end


def _is_cuda(name: str) -> bool:
    """libcudart's names begin with cuda or __cuda, the driver's with cu and a capital."""
    return name.startswith(("cuda", "__cuda")) or is_driver_symbol(name)


def is_driver_symbol(name: str) -> bool:
    """Whether it is called as the driver's are: cuInit."""
    return name.startswith("cu") and name[2:3].isupper()
