"""`models:` of kernels.yaml → KernelConfigs for the targets of this plan."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.border import read_bytes
from fitasks.base.errors import BadInput, ConfigError
from fitasks.config.labels import label
from fitasks.config.model import KernelConfig
from fitasks.cuda.architecture import capabilities
from fitasks.models.derive import Answer, derive
from fitasks.models.facts import MOST_BYTES, Facts, config_file, read_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitasks.config.model import ModelRequest


def digests(requests: Iterable[ModelRequest]) -> list[str]:
    """Of every model's config.json, for the plan's key; "" for one that can't be read, which reading it then says."""
    found = []
    for request in requests:
        try:
            found.append(sha256(read_bytes(config_file(Path(request.config)), MOST_BYTES)).hexdigest())
        except BadInput:
            found.append("")
    return found


def facts_of(request: ModelRequest) -> Facts:
    """What a model's config.json says. Raises ConfigError with the place in kernels.yaml."""
    try:
        return read_facts(Path(request.config))
    except BadInput as error:
        text = f"{request.place}: models.{request.name}.config: {error.message}; name the model's own config.json"
        raise ConfigError((text,)) from None


def answers(request: ModelRequest, targets: Sequence[str]) -> dict[str, list[Answer]]:
    """For each target, the answers for its architectures. Raises ConfigError."""
    facts = facts_of(request)
    found = {}
    for target in dict.fromkeys(targets):
        several = capabilities(target)
        found[target] = [derive(facts, request, one, alone=len(several) == 1) for one in several]
    return found


def kernels_of_models(requests: Iterable[ModelRequest], targets: Sequence[str]) -> tuple[KernelConfig, ...]:
    """What the models need, each entry once, with the targets that it is for. Raises ConfigError."""
    found: dict[str, KernelConfig] = {}
    for request in requests:
        for target, told in answers(request, targets).items():
            for derived in (entry for answer in told for entry in answer.entries):
                entry = f"{request.name}.{derived.hint}"
                name = label(entry, derived.params)
                kernel = KernelConfig(
                    entry, derived.op, name, derived.params, request.place, {}, (target,), derived.if_loaded
                )
                known = found.get(name)
                found[name] = replace(known, targets=(*dict.fromkeys((*known.targets, target)),)) if known else kernel
    return tuple(found.values())
