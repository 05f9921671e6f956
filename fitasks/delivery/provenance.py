"""Receipts as they travel: what each kernel was made from and with, without places, times and costs.

What a kernel is made of is the same in every receipt of a wheel, but for which of it: hundreds of kernels share
thousands of headers. So each input stands once, and receipts hold numbers.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.delivery.collect import Complete

VERSION = 1

# A path that no root stands for: the compiler's own headers, Python's. `{CUDA}/x` and `$cuda_home/x` are none.
_ABSOLUTE = re.compile(r"(?<![\w}.$-])/[\w.+@~-]+(?:/[\w.+@~-]+)+|(?<=-[IL])/[\w.+@~/-]+")


def receipts_text(kernels: Iterable[Complete]) -> str:
    """JSON of all receipts, in the order given; the same for the same kernels, on any day and machine."""
    kernels = tuple(kernels)
    lines = {one.kernel.label: placeless(one.receipt.inputs).split("\n") for one in kernels}
    inputs = sorted({line for several in lines.values() for line in several})
    numbers = {line: number for number, line in enumerate(inputs)}
    records = [_record(one, [numbers[line] for line in lines[one.kernel.label]]) for one in kernels]
    return json.dumps({"version": VERSION, "inputs": inputs, "kernels": records}, indent=None, separators=(",", ":"))


def placeless(text: str) -> str:
    """The text with paths outside all roots cut down to their last name: `{ELSEWHERE}/python3.11`."""
    return _ABSOLUTE.sub(lambda match: "{ELSEWHERE}/" + match[0].rstrip("/").rpartition("/")[2], text)


def _record(one: Complete, inputs: list[int]) -> dict[str, Any]:
    receipt = one.receipt
    return {
        "directory": one.directory,
        "name": receipt.name,
        "generator": receipt.generator,
        "params": one.kernel.params,
        "sha256": one.sha256,
        "size": one.size,
        "architectures": one.architectures,
        "needed": receipt.needed,
        "undefined": receipt.undefined,
        "toolchain": receipt.toolchain,
        "fingerprint": receipt.fingerprint,
        "commands": placeless(receipt.commands),
        "inputs": inputs,
    }
