"""FlashInfer's answers → Kernels: labels over all targets, problems with their places, twins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.cuda.architecture import misfit, single, targets_of
from fitasks.plan.kernel import Artefact, Kernel, NotLoaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
                continue  # `sm90: false` leaves Hopper-only modules out, and see not_loaded
            entry = config.kernels[planned["id"]]
            kernels.append(_kernel(entry, target, entry.label + suffix, planned))
    return _mark_twins(_fitting(kernels, {target: single(answer["arch"]) for target, answer in answers.items()}))


def not_loaded(config: Config, answers: Mapping[str, Answer]) -> tuple[NotLoaded, ...]:
    """What models need and FlashInfer, in this serving environment, loads no nvcc module for."""
    found = []
    for target, answer in answers.items():
        for planned in answer["kernels"]:
            entry, error = config.kernels[planned["id"]], planned.get("error", {})
            if entry.if_loaded and error.get("kind") == "skipped":
                found.append(NotLoaded(entry.entry, target, error["message"]))
    return tuple(found)


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
        kind=planned.get("kind", "flashinfer"),
        texts=planned.get("texts", {}),
        meta=planned.get("meta", ""),
        note=planned.get("note", ""),
    )


def _fitting(kernels: Sequence[Kernel], gpus: Mapping[str, tuple[str, ...]]) -> Iterator[Kernel]:
    """Without what a compile would make for GPUs that no target has; a problem where that is all of an entry's point.

    FlashInfer compiles fa3 for sm_90a whatever the target: of the targets 8.0 and 9.0a it is for the latter.
    """
    reasons = {kernel.label: misfit(kernel.ninja, gpus[kernel.target]) for kernel in kernels if not kernel.problem}
    fit = {_point(kernel) for kernel in kernels if reasons.get(kernel.label) == ""}
    for kernel in kernels:
        if not (reason := reasons.get(kernel.label)):
            yield kernel
        elif _point(kernel) not in fit:
            wanted = " or ".join(f'"{target}"' for target in targets_of(kernel.ninja))
            remedy = f"leave the entry out, or add {wanted} to targets"
            yield replace(kernel, problem=f"{kernel.place}: kernels.{kernel.entry}: {reason}; {remedy}")


def _point(kernel: Kernel) -> str:
    """What tells a point of an entry's matrix, over all targets."""
    return json.dumps([kernel.entry, kernel.given], sort_keys=True)


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
