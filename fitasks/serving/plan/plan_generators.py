"""Finds the function that makes the JitSpec of an op, in whatever FlashInfer is installed.

What is found is called. So it must be a generator: a function that is called `gen_…` and is defined in a module of
FlashInfer, or of a package that kernels.yaml names (`generators:`). An attribute of a module that was only imported
there, a class or a partial is none, and no module of another package is even imported.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plan_errors import PlanError, did_you_mean, near, one_line
from plan_sources import GENERATOR, SPEC_MAKERS, defines, defining_modules, nobody_calls
from plan_wrappers import of_wrapper

if TYPE_CHECKING:
    from typing import TypeGuard

Generator = Callable[..., Any]

_OWN = "flashinfer"
_GENERATOR = re.compile(r"gen_(\w+)_module")
# gen_page_module, gen_xqa_module_mla, _gen_batch_prefill_primary_module, gen_gdn_cp_spec; not what makes many at once.
# What config/generators.py asks of a name, and what record/fitasks_origin.py records.
_NAME = re.compile(r"_?gen_(?!\w*(?:modules|specs)$)\w+", re.ASCII)
_PUBLIC = ("flashinfer.jit", "flashinfer.jit.attention")
# Names of one op in different versions, the newest last (definitions of 0.6.7 to 0.7.4, compared by their sources).
_RENAMED = (
    ("gen_gemm_sm120_module_cute_mxfp8", "gen_gemm_sm120_module_cute"),  # 0.7
    ("gen_comm_alltoall_module", "gen_nvlink_two_sided_alltoall_module"),  # 0.7.4
    ("gen_moe_alltoall_module", "gen_nvlink_one_sided_alltoall_module", "gen_cake_alltoall_module"),  # 0.7.4: now two
    ("gen_cake_nvfp4_svdquant_module", "gen_cake_quant_lora_module"),  # 0.7.4
)


def find_generator(op: str, packages: Sequence[str] = (), *, recorded: bool = False) -> Generator:
    """The generator of an op: `page`, `gen_xqa_module_mla` or `module:function`. Raises PlanError.

    `packages` are those beside FlashInfer that kernels.yaml names. Of an op that was `recorded` (a trace says it, and
    may say anything) a module is imported only if it defines the function by its source.
    """
    if ":" in op:
        return _explicit(op, (_OWN, *packages), recorded=recorded)
    function = op if op.startswith("gen_") else f"gen_{op}_module"
    found = _defined(function) or _imported(function)
    if not found:
        raise _unknown_op(op, function)
    if len(found) > 1:
        names = [where(generator) for generator in found]
        message = f"several modules have {function}; name one: {', '.join(names)}"
        raise PlanError("unknown_op", message, accepted=names)
    return found[0]


def where(generator: Generator) -> str:
    """`flashinfer.jit.page:gen_page_module`."""
    return f"{generator.__module__}:{generator.__name__}"


def op_of(generator: Generator) -> str:
    """What kernels.yaml calls it: `page` for gen_page_module, otherwise the function's whole name."""
    return _op_name(generator.__name__)


def _op_name(function: str) -> str:
    match = _GENERATOR.fullmatch(function)
    return match.group(1) if match else function


def runtime_generator(generator: Generator, arguments: dict[str, Any]) -> Generator:
    """The generator whose module the runtime wrapper loads: sometimes not the public one.

    From 0.7.0 on the fa2 prefill wrapper, and from 0.7.1 on BatchAttention, load the module of a private
    `_gen_<op>_primary_module`. It counts if a runtime module has imported it; other backends keep the public
    one (flashinfer/prefill.py: get_batch_prefill_module). Some wrappers name their module themselves (plan_wrappers).
    """
    wrapped = of_wrapper(generator)
    if wrapped is not None:
        return wrapped
    if arguments.get("backend", "fa2") != "fa2":
        return generator
    name = f"_gen_{op_of(generator)}_primary_module"
    for module in _runtime_modules():
        primary: Generator | None = vars(module).get(name)
        if callable(primary):
            return primary
    return generator


def unused_note(op: str, generator: Generator, arguments: dict[str, Any]) -> list[str]:
    """A sentence where a server loads another module than this generator's, or where nothing asks for it."""
    loaded = runtime_generator(generator, arguments)
    if ":" in op and loaded is not generator:
        return [f"no wrapper loads this module, they load what `op: {op_of(generator)}` plans ({where(loaded)})"]
    if loaded is generator and is_unused(generator):
        return [f"nothing in this FlashInfer calls {generator.__name__}, so a server may never load this module"]
    return []


def is_unused(generator: Generator) -> bool:
    """Whether no code calls this generator: neither FlashInfer's, its benchmark registry left out, nor an engine's."""
    name = generator.__name__
    if not generator.__module__.startswith("flashinfer.") or not GENERATOR.fullmatch(name):
        return False
    return not any(vars(module).get(name) is generator for module in _runtime_modules()) and nobody_calls(name)


def generic_sibling(generator: Generator) -> Generator | None:
    """gen_gemm_module for gen_gemm_sm90_module, if there is one."""
    name = generator.__name__.replace("_sm90", "")
    found = vars(sys.modules[generator.__module__]).get(name)
    return found if callable(found) and found is not generator else None


def _explicit(op: str, packages: Sequence[str], *, recorded: bool) -> Generator:
    module_name, _, name = op.partition(":")
    if not _may_be_generator(module_name, name, packages) or (recorded and not defines(module_name, name)):
        raise _no_generator(op, packages)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PlanError("unknown_op", f"unknown op; {module_name} cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if _is_generator(function, packages):
        return function
    if function is not None:
        raise _no_generator(op, packages)
    functions = sorted(key for key in vars(module) if key.startswith("gen_"))
    suggestion = near(name, functions)
    raise PlanError(
        "unknown_op",
        f"unknown op; {module_name} has no function {name}{did_you_mean(suggestion)}",
        accepted=functions,
        suggestion=suggestion and f"{module_name}:{suggestion}",
    )


def _may_be_generator(module: str, name: str, packages: Sequence[str]) -> bool:
    """Whether the words may name a generator; nothing is imported to tell."""
    within = any(f"{module}.".startswith(f"{package}.") for package in packages)
    return within and bool(_NAME.fullmatch(name)) and name not in SPEC_MAKERS


def _is_generator(value: Any, packages: Sequence[str] = (_OWN,)) -> TypeGuard[Generator]:
    """Whether it is a generator by its own name, and by the module in which it was defined."""
    try:
        function = inspect.unwrap(value)
    except Exception:  # what makes up attributes, or wraps itself
        return False
    if not callable(value) or not inspect.isfunction(function):
        return False
    home = sys.modules.get(function.__module__)
    if home is None or vars(home) is not function.__globals__:
        return False
    return _may_be_generator(function.__module__, function.__name__, packages)


def _no_generator(op: str, packages: Sequence[str]) -> PlanError:
    ours = " or ".join(["FlashInfer", *packages[1:]])
    message = f"{op} is no generator: only gen_… functions that {ours} defines are called"
    return PlanError("unknown_op", f"{message}; for a package of your own, name it as `generators:` in kernels.yaml")


def _defined(function: str) -> list[Generator]:
    """Different functions of that name, looked for where users look first; a public one hides others."""
    for module_name in _PUBLIC:
        generator = vars(sys.modules[module_name]).get(function)
        if _is_generator(generator):
            return [generator]
    for modules in (_generator_modules(), _runtime_modules()):
        values = (vars(module).get(function) for module in modules)
        found = {where(value): value for value in values if _is_generator(value)}
        if found:
            return list(found.values())
    return []


def _generator_modules() -> Iterator[Any]:
    return (module for name, module in _loaded() if name.startswith("flashinfer.jit."))


def _runtime_modules() -> Iterator[Any]:
    """FlashInfer without its generators, and without flashinfer.aot, which imports all sorts of them."""
    outside = ("flashinfer.jit", "flashinfer.aot")
    names = (name for name, _ in _loaded() if name not in outside and not name.startswith("flashinfer.jit."))
    return (sys.modules[name] for name in names)


def _loaded() -> list[tuple[str, Any]]:
    return _loaded_of(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _loaded_of(_count: int) -> list[tuple[str, Any]]:
    """Asked for some hundred times; an import adds modules, and thus to their number."""
    return sorted(item for item in sys.modules.items() if item[0].split(".")[0] == "flashinfer" and item[1])


def _imported(function: str) -> list[Generator]:
    """Import what defines this function, which FlashInfer itself leaves for later. Raises PlanError where it fails."""
    failures = []
    for module in defining_modules().get(function, ()):
        try:
            importlib.import_module(module)
        except Exception as error:
            failures.append(f"{module}, which defines {function}, cannot be imported: {one_line(error)}")
    found = _defined(function)
    if failures and not found:
        raise PlanError("generator", "; ".join(failures))
    return found


def _known_ops() -> list[str]:
    modules = [module for name, module in _loaded() if name.startswith("flashinfer.jit")]
    names = {*defining_modules(), *(name for module in modules for name in vars(module))}
    matches = (_GENERATOR.fullmatch(name) for name in names)
    return sorted({match.group(1) for match in matches if match and not match.group(1).startswith("_")})


def _unknown_op(op: str, function: str) -> PlanError:
    known = _known_ops()
    others = _other_names(function) or _ops_of_module(op)
    suggestion = others[0] if others else near(op, known)
    hint = did_you_mean(" or ".join(others) or suggestion)
    message = f"unknown op; FlashInfer {sys.modules['flashinfer'].__version__} has no {function}{hint}"
    return PlanError("unknown_op", message, accepted=known, suggestion=suggestion)


def _other_names(function: str) -> list[str]:
    """What kernels.yaml calls, with this version, what another version has under `function`."""
    same = [other for names in _RENAMED if function in names for other in names if other != function]
    return [_op_name(other) for other in same if other in defining_modules()]


def _ops_of_module(op: str) -> list[str]:
    """The ops of a module of that name: flashinfer.jit.activation has act_and_mul."""
    name = f"flashinfer.jit.{op}"
    names = vars(sys.modules[name]) if name in sys.modules else {}
    functions = [value for key, value in names.items() if _GENERATOR.fullmatch(key) and callable(value)]
    return sorted(op_of(function) for function in functions if function.__module__ == name)
