"""The symbol audit of this project's compiled kernels against the dynamic loader.

    python bench/audit.py            in the project's directory, after doit

Each kernel is audited against the toolkit's real libcudart, and against stand-ins that export the same symbols but
for one, for each of the CUDA symbols that the kernels need. The loader itself is then asked to resolve every symbol
with that library in place (`ldd -r`). Prints what the audit predicted beside what the loader said; exit status 1 where
they differ. (A server wouldn't notice when it loads the module: tvm-ffi's dlopen is RTLD_LAZY, and the process dies
at the first call of what is missing.)

Then every kernel is predicted for a server's process, as it is and with each library and each symbol that it needs
renamed in a copy, beside what the loader says of these in such a process, with LD_BIND_NOW=1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.compile import receipt as receipts
from fitasks.cuda.cudart import Cudart, describe, missing
from fitasks.cuda.elf import inspect_library
from fitasks.graph.session import Session
from fitasks.server.loadable import refused_by

if TYPE_CHECKING:
    from fitasks.compile.receipt import Receipt
    from fitasks.plan.kernel import Kernel

# {library: what the loader says} of a process as a server's.
_JUDGE = """
import ctypes, json, sys, torch, tvm_ffi
said = {}
for path in sys.argv[1:]:
    try:
        ctypes.CDLL(path)
        said[path] = ""
    except OSError as error:
        said[path] = str(error)
print(json.dumps(said))
"""
_SAID = re.compile(r"(?:undefined symbol:?|symbol) ((?:__)?cuda\w+)")


def stand_in(real: Cudart, without: str, directory: Path) -> Path:
    """A libcudart that exports, with their versions, all symbols of a real one but `without`."""
    names = sorted({symbol.partition("@")[0] for symbol in real.symbols} - {without, real.soname})
    source, script = directory / "stand_in.c", directory / "versions"
    source.write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    script.write_text(f"{real.soname} {{ global: *; }};\n")
    library = directory / real.soname
    command = ["cc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{real.soname}"]
    subprocess.run([*command, f"-Wl,--version-script={script}", "-o", str(library), str(source)], check=True)
    return library


def loader_says(cudart: Path, soname: str, library: Path) -> set[str]:
    """The CUDA symbols that the dynamic loader doesn't find for `library`, with this libcudart as the only one."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, soname).symlink_to(cudart)
        env = os.environ | {"LD_LIBRARY_PATH": directory, "LC_ALL": "C"}
        done = subprocess.run(["ldd", "-r", str(library)], env=env, capture_output=True, text=True, check=False)
    return set(_SAID.findall(done.stdout + done.stderr))


def compare(kernels: list[tuple[Kernel, Receipt]], cudart: Cudart, without: str) -> int:
    """One row; how many predictions were wrong."""
    wrong, fails = [], []
    for kernel, receipt in kernels:
        predicted = {symbol.partition("@")[0] for symbol in missing(receipt.needed, receipt.undefined, cudart)}
        said = loader_says(Path(cudart.real), cudart.soname, kernel.library)
        wrong += [kernel.label] if predicted != said else []
        fails += [kernel.label] if predicted else []
    named = "all of them" if len(fails) == len(kernels) else ", ".join(fails) or "none"
    print(f"| {without or 'nothing'} | {named} | {'differs for ' + ', '.join(wrong) if wrong else 'the same'} |")
    return len(wrong)


def renamed(kernel: Path, directory: Path, names: list[str]) -> list[Path]:
    """A copy of the library for each name, which is spelt otherwise in it."""
    content, copies = kernel.read_bytes(), []
    for name in names:
        old = f"\0{name}\0".encode()
        if old not in content:
            continue  # the tail of a longer name
        copy = directory / f"{kernel.stem} without {name}.so"
        copy.write_bytes(content.replace(old, old[:-2] + b"\x7e\0"))
        copies.append(copy)
    return copies


def process_says(session: Session, libraries: list[Path]) -> dict[str, str]:
    """What the loader of a server's process says of each; "" where it takes it."""
    server = session.plan.server
    command = [str(server.python), "-c", _JUDGE, *map(str, libraries)]
    done = subprocess.run(command, env=server.env | {"LD_BIND_NOW": "1"}, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, str] = json.loads(done.stdout)
    return said


def in_the_process(session: Session, kernels: list[tuple[Kernel, Receipt]]) -> int:
    """One row for each kernel; how many predictions were wrong."""
    print("\n| kernel | copies | refused | the loader says |\n|---|--:|--:|---|")
    wrong = 0
    for kernel, _ in kernels:
        with tempfile.TemporaryDirectory() as directory:
            found = inspect_library(kernel.library)
            names = [*found.needed, *sorted({symbol.name for symbol in found.required})]
            copies = [kernel.library, *renamed(kernel.library, Path(directory), names)]
            for copy in copies:
                session.loader.answer(session.loader.needs(copy), partial(list, copies))
            refused = {str(copy): refused_by(session, copy) for copy in copies}
            said = process_says(session, copies)
        differ = [Path(path).stem for path in said if bool(said[path]) != bool(refused[path])]
        count = sum(one is not None for one in refused.values())
        same = f"differs for {', '.join(differ)}" if differ else "the same"
        print(f"| {kernel.label} | {len(copies)} | {count} | {same} |")
        wrong += len(differ)
    return wrong


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    session = Session.load(Path.cwd())
    kernels = [(kernel, receipt) for kernel in session.plan.buildable() if (receipt := receipts.read(kernel))]
    symbols = sorted({name.partition("@")[0] for _, receipt in kernels for name in receipt.undefined})
    real = session.runtime.toolkit
    print(f"libcudart {real.version} at {real.path}\n\n| without | won't resolve | the loader says |\n|---|---|---|")
    wrong = compare(kernels, real, "")
    for symbol in (name for name in symbols if name in {exported.partition("@")[0] for exported in real.symbols}):
        with tempfile.TemporaryDirectory() as directory:
            wrong += compare(kernels, describe(stand_in(real, symbol, Path(directory))), symbol)
    wrong += in_the_process(session, kernels)
    print(f"\n{wrong} predictions were wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
