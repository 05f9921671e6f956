"""One rule: what an engine's source says it does in a situation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Asked:
    """One module: `params` as kernels.yaml says them, `$name` standing for a fact."""

    hint: str
    op: str
    params: Mapping[str, Any] = field(default_factory=dict)
    if_loaded: bool = False  # whether FlashInfer takes its nvcc module depends on the serving environment


@dataclass(frozen=True)
class Rule:
    """Under `when`, the engine chooses `backend`, or loads `entries`; `source` is where its source says so."""

    engine: str
    when: Mapping[str, tuple[Any, ...]]
    says: str
    source: str
    backend: str = ""
    entries: tuple[Asked, ...] = ()
