"""Directories by one character in their names: in which of them can FlashInfer build, once and not again?

    python bench/paths.py [--home CUDA_HOME] [CHARACTER …]

In an environment with FlashInfer and a toolkit. For each character (by default every ASCII one that is no letter, digit
or slash, and é) FlashInfer's own text of build.ninja is made for a .cu and a .cc that include a header: in a cache that
has the character in its path, with a CUDA_HOME that has, and with a package that has. The first ninja on PATH builds
that, and is asked whether it would do so again; `ours` is what fitasks/plan/unbuildable.py says of each. Some
minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fitasks.plan.unbuildable import obstacle

_SOURCE = '#include "special.h"\n#include "beside.h"\nextern "C" int f_{name}() {{ return SPECIAL; }}\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")))
    parser.add_argument("characters", nargs="*")
    given = parser.parse_args()
    ascii_ones = [chr(code) for code in range(1, 128) if not chr(code).isalnum() and chr(code) not in "/."]
    os.environ |= {"CUDA_HOME": str(given.home), "FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    with tempfile.TemporaryDirectory(prefix="fitasks-paths-") as name:
        print(f"{'':>6} {'cache':>6} {'CUDA_HOME':>10} {'package':>8}   ours")
        for index, character in enumerate(given.characters or [*ascii_ones, "é"]):
            row = _row(Path(name, str(index)), character, given.home)
            print(f"{character!r:>6} {row[0]:>6} {row[1]:>10} {row[2]:>8}   {_ours(character)}", flush=True)


def _row(top: Path, character: str, home: Path) -> list[str]:
    odd, plain = top / f"x{character}y", top / "plain"
    for directory in (odd / "include", plain / "include"):
        directory.mkdir(parents=True)
        (directory / "special.h").write_text("#define SPECIAL 1\n")
    (odd / "cuda").symlink_to(home)
    return [
        _built(odd / "cache", home, plain / "include"),
        _built(plain / "one", odd / "cuda", plain / "include"),
        _built(plain / "two", home, odd / "include"),
    ]


def _built(cache: Path, home: Path, include: Path) -> str:
    """`fine`, `again` or `fails`."""
    cpp_ext, env = _flashinfer()
    sources = cache / "generated" / "m"
    sources.mkdir(parents=True)
    (sources / "beside.h").touch()
    for name in ("a.cu", "b.cc"):
        (sources / name).write_text(_SOURCE.format(name=name[0]))
    cpp_ext.get_cuda_path = lambda: str(home)
    env.FLASHINFER_JIT_DIR, env.FLASHINFER_INCLUDE_DIR = cache / "cached_ops", include
    build = cache / "cached_ops" / "m"
    build.mkdir(parents=True)
    text = cpp_ext.generate_ninja_build_for_op("m", [sources / "a.cu", sources / "b.cc"], None, None, None, None)
    (build / "build.ninja").write_text(text)
    command = ["ninja", "-C", str(build.resolve()), "-f", str((build / "build.ninja").resolve())]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not (build / "m.so").exists():
        return "fails"
    asked = subprocess.run([*command, "-n"], capture_output=True, check=True)
    shutil.rmtree(build)
    return "fine" if b"no work to do" in asked.stdout else "again"


def _flashinfer() -> tuple[Any, Any]:
    from flashinfer.jit import cpp_ext, env

    cpp_ext.get_cuda_version()  # remembered: asked before CUDA_HOME has an odd name
    return cpp_ext, env


def _ours(character: str) -> str:
    found = [obstacle(character, in_commands=in_commands) for in_commands in (False, True, True)]
    return " ".join("again" if one and one[1] else "fails" if one else "fine" for one in found)


if __name__ == "__main__":
    main()
