"""Wheels of small modules, sites they are unpacked into, and FlashInfer's own lookup run over such a site."""

from __future__ import annotations

import importlib.metadata
import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.delivery.collect import collect
from fitasks.delivery.wheel.wheel import Wheel, build_wheel
from tests.serving.flashinfer_wheels import directory_of

if TYPE_CHECKING:
    from fitasks.compile.judge.freshness import Judge
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan
    from tests.workshop import Workshop

_FLAGS = {"a": 1 << 20, "f": 1 << 21, "": 0}

# FlashInfer's own jit/env.py, in a process that has nothing of FlashInfer but that file and what it imports.
_LOOKUP = """
import json, site, sys, types
root, places, names = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
for place in places:
    site.addsitedir(place)
sys.modules["torch"] = types.ModuleType("torch")  # asked for GPUs only, and the environment names them
for name, path in (("flashinfer", root), ("flashinfer.jit", root + "/jit")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from flashinfer.jit import env
found = {}
for name in names:
    path = env.get_aot_path(name) if hasattr(env, "get_aot_path") else env.FLASHINFER_AOT_DIR / name / f"{name}.so"
    found[name] = str(path) if path.exists() else ""
print(json.dumps(found))
"""


def fatbin(*codes: str) -> bytes:
    """A fatbinary with headers as nvcc 13.0 writes them: "sm_90a", "ptx_80"; no payload."""
    entries = b""
    for code in codes:
        kind, _, number = code.partition("_")
        header = bytearray(struct.pack("<HHIQ", 1 if kind == "ptx" else 2, 0x101, 64, 0).ljust(64, b"\0"))
        struct.pack_into("<I", header, 28, int(number.rstrip("af")))
        struct.pack_into("<Q", header, 40, 0x11 | _FLAGS[number.lstrip("0123456789")])
        entries += header
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def module(
    workshop: Workshop, name: str, code: tuple[str, ...] = (), declared: tuple[str, ...] | None = None
) -> Kernel:
    """A kernel, not yet built, whose library will hold machine code for `code` and whose ninja file says `declared`."""
    kernel = workshop.kernel(name, 1)
    source = kernel.sources[0]
    if code and "nv_fatbin" not in source.read_text():
        values = ", ".join(map(str, fatbin(*code)))
        with source.open("a") as stream:
            stream.write(
                f'__attribute__((section(".nv_fatbin"), used)) static const unsigned char code[] = {{{values}}};\n'
            )
    said = code if declared is None else declared
    flags = " ".join(f"-gencode=arch=compute_{one.partition('_')[2]},code={one}" for one in said)
    return replace(kernel, ninja=f"cuda_arch_flags = {flags}\n{kernel.ninja}")


@dataclass
class Stocked:
    """A plan whose kernels are built."""

    plan: Plan
    judges: dict[str, Judge]

    def wheel(self, directory: Path) -> Wheel:
        return build_wheel(collect(self.plan, self.judges), self.plan.server, directory)


@dataclass
class Shop:
    """Kernels of one plan, over workshops: one for each target."""

    version: str = "0.7.2.post1"
    parts: list[tuple[Workshop, str, str]] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)

    def add(self, workshop: Workshop, *kernels: Kernel, target: str = "9.0a", arch: str = "90a") -> Shop:
        """Build these kernels for a target, and plan them."""
        for kernel in kernels:
            workshop.build(kernel)
        self.parts.append((workshop, target, arch))
        self.kernels += [replace(kernel, target=target) for kernel in kernels]
        return self

    def stocked(self, site: Path | None = None, root: Path | None = None) -> Stocked:
        root = root or flashinfer("0.7.4")
        targets = {
            target: replace(workshop.target(arch), flashinfer=self.version, root=root)
            for workshop, target, arch in self.parts
        }
        plan = self.parts[0][0].plan()
        server = replace(plan.server, site_packages=(site,) if site else ())
        plan = replace(plan, kernels=tuple(self.kernels), targets=targets, server=server)
        return Stocked(plan, {target: workshop.judge() for workshop, target, _ in self.parts})

    def wheel(self, directory: Path) -> Wheel:
        return self.stocked().wheel(directory)


def flashinfer(version: str) -> Path:
    """The package directory of a FlashInfer version."""
    found = directory_of(version)
    return (found or Path(str(importlib.metadata.distribution("flashinfer-python").locate_file("")))) / "flashinfer"


def unpacked(wheel: Path, site: Path) -> Path:
    """A wheel's files where an installer would put them."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def looked_up(version: str, sites: list[Path], names: list[str], base: Path, archs: str = "9.0a") -> dict[str, str]:
    """{module: path of its library, relative to the sites' parent; "" where FlashInfer doesn't find it}."""
    env = {"PATH": os.environ["PATH"], "FLASHINFER_WORKSPACE_BASE": str(base), "FLASHINFER_CUDA_ARCH_LIST": archs}
    words = [str(flashinfer(version)), json.dumps(list(map(str, sites))), *names]
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", _LOOKUP, *words], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    looked_up.stderr = done.stderr  # type: ignore[attr-defined]
    found = json.loads(done.stdout)
    return {name: os.path.relpath(path, sites[0].parent) if path else "" for name, path in found.items()}
