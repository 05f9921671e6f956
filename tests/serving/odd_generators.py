"""Generators that misbehave, for entries like `op: odd_generators:gen_leaves`."""

import enum
import functools
import os
import socket
import sys
from pathlib import Path
from typing import Callable, List, Literal, Optional  # noqa: UP035  # as FlashInfer writes them

from flashinfer.jit.core import JitSpec
from flashinfer.jit.cute_dsl_core import JitSpecCuteDsl
from flashinfer.jit.page import gen_page_module
from flashinfer.jit.rope import gen_rope_module


class Layout(enum.Enum):
    NHD = 0
    HND = 1


def gen_leaves():
    sys.exit(5)


def gen_asserts():
    raise AssertionError("two\nlines")


def gen_downloads():
    try:
        socket.create_connection(("192.0.2.1", 443))  # TEST-NET-1
    except Exception:  # noqa: BLE001  # a downloader that never gives up
        return gen_page_module()


def gen_resolves():
    socket.getaddrinfo("example.invalid", 443)


def gen_builds():
    return gen_page_module().build_and_load()


def gen_two():
    return [gen_page_module(), gen_rope_module()]


def gen_nothing():
    return None


def gen_noisy():
    print('{"version": 1}')  # noqa: T201
    print("noise", file=sys.stderr)  # noqa: T201
    return gen_page_module()


def gen_picky(
    layout: Layout,
    kind: Literal["a", "b"],
    size: Optional[int] = 4,  # noqa: UP045
    flag: bool = True,
    names: List[str] = (),  # type: ignore[assignment]  # noqa: UP006 - as careless as others' code
):
    return gen_page_module()


def gen_called_back(callback: Callable[[int], int]):
    return gen_page_module()


def gen_thing_sm90_module(size: int = 1):
    raise AssertionError("not to be called without sm90")


def gen_thing_module(size: int = 1):
    return gen_page_module()


class _KdaTirxSpec(JitSpec):
    """FlashInfer's own wants tvm; what a spec says of itself is enough."""

    toolchain = "tirx"
    name = "kda_tirx_1"


class _SpecOfTomorrow(JitSpec):
    name = "thing"


for _kind in (_KdaTirxSpec, _SpecOfTomorrow):
    _kind.__abstractmethods__ = frozenset()


def gen_tirx():
    return object.__new__(_KdaTirxSpec)


def gen_newer():
    return object.__new__(_SpecOfTomorrow)


def gen_dsl():
    return JitSpecCuteDsl(module_name="mm_fp4", kernel_name="k", compile_fn=None, source_sha256="")


def gen_writes(where: str = ""):
    Path(where).write_text("outside")
    return gen_page_module()


gen_aliased = os.system
gen_partial = functools.partial(os.system, "true")


class gen_class:  # noqa: N801
    """No function."""
