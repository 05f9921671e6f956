"""The symbol audit of this project's compiled kernels against the dynamic loader.

    python bench/audit.py            in the project's directory, after doit

Each kernel is audited against the toolkit's real libcudart, and against stand-ins that export the same symbols but
for one, for each of the CUDA symbols that the kernels need. The loader itself is then asked to resolve every symbol
with that library in place (`ldd -r`). Prints what the audit predicted beside what the loader said; exit status 1 where
they differ. (A server wouldn't notice when it loads the module: tvm-ffi's dlopen is RTLD_LAZY, and the process dies
at the first call of what is missing.)
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.build import receipt as receipts
from fitasks.cuda.cudart import Cudart, describe, missing
from fitasks.session import Session

if TYPE_CHECKING:
    from fitasks.build.receipt import Receipt
    from fitasks.plan.kernel import Kernel

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
    print(f"\n{wrong} predictions were wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
