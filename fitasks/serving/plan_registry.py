"""FlashInfer's own default set of modules, as flashinfer.aot assembles it, for benchmarks.

`python -m flashinfer.aot` does not run from an installed wheel, and one generator that fails there loses all
others; so its gen_all_modules is called with every generator guarded.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from typing import TYPE_CHECKING, Any

from plan_errors import PlanError
from plan_generators import where
from plan_parameters import as_json
from plan_spec import generate, spec_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Failure:
    """Stands for the spec, or the list of specs, that a generator should have returned."""

    def __init__(self, generator: Callable[..., Any], error: PlanError) -> None:
        self.name = generator.__name__
        self.error = error

    def __iter__(self) -> Iterator[_Failure]:
        yield self


def registry_records() -> list[dict[str, Any]]:
    """One record per module of the registry for the current architectures; `label` is the module's name."""
    aot = importlib.import_module("flashinfer.aot")
    origins: dict[str, dict[str, Any]] = {}
    for name, value in list(vars(aot).items()):
        if name.lstrip("_").startswith("gen_") and getattr(value, "__module__", "") != aot.__name__:
            setattr(aot, name, _guarded(value, origins))
    specs = aot.gen_all_modules(**_default_arguments(aot))
    return [_record(index, spec, origins) for index, spec in enumerate(specs)]


def _default_arguments(aot: Any) -> dict[str, Any]:
    config = {**aot.get_default_config(), "sm_capabilities": aot.detect_sm_capabilities()}
    return {name: config[name.rstrip("_")] for name in inspect.signature(aot.gen_all_modules).parameters}


def _guarded(generator: Callable[..., Any], origins: dict[str, dict[str, Any]]) -> Callable[..., Any]:
    @functools.wraps(generator)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = generate(generator, *args, **kwargs)
        except PlanError as error:
            return _Failure(generator, error)
        bound = inspect.signature(generator).bind(*args, **kwargs).arguments
        origin = {"generator": where(generator), "params": as_json(generator, dict(bound))}
        result = list(result) if isinstance(result, types.GeneratorType) else result
        for spec in result if isinstance(result, (list, tuple)) else [result]:
            origins.setdefault(getattr(spec, "name", ""), origin)
        return result

    return call


def _record(index: int, spec: Any, origins: dict[str, dict[str, Any]]) -> dict[str, Any]:
    head = {"id": index, "label": spec.name}
    try:
        if isinstance(spec, _Failure):
            raise spec.error
        origin = origins.get(spec.name, {"generator": "", "params": {}})
        return {**head, **spec_record(spec), **origin}
    except PlanError as error:
        return {**head, **error.record()}
