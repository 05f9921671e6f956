"""The manifest of a kernel in a store: its receipt, and who vouches for it.

    fitasks kernel 1
    ed25519 <public key, base64> <signature, base64>        or: unsigned
    <the receipt, as beside a library>

The signature is over the first line and the receipt. The receipt has the fingerprint, which is recomputed, and size and
SHA-256 of each file, so that whoever signs it vouches for all of the kernel. Nothing of a receipt is read before the
signature holds, where one is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.border import is_name
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import is_plain_name
from fitasks.compile import receipt as receipts
from fitasks.compile.ninja.ninja import DEPS, LOG
from fitasks.store.remote.keys import holds
from fitasks.store.remote.layout import KERNEL_BYTES, MANIFEST_BYTES, MOST_FILES, is_hash
from fitasks.store.remote.trouble import Refused

if TYPE_CHECKING:
    from collections.abc import Collection

    from fitasks.compile.receipt import Output, Receipt
    from fitasks.store.remote.keys import Signer

_FIRST = b"fitasks kernel 1\n"
_UNSIGNED = b"unsigned"
_LOGS = {LOG, DEPS}
_NO_FILES = (["proc"], ["sys"], ["dev"])
_LONGEST = 100  # letters of a version


def files(receipt: Receipt) -> dict[str, Output]:
    """Return the files of a kernel that a store keeps, smallest first."""
    kept = (pair for pair in receipt.outputs.items() if pair[0] not in _LOGS)
    return dict(sorted(kept, key=lambda pair: pair[1].size))


def text(receipt: Receipt, signer: Signer | None) -> bytes:
    """Return the bytes of a manifest."""
    body = receipts.to_json(receipt).encode()
    if signer is None:
        return _FIRST + _UNSIGNED + b"\n" + body
    vouched = f"{signer.public.replace(':', ' ')} {signer.sign(_FIRST + body)}\n"
    return _FIRST + vouched.encode() + body


def believed(data: bytes, fingerprint: str, trust: Collection[str], name: str = "") -> Receipt:
    """Return the receipt of a manifest that is found under a fingerprint, where a name is given of this module.

    Raises Refused, EnvironmentProblem.
    """
    if len(data) > MANIFEST_BYTES or not data.startswith(_FIRST):
        raise Refused("its manifest is none that this fitasks knows")
    vouched, _, body = data[len(_FIRST) :].partition(b"\n")
    if trust:
        _vouched(vouched, body, trust)
    receipt = receipts.parse(body)
    if receipt is None:
        raise Refused("its manifest has no receipt that can be believed")
    if why := _wrong(receipt, fingerprint):
        raise Refused(why)
    if receipt.name != name and name:
        raise Refused("its receipt is that of another module")
    return receipt


def signed_by(data: bytes) -> str:
    """Return the public key that a manifest names; nothing is verified. "" where it names none."""
    words = data[len(_FIRST) :].partition(b"\n")[0].split(b" ")
    return f"ed25519:{words[1].decode(errors='replace')}" if words[0] == b"ed25519" and len(words) == 3 else ""


def signer_in(data: bytes, receipt: Receipt) -> str:
    """Return the public key whose signature in a manifest holds for this receipt; "" where none does."""
    key = signed_by(data)
    try:
        return key if key and believed(data, receipt.fingerprint, (key,), receipt.name) == receipt else ""
    except (Refused, EnvironmentProblem):
        return ""


def _vouched(vouched: bytes, body: bytes, trust: Collection[str]) -> None:
    words = vouched.decode(errors="replace").split(" ")
    if len(words) != 3 or words[0] != "ed25519":
        raise Refused("it is unsigned")
    public = f"ed25519:{words[1]}"
    if public not in trust:
        raise Refused("it is signed by a key that kernels.yaml doesn't trust")
    if not holds(public, words[2], _FIRST + body):
        raise Refused("its signature doesn't hold")


def _wrong(receipt: Receipt, fingerprint: str) -> str:
    """Return what no build and no push makes, "" if nothing."""
    if unmade := receipts.unmade(receipt):
        return f"its receipt {unmade}"
    made = receipts.fingerprint(receipt.commands, receipt.toolchain, receipt.inputs)
    if not fingerprint == receipt.fingerprint == made:
        return "its receipt is that of another kernel"
    if strange := next(filter(_strange, (path for path, _ in receipts.parse_inputs(receipt.inputs))), ""):
        return f"its receipt has {strange!r:.100} as an input, which no build has"
    kept = files(receipt)
    if len(kept) > MOST_FILES or sum(output.size for output in kept.values()) > KERNEL_BYTES:
        return "it is larger than a kernel can be"
    if not all(is_hash(output.sha256) for output in kept.values()):
        return "its receipt has no hashes"
    return "" if _named(receipt) else "its receipt has names that can't be shown"


def _strange(path: str) -> bool:
    """Whether an input leaves its root, or lies where reading, which compares it, waits or does something."""
    steps = [step for step in path.split("/") if step not in {"", "."}]
    return ".." in steps or (path.startswith("/") and steps[:1] in _NO_FILES)


def _named(receipt: Receipt) -> bool:
    """Return whether what is shown of it can be: a version is "" where nobody knows it."""
    words = (receipt.flashinfer or "-", receipt.target)
    return is_plain_name(receipt.name) and all(is_name(word, _LONGEST) for word in words)
