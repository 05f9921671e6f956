"""What may be named as a store of finished kernels elsewhere, and whose signatures are believed: words, not opened.

A URL holds no secrets: it is shown, and kernels.yaml is often public. So no sentence here quotes one.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

SCHEMES = {
    "file": "file:///directory",
    "s3": "s3://bucket/prefix",
    "gs": "gs://bucket/prefix",
    "az": "az://account/container/prefix",
    "http": "http://host/prefix",
    "https": "https://host/prefix",
}
KEY = r"ed25519:[A-Za-z0-9+/]{43}="
_CREDENTIALS = (
    "credentials don't belong into a store's URL, which is shown: give them as the environment variables of the "
    "service (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY, …)"
)
_EXPECTED = f"expected an absolute path, or a URL such as {', '.join(SCHEMES.values())}"
_KEY_BYTES = 32


@dataclass(frozen=True)
class StoreRequest:
    """A store elsewhere. `trust`: public keys, of which one must have signed what is taken; () takes all that fits."""

    url: str
    push: bool = False
    trust: tuple[str, ...] = ()


def unusable(url: str) -> str:
    """Return what is wrong with a store's URL or absolute path, in a sentence without it; "" if nothing is."""
    if not url.isprintable() or not url.isascii() or re.search(r"[\s,\\]", url):
        return "a store's URL has no blank, comma, backslash or other letters than ASCII's"
    if url.startswith("/"):
        return _unusable_path(url)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"not a URL; {_EXPECTED}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return _CREDENTIALS
    return _unusable_place(parts) or _unusable_path(parts.path)


def _unusable_place(parts: SplitResult) -> str:
    if parts.scheme == "oci":
        return "a registry holds bundles, and is no store: doit push oci://registry/name:tag, doit unbundle oci://…"
    if parts.scheme not in SCHEMES:
        return f"not a store; {_EXPECTED}"
    return f"expected {SCHEMES[parts.scheme]}" if bool(parts.netloc) == (parts.scheme == "file") else ""


def _unusable_path(path: str) -> str:
    if {".", ".."} & set(path.split("/")) or "%" in path or "?" in path or "#" in path:
        return "a store's path has no `.` and `..`, and no %, ? or #"
    return ""


def shortest(url: str) -> str:
    """Return the URL, or path, by which two ways to write the same store are told to be the same."""
    return url.removeprefix("file://").rstrip("/") or "/"


def is_key(text: str) -> bool:
    """Return whether this is a public key as `doit keygen` says it."""
    if not re.fullmatch(KEY, text):
        return False
    try:
        return len(base64.b64decode(text.partition(":")[2], validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
