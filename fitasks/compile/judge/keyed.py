"""Is a module that SGLang keeps by content what a build would make now? By SGLang's own rule, and by a receipt of ours.

SGLang (0.5.23, sglang/kernels/jit/utils/compile/cache.py: find_prebuilt) takes the newest directory deps-… whose list
of files, hashed as they are now, gives that directory's name; the plan has the directory above it, which stands for
flags, compilers and packages. It doesn't look into the library, so its hash is in our receipt. The planned library is a
link to the one that doit built.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from fitasks.base.border import read_json
from fitasks.base.errors import BadInput
from fitasks.base.files import look
from fitasks.base.shape import fits
from fitasks.compile.judge.engine_receipt import SHORT, read
from fitasks.compile.judge.reasons import Judgement, Reason, judgement

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fitasks.compile.judge.contents import Contents
    from fitasks.compile.judge.engine_receipt import EngineReceipt
    from fitasks.plan.kernel import Kernel

LIST = "sgl_deps.json"
_SCOPE, _LEAF = "build-", "deps-"
_KEY = 16  # digits
_MOST_BYTES = 16 << 20  # of a list: 200 bytes for each file


@dataclass(frozen=True)
class Found:
    """The library that SGLang takes, None where it compiles: `changed` says what keeps the newest from being taken."""

    library: Path | None
    inputs: int = 0  # how many files were compared
    changed: list[Reason] = field(default_factory=list)


def judge(kernel: Kernel, contents: Contents) -> Judgement:
    """The verdict: `fresh` or `stale`, with every reason."""
    found, receipt = find(kernel, contents), read(kernel)
    if found.library is None:
        lost = Reason("missing", kernel.library.name) if receipt else _new(kernel)
        return judgement("stale", found.changed or [lost])
    reasons = list(_unlike(kernel, found.library, receipt, contents))
    return judgement("stale" if reasons else "fresh", reasons, found.inputs)


def _new(kernel: Kernel) -> Reason:
    """Nothing is there under SGLang's key; whether something is under another one."""
    scopes = kernel.build_dir.parent.glob(f"{_SCOPE}*/{_LEAF}*")
    others = sorted({leaf.parent for leaf in scopes} - {kernel.build_dir}, key=lambda path: look(path)[1:2])
    if not others:
        return Reason("new", "never built")
    was, now = (path.name.removeprefix(_SCOPE)[:SHORT] for path in (others[-1], kernel.build_dir))
    return Reason("changed", "SGLang's key of sources, flags, compilers and packages", was, now)


def _unlike(kernel: Kernel, library: Path, receipt: EngineReceipt | None, contents: Contents) -> Iterable[Reason]:
    """What tells the library that SGLang takes from the one that doit built."""
    state, leaf = contents.state(str(library)), library.parent.name
    if receipt is None:
        yield Reason("incomplete", f"{library.name} has no receipt")
    elif json.loads(receipt.meta) != key_of(library) or leaf_of(kernel) != leaf:
        yield Reason("incomplete", f"{library.name} in {leaf} has no receipt, another has")
    elif state is None or state.digest != receipt.sha256:
        yield Reason("corrupt", library.name, receipt.sha256[:SHORT], state.digest[:SHORT] if state else "unreadable")


def key_of(library: Path) -> dict[str, str]:
    """What a receipt says that a library was published under."""
    return {"leaf": library.parent.name}


def leaf_of(kernel: Kernel) -> str:
    """The directory that the planned library's link leads to; "" where there is no such link."""
    try:
        return kernel.library.readlink().parent.name
    except OSError:
        return ""


def find(kernel: Kernel, contents: Contents) -> Found:
    """What SGLang would find now, as it finds it."""
    meta = json.loads(kernel.meta)
    newest: list[Reason] = []
    for leaf in _leaves(kernel.build_dir)[: meta["leaves"]]:
        entries = _entries(leaf / LIST)
        if entries is None:
            continue
        digests = [_digest(meta["roots"], root, path, contents) for root, path, _ in entries]
        if _key(entries, digests) == leaf.name.removeprefix(_LEAF):
            if (library := leaf / f"{kernel.name}.so").is_file():
                return Found(library, len(entries))
        else:
            newest = newest or list(_changed(entries, digests))
    return Found(None, changed=newest)


def leaf_named_by(listed: Path) -> str:
    """The directory that a list of files belongs into; "" where the list can't be read."""
    entries = _entries(listed)
    return f"{_LEAF}{_key(entries, [digest for *_, digest in entries])}" if entries else ""


def differences(kernel: Kernel, listed: Path, contents: Contents) -> list[Reason]:
    """Which files of a list aren't here, or aren't the same."""
    entries, roots = _entries(listed) or [], json.loads(kernel.meta)["roots"]
    return list(_changed(entries, [_digest(roots, root, path, contents) for root, path, _ in entries]))


def _leaves(directory: Path) -> list[Path]:
    """The newest first."""
    try:
        found = [(path.stat().st_mtime, path) for path in directory.iterdir() if path.name.startswith(_LEAF)]
    except OSError:
        return []
    return [path for _, path in sorted(found, key=lambda one: -one[0])]


def _entries(path: Path) -> list[tuple[str, str, str]] | None:
    """(root, path below it, SHA-256) of each file that a build read; None where the list can't be read."""
    try:
        said = read_json(path, _MOST_BYTES)
    except BadInput:
        return None
    return [(root, below, digest) for root, below, digest in said] if fits(said, list[tuple[str, str, str]]) else None


def _digest(roots: dict[str, str], root: str, path: str, contents: Contents) -> str:
    """Of the file as it is now; "" where it is gone."""
    base = "" if root == "abs" else roots.get(root)
    state = None if base is None else contents.state(os.path.join(base, path))  # noqa: PTH118 - 400 for each module
    return state.digest if state else ""


def _key(entries: Iterable[tuple[str, str, str]], digests: list[str]) -> str:
    if not all(digests):
        return ""
    hashed = sha256()
    for (root, path, _), digest in zip(entries, digests, strict=True):
        hashed.update(repr((root, path, digest)).encode() + b"\0")
    return hashed.hexdigest()[:_KEY]


def _changed(entries: Iterable[tuple[str, str, str]], digests: Iterable[str]) -> Iterable[Reason]:
    for (root, path, before), now in zip(entries, digests, strict=True):
        if not now:
            yield Reason("vanished", f"{root}:{path}")
        elif now != before:
            yield Reason("changed", f"{root}:{path}", before[:SHORT], now[:SHORT])
