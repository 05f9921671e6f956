"""The borders over which data from elsewhere comes in: for each a real sample, and what fitasks does with the file.

A border's `use` calls what the commands call, in this process, and prints what they print.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.mutants_kernels import bundle, elsewhere, receipt, store, wheel
from bench.mutants_memos import memos, plan
from bench.mutants_texts import buildlog, jitlog, kernels_yaml, models, trace
from bench.mutants_worlds import Border

BORDERS: dict[str, Callable[[Path], Border]] = {
    "kernels": kernels_yaml,
    "models": models,
    "trace": trace,
    "jitlog": jitlog,
    "buildlog": buildlog,
    "receipt": receipt,
    "store": store,
    "elsewhere": elsewhere,
    "plan": plan,
    "memos": memos,
    "bundle": bundle,
    "wheel": wheel,
}
