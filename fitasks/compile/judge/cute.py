"""Is a CuTe-DSL object what a build would make now? By FlashInfer's own rule, and by a receipt beside it.

FlashInfer compares meta.json, one for all objects of a family, with what it expects: architecture, the compiler's
packages, the hash of the family's sources (jit/cute_dsl_core.py). The plan has what it expects. It looks at no object's
contents: one whose GPU code was altered is loaded without a word, so its hash is in our receipt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fitasks.base.border import read_json
from fitasks.base.errors import BadInput
from fitasks.compile.judge.engine_receipt import SHORT, read
from fitasks.compile.judge.reasons import Judgement, Reason, judgement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.compile.judge.contents import Contents
    from fitasks.plan.kernel import Kernel

_MOST_BYTES = 1 << 20  # of meta.json


def judge(kernel: Kernel, contents: Contents) -> Judgement:
    """The verdict: `fresh` or `stale`, with every reason."""
    state, receipt = contents.state(str(kernel.library)), read(kernel)
    if state is None:
        missing = Reason("missing", kernel.library.name) if receipt else Reason("new", "never built")
        return judgement("stale", [missing])
    reasons = list(unlike(kernel))
    if receipt is None:
        reasons.append(Reason("incomplete", f"{kernel.library.name} has no receipt"))
    elif json.loads(receipt.meta) != json.loads(kernel.meta):
        reasons.append(Reason("changed", "the key in its receipt"))
    elif state.digest != receipt.sha256:
        reasons.append(Reason("corrupt", kernel.library.name, receipt.sha256[:SHORT], state.digest[:SHORT]))
    return judgement("stale" if reasons else "fresh", reasons, 1)


def unlike(kernel: Kernel) -> Iterator[Reason]:
    """In what meta.json isn't what FlashInfer expects: then it wipes the family's directory, and compiles."""
    try:
        found = read_json(kernel.ninja_file, _MOST_BYTES)
    except BadInput:
        yield Reason("missing", kernel.ninja_file.name)
        return
    if not isinstance(found, dict):
        yield Reason("changed", kernel.ninja_file.name)
        return
    yield from differences(kernel, found)


def differences(kernel: Kernel, found: dict[str, Any]) -> Iterator[Reason]:
    """In what a key isn't what FlashInfer expects here."""
    expected = json.loads(kernel.meta)
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            yield Reason("changed", f"{key} in {kernel.ninja_file.name}", *_words(found.get(key), expected.get(key)))


def _words(old: object, new: object) -> tuple[str, str]:
    """What differs, of lists of packages each its own part."""
    before, after = str(old).split(";"), str(new).split(";")
    only = [word for word in before if word not in after], [word for word in after if word not in before]
    return tuple(";".join(words)[:200] or "nothing" for words in only)  # type: ignore[return-value]
