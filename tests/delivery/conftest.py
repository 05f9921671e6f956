"""A workshop with two finished kernels, as a session that can be bundled, and a destination to take the bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fitasks.delivery.bundle.here import Here
from fitasks.graph.session import Session
from fitasks.store.local import Store
from tests.workshop import TARGET

if TYPE_CHECKING:
    from fitasks.plan.kernel import Kernel
    from tests.workshop import Workshop


@dataclass
class Place:
    """A workshop and the session of it; sessions look at files once, so each question gets a new one."""

    workshop: Workshop
    names: tuple[str, ...] = ("page", "rope")
    architecture: str = "90a"

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(self.workshop.kernel(name) for name in self.names)

    @property
    def session(self) -> Session:
        shop = self.workshop
        plan = replace(shop.plan(), kernels=self.kernels, targets={TARGET: shop.target(self.architecture)})
        session = Session(shop.root, _plan=plan)
        session.ninja = shop.ninja
        session.judges = {TARGET: shop.judge()}
        session.store = shop.store or Store(shop.root / "xdg" / "fitasks" / "store")
        return session

    @property
    def machine(self) -> Here:
        session = self.session
        return Here(session.plan, session.judges, session.ninja, session.store)

    def build(self) -> list[str]:
        self.workshop.store = self.session.store
        return [self.workshop.build(kernel).outcome for kernel in self.kernels]

    def state(self) -> dict[str, str]:
        """What the server's ninja would do with each kernel and what doit would."""
        return {
            kernel.name: f"{self.workshop.verdict(kernel)}; ninja: {self.workshop.ninja_would_run(kernel) or 'no work'}"
            for kernel in self.kernels
        }


@pytest.fixture
def here(workshop: Workshop) -> Place:
    place = Place(workshop)
    assert place.build() == ["compiled", "compiled"]
    return place


def snapshot(*roots: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Every file and directory below: its mode, mtime and contents."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            stat = path.lstat()
            content = path.read_bytes() if path.is_file() else ""
            found[str(path)] = (stat.st_mode, stat.st_mtime_ns if path.is_file() else 0, content)
    return found
