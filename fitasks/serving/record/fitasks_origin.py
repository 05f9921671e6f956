"""Which generator made a FlashInfer module, and with which arguments, read from the call stack.

The outermost `gen_…` function counts: it is what FlashInfer's wrappers call, and what kernels.yaml can name. Arguments
are said as kernels.yaml says them. Its frame has them as they are *now*; of 0.6.7 to 0.7.2.post1 only
gen_fmha_v2_module assigns to one of its own (output_dtype, None: the one that it comes to).
"""

from __future__ import annotations

import enum
import inspect
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

# gen_page_module, gen_xqa_module_mla, _gen_batch_prefill_primary_module, gen_gdn_cp_spec; not what makes many at once.
_GENERATOR = re.compile(r"_?gen_(?!\w*(?:modules|specs)$)\w+")
_MACHINERY = ("flashinfer.jit.core", "flashinfer.jit.cute_dsl_core")  # what every module passes


def origin(frame: FrameType | None) -> tuple[str, dict[str, Any], str]:
    """(generator, its arguments, why kernels.yaml can't say them) for what is made beneath this frame."""
    stack = list(_stack(frame))
    generators = [one for one in stack if _is_generator(one)]
    if generators:
        return _call(generators[-1])
    maker = next(filter(None, map(_place, stack)), "nobody")
    return "", {}, f"it was made by {maker}, which is no gen_… function of FlashInfer"


def of_function(frame: FrameType | None, package: str, prefix: str) -> tuple[str, dict[str, Any], str]:
    """The same for the outermost function of a package whose name begins so; else for the innermost, if it has a name.

    Of SGLang's functions that make modules most are called _jit_…, and get_all_reduce_module isn't.
    """
    stack = [one for one in _stack(frame) if one.f_globals.get("__name__", "").startswith(package)]
    found = [one for one in stack if one.f_code.co_name.startswith(prefix)] or list(filter(_function, stack[:1]))
    return _call(found[-1]) if found else ("", {}, f"no function of {package.rstrip('.')} that has a name made it")


def of_kernel(frame: FrameType | None) -> tuple[str, dict[str, Any], str]:
    """The same for what CuTe-DSL compiles: the innermost function of FlashInfer's whose arguments can be said.

    No name tells which function makes a kernel. One that takes tensors uses it, as do those that call that one.
    """
    unsaid: tuple[str, dict[str, Any], str] | None = None
    for one in filter(_is_maker, _stack(frame)):
        made = _call(one)
        if not made[2]:
            return made
        unsaid = unsaid or made
        if any(type(value).__name__ == "Tensor" for value in one.f_locals.values()):
            break
    return unsaid or origin(frame)


def _is_maker(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return (
        module.startswith("flashinfer.") and not module.startswith("flashinfer.jit.") and _function(frame) is not None
    )


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """This frame and those that called it, outwards."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _call(frame: FrameType) -> tuple[str, dict[str, Any], str]:
    arguments, unsaid = _arguments(frame)
    return _place(frame), arguments, unsaid


def _is_generator(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    if not module.startswith("flashinfer.") or module in {*_MACHINERY, "flashinfer.aot"}:
        return False
    return bool(_GENERATOR.fullmatch(frame.f_code.co_name)) and callable(frame.f_globals.get(frame.f_code.co_name))


def _place(frame: FrameType) -> str:
    """`flashinfer.jit.page:gen_page_module`; "" for the machinery."""
    module = frame.f_globals.get("__name__", "")
    return "" if module in _MACHINERY else f"{module}:{frame.f_code.co_name}"


def _arguments(frame: FrameType) -> tuple[dict[str, Any], str]:
    names, varargs, keywords, values = inspect.getargvalues(frame)
    given = {name: values[name] for name in names}
    given.update(values[keywords] if keywords else {})
    reasons = ["it takes positional arguments without names"] if varargs and values[varargs] else []
    generator = _function(frame)
    said: dict[str, object] = {}
    for name, value in given.items():
        if value is None:
            said |= {} if _default(generator, name) is None else {name: None}
            continue
        told = _told(value, generator.__annotations__.get(name, "") if generator else "")
        if told is None:
            reasons.append(f"{name} is a {type(value).__name__}")
        else:
            said[name] = told
    return said, reasons[0] if reasons else ""


def _function(frame: FrameType) -> Callable[..., Any] | None:
    """The function that the frame runs, out of its wrappers (functools.cache)."""
    function = inspect.unwrap(frame.f_globals.get(frame.f_code.co_name, _function))
    return function if getattr(function, "__code__", None) is frame.f_code else None


def _default(generator: Callable[..., Any] | None, name: str) -> Any:
    """None where it is that or isn't known: then None as an argument goes without saying."""
    parameter = inspect.signature(generator).parameters.get(name) if generator else None
    return None if parameter is None else parameter.default


def _told(value: Any, annotation: Any) -> Any:
    """As kernels.yaml says it, and as the planner's records do (plan_parameters.py); None where it can't be."""
    if isinstance(value, enum.Enum):
        by_name = type(value).__name__ in str(annotation) or not isinstance(value, (int, str))
        value = value.name if by_name else value.value
    if isinstance(value, (bool, int, float, str)):
        return value
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return str(value).replace("torch.", "", 1)
    if isinstance(value, type) and value.__module__.startswith("cutlass."):
        return value.__name__  # Float32
    if isinstance(value, (list, tuple)):
        items = [_told(item, "") for item in value]
        return None if any(item is None or isinstance(item, list) for item in items) else items
    return None
