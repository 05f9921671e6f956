"""What `doit explain_models` says: the choice of the engine, the entries, and what is not known, for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fitasks.config.model import ModelRequest
    from fitasks.models.derive import Answer
    from fitasks.plan.kernel import NotLoaded


NONE = "kernels.yaml names no models; e.g. models: {llama: {config: path/to/config.json, engine: sglang}}"


def lines(request: ModelRequest, target: str, answer: Answer, not_loaded: Collection[NotLoaded] = ()) -> Iterator[str]:
    """One model on one architecture; `not_loaded` is what FlashInfer loads no module for."""
    version = f" {request.version}" if request.version else ""
    yield f"{request.name} on {request.engine}{version}, {answer.architecture} (targets: {target})"
    yield f"  attention backend: {answer.backend} ({answer.because}) [{answer.source}]"
    for entry in answer.entries:
        params = "".join(f", {name}: {value}" for name, value in entry.params.items())
        yield f"  {{op: {entry.op}{params}}}"
        fields = f"; by {', '.join(entry.fields)}" if entry.fields else ""
        yield f"      {entry.rule.says}{fields} [{entry.rule.source}]"
        name = f"{request.name}.{entry.hint}"
        others = (other for other in not_loaded if (other.entry, other.target) == (name, target))
        yield from (f"      left out: {other.why}" for other in others)
    if not answer.entries:
        yield "  no kernels of FlashInfer, as far as is known"
    for unknown in answer.unknown:
        yield f"  not known: {unknown}; record the server (python -m fitasks.record)"
