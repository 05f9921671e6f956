"""Generators that misbehave, for entries like `op: odd_generators:leaves`."""

import enum
import socket
import sys
from typing import Callable, List, Literal, Optional  # noqa: UP035  # as FlashInfer writes them

from flashinfer.jit.core import JitSpec
from flashinfer.jit.page import gen_page_module
from flashinfer.jit.rope import gen_rope_module


class Layout(enum.Enum):
    NHD = 0
    HND = 1


def leaves():
    sys.exit(5)


def asserts():
    raise AssertionError("two\nlines")


def downloads():
    try:
        socket.create_connection(("192.0.2.1", 443))  # TEST-NET-1
    except Exception:  # noqa: BLE001  # a downloader that never gives up
        return gen_page_module()


def resolves():
    socket.getaddrinfo("example.invalid", 443)


def builds():
    return gen_page_module().build_and_load()


def two():
    return [gen_page_module(), gen_rope_module()]


def nothing():
    return None


def noisy():
    print('{"version": 1}')  # noqa: T201
    print("noise", file=sys.stderr)  # noqa: T201
    return gen_page_module()


def picky(
    layout: Layout,
    kind: Literal["a", "b"],
    size: Optional[int] = 4,  # noqa: UP045
    flag: bool = True,
    names: List[str] = (),  # noqa: UP006
):
    return gen_page_module()


def called_back(callback: Callable[[int], int]):
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


def tirx():
    return object.__new__(_KdaTirxSpec)


def newer():
    return object.__new__(_SpecOfTomorrow)
