"""A kernel that was compiled, but where this server never looks: another architecture set, version or base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitasks.plan.kernel import Kernel
    from fitasks.session import Session


def elsewhere(session: Session, kernel: Kernel) -> str:
    """Where the same module lies and why the server won't find it there; "" if it lies nowhere."""
    ours = kernel.build_dir.parent.parent
    for base in bases(session):
        for found in sorted(base.glob(f"*/*/cached_ops/{kernel.name}/{kernel.name}.so")):
            place = found.parents[2]
            if place != ours:
                return f"compiled in {place}, where this server never looks ({_difference(place, ours)})"
    return ""


def _difference(place: Path, ours: Path) -> str:
    """In what the two workspaces `<base>/<version>/<arch>` differ."""
    if place.parent.parent != ours.parent.parent:
        return f"its cache is {ours.parent.parent}"
    if place.parent != ours.parent:
        return f"its FlashInfer is {ours.parent.name}, not {place.parent.name}"
    return f"its architecture set is {ours.name}, not {place.name}"


def bases(session: Session) -> Iterator[Path]:
    """FlashInfer's own cache directory, SGLang's, and the one in use."""
    home = Path(session.plan.server.env.get("HOME") or Path.home())
    in_use = [Path(facts["workspace"]).parent.parent for facts in session.plan.facts.values()]
    usual = [home / ".cache" / "flashinfer", home / ".cache" / "sglang" / ".cache" / "flashinfer"]
    yield from dict.fromkeys([*in_use, *usual])
