"""Which functions may be called to make a module: generators, by their name and the package they are in.

A generator is called, so an entry, or a line of a trace, must not be able to name just any function. The serving
interpreter looks once more, at the function itself (serving/plan/plan_generators.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN = "flashinfer"  # the package whose generators nobody has to name
# Functions of SGLang's that call its load_jit make modules of its own JIT: any in these, elsewhere those called _jit_….
_SGLANG = ("sglang.jit_kernel", "sglang.kernels")
_JIT = re.compile(r"_jit_\w+", re.ASCII)
_NAME = re.compile(r"_?gen_(?!\w*(?:modules|specs)$)\w+", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def is_named_like_one(function: str) -> bool:
    """Return whether a function of this name makes one module: gen_page_module, gen_xqa_module_mla, gen_gdn_cp_spec."""
    return bool(_NAME.fullmatch(function))


def may_be_called(op: str, packages: Sequence[str] = ()) -> bool:
    """Return whether `module:function` makes a module, by its words.

    It is a generator of FlashInfer or of one of these packages, or may be a function of SGLang's own JIT: whether it
    is one the serving interpreter reads in SGLang's source, before it imports the module (serving/plan/plan_sglang.py).
    """
    module, _, function = op.partition(":")
    if not _MODULE.fullmatch(module):
        return False
    named = _FUNCTION if any(_is_in(module, package) for package in _SGLANG) else _JIT
    if _is_in(module, "sglang") and named.fullmatch(function):
        return True
    return any(_is_in(module, package) for package in (_OWN, *packages)) and is_named_like_one(function)


def may_make_object(op: str) -> bool:
    """Return whether `module:function` may make a CuTe-DSL object of FlashInfer's, by its words.

    The serving interpreter reads the module's source before it imports it (serving/plan/cute_functions.py).
    """
    module, _, function = op.partition(":")
    if not _MODULE.fullmatch(module) or module == _OWN or _is_in(module, f"{_OWN}.jit"):
        return False
    return _is_in(module, _OWN) and bool(_FUNCTION.fullmatch(function)) and not is_named_like_one(function)


def _is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")
