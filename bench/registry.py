"""FlashInfer's own default set of modules, as flashinfer.aot assembles it, each planned as kernels.yaml's are.

    <serving python> bench/registry.py RESPONSE.json

For the target that the environment names, as in fitasks/serving/plan/plan.py, whose response it has, but for "reads".
`python -m flashinfer.aot` does not run from an installed wheel, and one generator that fails there loses all
others; so its gen_all_modules is called with every generator guarded.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

_PLANNER = str(Path(__file__).resolve().parents[1] / "fitasks" / "serving" / "plan")
sys.path.insert(0, _PLANNER)
from load_flashinfer import load  # noqa: E402
from plan_errors import PlanError  # noqa: E402
from plan_generators import where  # noqa: E402
from plan_parameters import as_json  # noqa: E402
from plan_spec import generate, install_network_guard, spec_record  # noqa: E402

sys.path[:] = [entry for entry in sys.path if entry not in {_PLANNER, str(Path(__file__).resolve().parent)}]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_GENERATOR = re.compile(r"_?gen_\w+_modules?(_|$)")


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
    guard = _Guard()
    # gen_all_modules imports some generators itself, so they are guarded where they are defined, too.
    modules = [module for name, module in sys.modules.items() if name.startswith("flashinfer.jit")]
    for module in (aot, *modules):
        for name, value in list(vars(module).items()):
            if _GENERATOR.match(name) and getattr(value, "__module__", "").startswith("flashinfer.jit"):
                setattr(module, name, guard.around(value))
    specs = aot.gen_all_modules(**_default_arguments(aot))
    return [_record(index, spec, guard.origins) for index, spec in enumerate(specs)]


def _default_arguments(aot: Any) -> dict[str, Any]:
    config = {**aot.get_default_config(), "sm_capabilities": aot.detect_sm_capabilities()}
    return {name: config[name.rstrip("_")] for name in inspect.signature(aot.gen_all_modules).parameters}


class _Guard:
    """Keeps each generator's failure to itself, and notes which call made which module."""

    def __init__(self) -> None:
        self.origins: dict[str, dict[str, Any]] = {}
        self._inside = False  # generators call each other; only what gen_all_modules called counts

    def around(self, generator: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generator)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return generator(*args, **kwargs)
            self._inside = True
            try:
                return self._noted(generator, args, kwargs)
            except PlanError as error:
                return _Failure(generator, error)
            finally:
                self._inside = False

        return call

    def _noted(self, generator: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = generate(generator, *args, **kwargs)
        result = list(result) if isinstance(result, types.GeneratorType) else result
        bound = inspect.signature(generator).bind(*args, **kwargs).arguments
        origin = {"generator": where(generator), "params": as_json(generator, dict(bound))}
        for spec in result if isinstance(result, (list, tuple)) else [result]:
            self.origins.setdefault(getattr(spec, "name", ""), origin)
        return result


def _record(index: int, spec: Any, origins: dict[str, dict[str, Any]]) -> dict[str, Any]:
    head = {"id": index, "label": spec.name}
    try:
        if isinstance(spec, _Failure):
            raise spec.error
        origin = origins.get(spec.name, {"generator": "", "params": {}})
        return {**head, **spec_record(spec), **origin}
    except PlanError as error:
        return {**head, **error.record()}


if __name__ == "__main__":
    os.dup2(2, 1)  # FlashInfer and torch print at import
    install_network_guard()
    Path(sys.argv[1]).write_text(json.dumps({**load(), "kernels": registry_records()}), encoding="utf-8")
