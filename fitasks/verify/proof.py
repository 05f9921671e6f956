"""The receipt of a proof, beside the kernel: on which GPU which `.so` was found right, and how exactly.

It holds for the file's hash, so that an unchanged kernel is proven once per architecture.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from fitasks.base import memo
from fitasks.base.answers import Checked
from fitasks.base.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "fitasks-proof.json"
_VERSION = 1
_WRITING = threading.Lock()  # GPUs of two architectures may prove one library at the same time


@dataclass(frozen=True)
class Proof:
    """A library proven on a GPU: "numerical" against float32 references, or only "loaded"; the note says why only."""

    sha256: str  # of the library
    capability: str  # "9.0"
    gpu: str
    driver: str
    torch: str
    flashinfer: str
    kind: Literal["numerical", "loaded"]
    checks: tuple[Checked, ...]
    note: str
    proven: str  # UTC, ISO 8601

    @property
    def worst(self) -> Checked | None:
        """The check that came nearest to its tolerance."""
        return max(self.checks, key=lambda check: check.error - check.tolerance, default=None)


class _Memo(TypedDict):
    version: int
    proofs: list[Proof]


def read(directory: Path, sha256: str) -> dict[str, Proof]:
    """The proofs of exactly this library by capability; none where there is no file that can be believed."""
    said = memo.read(directory / NAME, _Memo, unsealed=True)  # a proof takes a GPU
    if said is None or said["version"] != _VERSION:
        return {}
    proofs = [_proof(record) for record in said["proofs"]]
    return {proof.capability: proof for proof in proofs if proof.sha256 == sha256}


def add(directory: Path, proof: Proof) -> None:
    """Write it beside those of other architectures; proofs of another library go. Raises OSError."""
    with _WRITING:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, read(directory, proof.sha256) | {proof.capability: proof})


def remove(directory: Path, sha256: str, capability: str) -> None:
    """What was once proven of a library and is refuted now. Raises OSError."""
    with _WRITING:
        proofs = read(directory, sha256)
        if proofs.pop(capability, None):
            _write(directory, proofs)


def _write(directory: Path, proofs: Mapping[str, Proof]) -> None:
    records = [asdict(one) for _, one in sorted(proofs.items())]
    text = memo.sealed({"version": _VERSION, "proofs": records}, indent=1)
    write_atomic(directory / NAME, text, sync=False)  # what is lost is proven again


def _proof(record: dict[str, Any]) -> Proof:
    return Proof(**record | {"checks": tuple(Checked(**check) for check in record["checks"])})
