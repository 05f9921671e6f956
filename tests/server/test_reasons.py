"""One reason: what check, why, the list and a build say of a kernel that isn't fresh, in every situation known."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import KernelFailure
from fitasks.graph import tasks
from fitasks.graph.session import Session
from fitasks.plan.caches import bases
from fitasks.server.check import predict
from fitasks.server.place import place_of
from fitasks.ui.show import reasons
from tests.workshop import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@pytest.fixture
def workshop(shop: Workshop) -> Workshop:
    return shop


@dataclass
class Shelf:
    """A workshop, and the one kernel of its plan."""

    shop: Workshop
    kernel: Kernel
    toolchain: dict[str, str] | None = None

    def session(self) -> Session:
        shop = self.shop
        plan = shop.plan()
        server = replace(plan.server, env=plan.server.env | {"HOME": str(shop.root / "home")})
        plan = replace(plan, server=server, kernels=(self.kernel,))
        session = Session(shop.root, _plan=plan)
        session.ninja = shop.ninja
        judge = replace(shop.judge(), bases=bases(plan))
        session.judges = {TARGET: replace(judge, toolchain=self.toolchain or judge.toolchain)}
        session.stamp = (shop.root / "stamp", shop.stamp)
        return session

    def file(self, name: str) -> Path:
        return self.kernel.build_dir / name

    def builds(self) -> str:
        """What a build says when it begins; "" where it needs no compiler."""
        said: list[str] = []
        builder = self.shop.builder()
        builder.judges = self.session().judges
        builder.runner = replace(builder.runner, say=said.append)
        try:
            builder.build(self.kernel)
        except KernelFailure as error:
            said.append(str(error))
        return said[0] if said else ""


def nothing(shelf: Shelf) -> None:
    shutil.rmtree(shelf.kernel.build_dir)


def no_library(shelf: Shelf) -> None:
    shelf.kernel.library.unlink()


def no_object(shelf: Shelf) -> None:
    shelf.file("page_0.o").unlink()


def changed_header(shelf: Shelf) -> None:
    header = shelf.shop.include / "common.h"
    header.write_text("inline int common() { return 5; }\n")
    os.utime(header, ns=(time.time_ns() + 10**9,) * 2)


def gone_header(shelf: Shelf) -> None:
    (shelf.shop.include / "page_1.h").unlink()


def another_command(shelf: Shelf) -> None:
    shelf.kernel = shelf.shop.with_flag(shelf.kernel, "-g")


def another_toolchain(shelf: Shelf) -> None:
    shelf.toolchain = {"nvcc": "V13.2.1", "c++": "g++ 12"}


def begun(shelf: Shelf) -> None:
    """As a kill leaves it."""
    shelf.file("fitasks-begun.json").write_text("{}")
    for name in ("fitasks-receipt.json", "page.so", "page_1.o"):
        shelf.file(name).unlink()


def failed(shelf: Shelf) -> None:
    (shelf.shop.include / "page_1.h").write_text("int own_1() { return nonsense; }\n")
    shelf.builds()


def failed_to_link(shelf: Shelf) -> None:
    text = shelf.kernel.ninja.replace("-nostdlib", "-nostdlib -lno_such_library")
    shelf.kernel = replace(shelf.kernel, ninja=text)
    shelf.builds()


def mended(shelf: Shelf) -> None:
    """What made it fail is no more."""
    failed(shelf)
    (shelf.shop.include / "page_1.h").write_text("inline int own_1() { return 2; }\n")


def elsewhere(shelf: Shelf) -> None:
    """Of three that lie elsewhere the nearest counts: of another place alone, not of another version."""
    home = shelf.shop.root / "home" / ".cache" / "flashinfer"
    for where in ("0.7.1/90a", "0.7.2.post1/80_90a", "0.7.2.post1/90a"):
        shutil.copytree(shelf.kernel.build_dir, home / where / "cached_ops" / "page")
    nothing(shelf)


def in_sglangs(shelf: Shelf) -> None:
    shutil.copytree(
        shelf.kernel.build_dir, shelf.shop.root / "sglang/.cache/flashinfer/0.7.2.post1/90a/cached_ops/page"
    )
    nothing(shelf)


def deleted_under_one_of_two(shelf: Shelf) -> None:
    """The library is gone from one of two targets, and lies in the other's cache."""
    other = shelf.shop.root / "cache" / shelf.shop.version / "80_90a" / "cached_ops" / "page"
    shutil.copytree(shelf.kernel.build_dir, other)
    no_library(shelf)


def corrupt(shelf: Shelf) -> None:
    stat = shelf.kernel.library.stat()
    content = bytearray(shelf.kernel.library.read_bytes())
    content[-1] ^= 1
    shelf.kernel.library.write_bytes(content)
    os.utime(shelf.kernel.library, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncated(shelf: Shelf) -> None:
    stat = shelf.kernel.library.stat()
    os.truncate(shelf.kernel.library, 2000)
    os.utime(shelf.kernel.library, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def no_receipt(shelf: Shelf) -> None:
    shelf.file("fitasks-receipt.json").unlink()


def torn_receipt(shelf: Shelf) -> None:
    shelf.file("fitasks-receipt.json").write_text("{")


def touched_header(shelf: Shelf) -> None:
    os.utime(shelf.shop.include / "common.h", ns=(time.time_ns() + 10**9,) * 2)


def no_source(shelf: Shelf) -> None:
    shelf.kernel.sources[0].unlink()


def no_log(shelf: Shelf) -> None:
    shelf.file(".ninja_log").unlink()


# situation → the server's, whether a compiler runs here, and the reason that all of them give
SITUATIONS: dict[Callable[[Shelf], None], tuple[str, bool, str]] = {
    nothing: ("would compile", True, "new: never built"),
    no_library: ("would compile", True, "page.so is missing"),
    no_object: ("would compile", True, "page_0.o is missing"),
    changed_header: ("would compile", True, "{FLASHINFER}/include/common.h changed ("),
    gone_header: ("would compile", True, "{FLASHINFER}/include/page_1.h, which it was compiled from, is gone"),
    another_command: ("would compile", True, "command changed: cflags in build.ninja (nothing → -g)"),
    another_toolchain: ("outdated", True, "nvcc changed (V13.0.88 → V13.2.1)"),
    begun: ("would compile", True, "incomplete: its build was begun and not finished"),
    failed: ("would fail", True, "compiling it failed, and nothing has changed since: "),
    failed_to_link: ("would fail", True, "compiling it failed, and nothing has changed since: "),
    mended: ("would compile", True, "incomplete: its build was begun and not finished"),
    elsewhere: ("would compile", True, "compiled in {HOME}/.cache/flashinfer/0.7.2.post1/90a, where this server never looks (its cache is {CACHE})"),
    in_sglangs: ("would compile", True, "compiled in {ROOT}/sglang/.cache/flashinfer/0.7.2.post1/90a, where this server never looks (its cache is {CACHE})"),
    deleted_under_one_of_two: ("would compile", True, "page.so is missing"),
    corrupt: ("outdated", True, "page.so is not what was built ("),
    truncated: ("would fail", True, "page.so is not what was built ("),
    no_receipt: ("cached", True, "incomplete: page.so has no receipt"),
    torn_receipt: ("cached", True, "incomplete: its receipt is torn, or of another version of fitasks"),
    touched_header: ("would compile", False, "{FLASHINFER}/include/common.h has the right contents under a wrong time"),
    no_source: ("would compile", True, "generated source {GENERATED} is missing and will be generated again"),
    no_log: ("would compile", False, "ninja's log .ninja_log is lost"),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_one_reason(
    workshop: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    situation: Callable[[Shelf], None],
) -> None:
    monkeypatch.setenv("SGLANG_CACHE_DIR", str(workshop.root / "sglang"))
    shelf = Shelf(workshop, workshop.built())
    situation(shelf)
    state, compiles, expected = SITUATIONS[situation]
    places = {"HOME": workshop.root / "home", "CACHE": workshop.root / "cache", "ROOT": workshop.root}
    for name, directory in places.items():
        expected = expected.replace(f"{{{name}}}", str(directory))
    reason = str(shelf.session().judge(shelf.kernel).first)
    assert reason.startswith(expected.replace("{GENERATED}", "{CACHE}/generated/page/page_0.cpp"))

    session = shelf.session()
    with place_of(session.plan.config) as place:
        verdict = predict(session, shelf.kernel, place)
    assert verdict.state == state, verdict
    assert reason in verdict.reason
    told = session.store.explain(shelf.kernel, session.judges[TARGET], session.judge(shelf.kernel))
    assert reasons("page", "page", session.judge(shelf.kernel), told)[0] == reason
    monkeypatch.setattr(sys, "argv", ["doit", "list", "--all", "--status"])
    assert tasks._kernel(session, shelf.kernel)["doc"] == f"page for {TARGET}: {reason}"
    if situation is not no_source:  # which the planner writes again
        built = shelf.builds()
        assert bool(built) == compiles
        assert not compiles or built.endswith(f"; {reason}")


def test_only_what_would_fail_again_is_remembered(workshop: Workshop) -> None:
    """Not a compiler that was killed, nor one that is told to stop; and not once a compile has begun anew."""
    shelf = Shelf(workshop, workshop.kernel())
    killed = shelf.kernel.ninja.replace("command = $cxx -MD", "command = kill -9 $$$$; $cxx -MD")
    shelf.kernel = replace(shelf.kernel, ninja=killed)
    shelf.builds()
    assert shelf.file("fitasks-begun.json").exists()
    assert not shelf.file("fitasks-failed.json").exists()
    shelf.kernel = workshop.kernel()
    failed(shelf)
    assert shelf.file("fitasks-failed.json").exists()
    (workshop.include / "page_1.h").write_text("inline int own_1() { return 1; }\n")
    shelf.builds()
    assert not shelf.file("fitasks-failed.json").exists()
