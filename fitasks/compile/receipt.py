"""The receipt beside each `.so`: what it was built from, and what came out. No receipt, no kernel.

Written last and atomically, by us alone; read by everything that asks whether a kernel is fresh. Inputs are kept as
one text of lines `<sha256> <path relative to a root>`: hundreds of kernels share most of these lines, so freshness
compares whole lines as strings and looks at each file once.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fitasks.base import memo
from fitasks.base.files import is_plain_name, write_atomic
from fitasks.base.shape import fits
from fitasks.compile.ninja.ninja import DEPS, LOG

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fitasks.plan.kernel import Kernel

VERSION = 1
NAME = "fitasks-receipt.json"
FETCHED = "fetched"  # the note of a kernel from a store elsewhere: the public key that vouched for it, or "unsigned"

_LISTS = ("needed", "undefined", "architectures")


@dataclass(frozen=True)
class Output:
    """A file that the build made, with the timestamp under which ninja accepted it."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Receipt:
    """All of a finished build. Paths are relative to roots; `inputs` is framed as the module docstring says."""

    name: str
    flashinfer: str
    target: str
    generator: str
    commands: str  # build.ninja with roots named, and the sources that are written with it
    toolchain: dict[str, str]  # "nvcc": release and build, "c++": first line of --version
    inputs: str
    fingerprint: str
    ninja: str  # version whose log lies beside
    build_ninja: str  # SHA-256 of build.ninja as it was, whose commands ninja has logged
    sealed_ns: int  # no input may be newer than this, or ninja compiles again
    outputs: dict[str, Output]  # file name → Output; the .so, objects, ninja's two logs
    stamp: str  # SHA-256 of the stamp under which the kernel was last looked at
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss: int = 0  # bytes, of the largest compiler process
    built: str = ""  # UTC, ISO 8601
    needed: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()  # CUDA symbols, "name@version"
    architectures: tuple[str, ...] = ()  # of the machine code, "sm_90a"
    notes: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION


def path_of(kernel: Kernel) -> Path:
    """Where a kernel's receipt lies."""
    return kernel.build_dir / NAME


def write(kernel: Kernel, receipt: Receipt) -> None:
    """Vouch for a kernel; the very last step of a build."""
    write_atomic(path_of(kernel), to_json(receipt))


def to_json(receipt: Receipt) -> str:
    """Return the text of a receipt's file."""
    return memo.sealed(asdict(receipt), indent=1)


def read(kernel: Kernel) -> Receipt | None:
    """The receipt, None where there is none that can be believed: torn, of another version, of another module."""
    return read_file(path_of(kernel), kernel.name)


def read_file(path: Path, name: str) -> Receipt | None:
    """The receipt of module `name` in a file; None as above, or where it says what no build makes."""
    receipt = said(path, name)
    return None if receipt is None or unmade(receipt) else receipt


def said(path: Path, name: str) -> Receipt | None:
    """Return what a file says, if every field is of its type: it may come from elsewhere.

    What it names isn't looked at. One without a seal is of an earlier fitasks.
    """
    data = memo.read(path, Receipt, unsealed=True)
    return _understood(data) if data and data["name"] == name else None


def parse(text: bytes) -> Receipt | None:
    """Return what the text of a receipt's file says, as above; of whichever module. It must have its seal."""
    return _understood(memo.understood(text, Receipt))


def _understood(data: dict[str, Any] | None) -> Receipt | None:
    if data is None or data["version"] != VERSION:
        return None
    outputs = {file: Output(**output) for file, output in data["outputs"].items()}
    receipt = Receipt(**data | {"outputs": outputs} | {field: tuple(data[field]) for field in _LISTS})
    return receipt if f"{receipt.name}.so" in outputs and _measured(receipt) else None


def unmade(receipt: Receipt) -> str:
    """Return what a receipt says that no build makes, "" if nothing. Outputs are files of one directory."""
    for name in receipt.outputs:
        if name not in {f"{receipt.name}.so", LOG, DEPS} and not (name.endswith(".o") and is_plain_name(name)):
            return f"has {name!r:.300} as an output, which no build makes"
    if not {LOG, DEPS} <= receipt.outputs.keys():
        return "knows nothing of ninja's logs"
    return "" if receipt.inputs else "has no input"


def _measured(receipt: Receipt) -> bool:
    """Whether nothing is negative that can't be, and every note can be shown."""
    sizes = (number for output in receipt.outputs.values() for number in (output.size, output.mtime_ns))
    numbers = (receipt.sealed_ns, receipt.peak_rss, receipt.seconds, receipt.cpu_seconds, *sizes)
    return all(0 <= number < math.inf for number in numbers) and fits(receipt.notes, dict[str, int | str])


def fingerprint(commands: str, toolchain: dict[str, str], inputs: str) -> str:
    """One digest of all that decides a build's result; each part is framed by its length."""
    digest = hashlib.sha256()
    for part in (commands, json.dumps(toolchain, sort_keys=True), inputs):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def input_lines(digests: Iterable[tuple[str, str]]) -> str:
    """The `inputs` text from (relative path, sha256) pairs, sorted, each file once.

    Raises ValueError for a path with a line break, which would make two different lists look alike.
    """
    digests = list(digests)
    if broken := next((path for path, _ in digests if "\n" in path), None):
        raise ValueError(f"a line break in the name of an input: {broken!r}")
    return "\n".join(f"{sha} {path}" for path, sha in sorted(set(digests)))


def parse_inputs(inputs: str) -> list[tuple[str, str]]:
    """(relative path, sha256) pairs of an `inputs` text."""
    return [(line[65:], line[:64]) for line in inputs.split("\n") if line]
