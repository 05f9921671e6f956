"""Keys that kernels are signed with: ed25519, of the package cryptography, imported where a key is used.

A private key is a PEM file that only its owner may read; a public one is a word, `ed25519:…`, for kernels.yaml.
"""

from __future__ import annotations

import base64
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.border import open_regular
from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "FITASKS_SIGNING_KEY"
EXTRA = "pip install 'fitasks[store]'"
_MOST = 4096  # bytes of a key's file
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Signer:
    """A private key. `public` is its word for kernels.yaml."""

    public: str
    _key: Any

    def sign(self, data: bytes) -> str:
        """Return the signature, base64."""
        return base64.b64encode(self._key.sign(data)).decode()


def holds(public: str, signature: str, data: bytes) -> bool:
    """Return whether the key of this word has signed these bytes. Raises EnvironmentProblem."""
    ed25519 = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(public.partition(":")[2], validate=True))
        key.verify(base64.b64decode(signature, validate=True), data)
    except (ValueError, InvalidSignature):
        return False
    return True


def usual_file(env: Mapping[str, str]) -> Path:
    """Return where `doit keygen` writes, and signing looks, unless somebody names another place."""
    config = env.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - no error without a home
    return Path(config) / "fitasks" / "signing.pem"


def signer_of(env: Mapping[str, str]) -> Signer | None:
    """Return the key that this user signs with: FITASKS_SIGNING_KEY's file, or the usual one; None without either.

    Raises EnvironmentProblem for one that can't be used.
    """
    named = env.get(VARIABLE, "")
    file = Path(named) if named else usual_file(env)
    return read(file) if named or file.exists() else None


def read(file: Path) -> Signer:
    """Return the key in a file. Raises EnvironmentProblem."""
    try:
        with open_regular(file) as stream:
            mode, data = os.fstat(stream.fileno()).st_mode, stream.read(_MOST)
    except OSError as error:
        raise EnvironmentProblem(
            f"signing key {file}: {error.strerror}", remedy=f"doit keygen, or set {VARIABLE}"
        ) from None
    if mode & _OTHERS:
        raise EnvironmentProblem(f"signing key {file}: others may read or write it", remedy=f"chmod 600 {file}")
    ed25519 = _library()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any = None
    with suppress(ValueError, TypeError):
        key = load_pem_private_key(data, password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise EnvironmentProblem(
            f"signing key {file}: not an ed25519 key without a password", remedy="doit keygen FILE"
        )
    return _signer(key)


def make(file: Path) -> Signer:
    """Write a new private key. Raises EnvironmentProblem where there is a file already, OSError."""
    key = _library().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise EnvironmentProblem(f"{file} is there already, and is not replaced", remedy="doit keygen FILE") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        stream.flush()
        os.fsync(descriptor)
    return _signer(key)


def _signer(key: Any) -> Signer:
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return Signer(f"ed25519:{public}", key)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise EnvironmentProblem("signed kernels need the package cryptography", remedy=EXTRA) from None
    return ed25519
