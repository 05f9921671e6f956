"""FlashInfer's answers → Kernels: labels over all targets, problems with their places, twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.plan.kernel import Artefact, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitasks.config.model import Config, KernelConfig
    from fitasks.plan.planner import Answer


def kernels_of(config: Config, answers: Mapping[str, Answer]) -> tuple[Kernel, ...]:
    """One Kernel per configuration and target, in the file's order."""
    several = len(answers) > 1
    kernels = []
    for target, answer in answers.items():
        suffix = f"@{answer['arch']}" if several else ""
        for planned in answer["kernels"]:
            if planned.get("error", {}).get("kind") == "skipped":
                continue  # `sm90: false` leaves Hopper-only modules out
            entry = config.kernels[planned["id"]]
            kernels.append(_kernel(entry, target, entry.label + suffix, planned))
    return _mark_twins(kernels)


def _kernel(entry: KernelConfig, target: str, label: str, planned: dict[str, Any]) -> Kernel:
    kernel = Kernel(label, entry.entry, entry.op, target, str(entry.place), dict(entry.params))
    if error := planned.get("error"):
        problems = [_problem(entry, one) for one in planned.get("errors") or [error]]
        return replace(kernel, problem="\n".join(dict.fromkeys(problems)))
    return replace(
        kernel,
        params=planned["params"],
        name=planned["name"],
        generator=planned["generator"],
        build_dir=Path(planned["build_dir"]),
        library=Path(planned["library"]),
        ninja_file=Path(planned["ninja_file"]),
        lock=Path(planned["lock"]),
        sources=tuple(Path(source) for source in planned["sources"]),
        aot=tuple(Artefact(Path(found["path"]), tuple(found["architectures"])) for found in planned["aot"]),
        ninja=planned["ninja"],
        note=planned.get("note", ""),
    )


def _problem(entry: KernelConfig, error: dict[str, Any]) -> str:
    """`kernels.yaml:14:9: kernels.prefill.bakend: unknown parameter; … (did you mean backend?)`."""
    parameter = error.get("parameter") or ""
    place = entry.param_places.get(parameter, entry.place)
    path = f"kernels.{entry.entry}" + (f".{parameter}" if parameter else "")
    return f"{place}: {path}: {error['message']}"


def _mark_twins(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """Two entries may mean the very same module; doit wants one task per target, and so does the compiler."""
    first: dict[Path, str] = {}
    marked = []
    for kernel in kernels:
        owner = kernel.label if kernel.problem else first.setdefault(kernel.library, kernel.label)
        marked.append(kernel if owner == kernel.label else replace(kernel, twin=owner))
    return tuple(marked)
