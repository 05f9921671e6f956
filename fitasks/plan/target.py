"""One target as the installed FlashInfer takes it: where it builds for it, and which packages that rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.cuda.architecture import single
from fitasks.plan.caches import CACHED_OPS, GENERATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.plan.planner import Answer

_PATHS = ("workspace", "root", "cuda_home")


@dataclass(frozen=True)
class Target:
    """What planning found out. `workspace` is FlashInfer's cache for this set of architectures and its own version."""

    arch: str  # FlashInfer's name of the set, and of its directory: "80_90a"
    workspace: Path
    root: Path  # of the package flashinfer
    cuda_home: Path
    flashinfer: str  # versions
    torch: str
    tvm_ffi: str
    passes_over: bool = False  # whether an ahead-of-time module that can't be loaded is passed over, for the cache
    tvm_ffi_abi: str | None = None  # of kernels that were compiled elsewhere; None: as the headers here say

    @property
    def gpus(self) -> tuple[str, ...]:
        """The single architectures: "sm80", "sm90a"."""
        return single(self.arch)

    @property
    def directory(self) -> str:
        """As a package of kernels names it: "sm80-sm90a"."""
        return "-".join(self.gpus)

    @property
    def base(self) -> Path:
        """`…/.cache/flashinfer`, above versions and architectures."""
        return self.workspace.parent.parent

    @property
    def cached_ops(self) -> Path:
        """Where modules are built, each in its directory."""
        return self.workspace / CACHED_OPS

    @property
    def generated(self) -> Path:
        """Where FlashInfer writes sources."""
        return self.workspace / GENERATED

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {name: str(getattr(self, name)) for name in _PATHS}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Target:
        """What `as_record` gave."""
        return cls(**dict(record) | {name: Path(record[name]) for name in _PATHS})


def targets_in(answers: Mapping[str, Answer]) -> dict[str, Target]:
    """What each answer of the planner says of its target."""
    return {
        name: Target(
            arch=answer["arch"],
            workspace=Path(answer["workspace"]),
            root=Path(answer["flashinfer_root"]),
            cuda_home=Path(answer["cuda_home"]),
            flashinfer=answer["flashinfer"],
            torch=answer["torch"],
            tvm_ffi=answer["tvm_ffi"],
            passes_over=answer["passes_over"],
        )
        for name, answer in answers.items()
    }
