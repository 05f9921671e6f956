"""Which object of a store is called what. Names are hashes of contents, so that nothing is ever changed but an index.

    v1/files/<2 digits>/<SHA-256>          one file of a kernel, as it is
    v1/kernels/<2 digits>/<fingerprint>    its manifest (manifest.py): written when all its files are there
    v1/index/<2 digits>/<question>         fingerprints of the kernels that were compiled for this question
    v1/used/<2 digits>/<fingerprint>       empty; its time says when the kernel was last taken (push.py)

A question is what is known before a compile: the module, its commands, nvcc. Which headers are read is only known
afterwards, so that one question has several answers, and each manifest lists the headers of its own.

An index is a hint that anybody may damage: what it names is judged by its manifest. Two machines that write it at once
may lose one of the two lines; that kernel is then compiled once more, and written again.
"""

from __future__ import annotations

import hashlib
import json
import re

MOST_ANSWERS = 16  # that an index keeps, newest first
INDEX_BYTES = 16 << 10
MANIFEST_BYTES = 16 << 20  # a receipt of 700 headers has 0.1 MB
KERNEL_BYTES = 16 << 30  # all files of one
MOST_FILES = 10_000  # of one kernel; FlashInfer's largest module has some hundred

FILES, KERNELS, INDEX, USED = "files", "kernels", "index", "used"
_HASH = re.compile(r"[0-9a-f]{64}")


def at(kind: str, name: str) -> str:
    """Return the path of an object. Raises ValueError for a name that is no hash."""
    if not is_hash(name):
        raise ValueError(f"no SHA-256: {name!r:.100}")
    return f"v1/{kind}/{name[:2]}/{name}"


def is_hash(text: object) -> bool:
    """Return whether this can be the name of an object."""
    return isinstance(text, str) and _HASH.fullmatch(text) is not None


def question(name: str, commands: str, toolchain: dict[str, str]) -> str:
    """Return the name of the index for a module. A host compiler is left to the judge: a machine may have none."""
    parts = [name, commands, toolchain.get("nvcc", "")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def index(answers: list[str]) -> bytes:
    """Return the bytes of an index."""
    return json.dumps({"version": 1, "kernels": answers[:MOST_ANSWERS]}).encode()


def answers(data: bytes) -> list[str]:
    """Return the fingerprints of an index; [] for what is none."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return []
    found = said.get("kernels") if isinstance(said, dict) and said.get("version") == 1 else None
    return list(dict.fromkeys(filter(is_hash, found)))[:MOST_ANSWERS] if isinstance(found, list) else []
