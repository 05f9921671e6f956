"""Runs generators without network or compiler, and turns a JitSpec into data without touching cached_ops."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plan_errors import PlanError, one_line

_offline = {"on": False}
_confined: dict[str, tuple[str, ...]] = {"to": ()}  # directories that may be written to; () is no confinement
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
# Audit events by which paths change, with which of their arguments are such paths ("open" is apart).
_FIRST = ("os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.chown", "os.truncate", "os.utime")
_CHANGES = {
    **dict.fromkeys(_FIRST, slice(1)),
    **dict.fromkeys(("os.rename", "os.link"), slice(2)),
    "os.symlink": slice(1, 2),
}
_TOOLCHAINS = {"cute_dsl": "CuTe-DSL", "tirx": "TIRx"}


class _NetworkBlocked(BaseException):
    """BaseException, so that FlashInfer's downloader does not retry for half a minute."""


class _OutsideBlocked(BaseException):
    """BaseException, for the same reason: nothing between is to make the best of it."""


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    if _offline["on"] and event in ("socket.getaddrinfo", "socket.connect"):
        raise _NetworkBlocked
    if _confined["to"] and (what := _outside(event, args)):
        raise _OutsideBlocked(what)


def _outside(event: str, args: tuple[Any, ...]) -> str:
    """What an audit event does that a confined generator may not do; "" for all else."""
    if event in _STARTS:
        return "" if event == "subprocess.Popen" and _asks_nvcc(args[1]) else f"start a process ({event})"
    if event == "open":
        flags = args[2] if isinstance(args[2], int) else 0
        paths = args[:1] if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ()
    else:
        paths = args[_CHANGES.get(event, slice(0))]
    written = [os.path.realpath(os.fsdecode(path)) for path in paths if isinstance(path, (str, bytes, os.PathLike))]
    return next((f"write {path}" for path in written if not f"{path}/".startswith(_confined["to"])), "")


def _asks_nvcc(command: Any) -> bool:
    """Whether a command is the toolkit's nvcc with one option (--list-gpu-arch): it compiles nothing, and says a list.

    FlashInfer asks so while it makes flags (compilation_context.py of 0.7.4).
    """
    nvcc = os.path.join(os.environ.get("CUDA_HOME", ""), "bin", "nvcc")  # noqa: PTH118
    words = command if isinstance(command, (list, tuple)) else ()
    return len(words) == 2 and words[0] == nvcc and bool(re.fullmatch(r"--[a-z-]+", str(words[1])))


@contextlib.contextmanager
def confined() -> Iterator[None]:
    """Let nothing start a process, or write outside of FlashInfer's cache: who named the arguments isn't known.

    None of the 682 modules of 0.7.4's default registry for sm_90a is refused for it.
    """
    from flashinfer.jit import env

    places = (getattr(env, name, None) for name in ("FLASHINFER_WORKSPACE_DIR", "FLASHINFER_CUBIN_DIR"))
    writes_bytecode = sys.dont_write_bytecode
    _confined["to"] = ("/dev/null/", *(f"{os.path.realpath(place)}/" for place in places if place))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        _confined["to"] = ()
        sys.dont_write_bytecode = writes_bytecode


def install_network_guard() -> None:
    """Watch every socket of this interpreter from now on; active only while a generator runs."""
    sys.addaudithook(_refuse_network)


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def generate(generator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a generator; whatever it raises, SystemExit and AssertionError included, becomes a PlanError."""
    with explained(generator.__name__), _safe_generation():
        return generator(*args, **kwargs)


@contextlib.contextmanager
def explained(name: str, said: Callable[[BaseException], str] = one_line) -> Iterator[None]:
    """Let whatever a function of this name raises be a PlanError; nothing reaches the network meanwhile."""
    try:
        with _without_network():
            yield
    except (KeyboardInterrupt, PlanError):
        raise
    except _NetworkBlocked:
        raise PlanError("generator", _needs_network(name)) from None
    except _OutsideBlocked as blocked:
        message = f"{name} would {blocked}, which nothing may that a trace asks for"
        raise PlanError("generator", f"{message}; write the entry into kernels.yaml yourself") from None
    except BaseException as error:
        raise PlanError("generator", f"{name} raised {said(error)}") from error


@contextlib.contextmanager
def _without_network() -> Iterator[None]:
    _offline["on"] = True
    try:
        yield
    finally:
        _offline["on"] = False


def _needs_network(name: str) -> str:
    remedy = " or ".join(f"`{sys.executable} -m flashinfer {command}`" for command in _cubin_commands())
    return (
        f"{name} needs the network for files that FlashInfer's cubin directory lacks, and planning stays off it; "
        f"fetch them once with {remedy or 'the server itself'}"
    )


def _cubin_commands() -> list[str]:
    """FlashInfer's own commands that fetch cubins; which there are is the installed version's affair."""
    import flashinfer

    with contextlib.suppress(OSError):
        text = Path(str(flashinfer.__file__)).with_name("__main__.py").read_text(encoding="utf-8")
        return re.findall(r"@cli\.command\(\s*[\"']((?:download|install)-cubin[\w-]*)[\"']", text)
    return []


@contextlib.contextmanager
def _safe_generation() -> Iterator[None]:
    from flashinfer.jit import core

    dsl = sys.modules.get("flashinfer.jit.cute_dsl_core")
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(core.JitSpec, "build_and_load", _refuse_build))
        if dsl is not None:
            stack.enter_context(replaced(dsl.JitSpecCuteDsl, "__init__", _refuse_cute_dsl))
        yield


@contextlib.contextmanager
def modules_refused() -> Iterator[None]:
    """Let no function build a module of nvcc's at once."""
    from flashinfer.jit import core

    kinds = {core.JitSpec, getattr(core, "JitSpecNvcc", core.JitSpec)}
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            if "build_and_load" in vars(kind):
                stack.enter_context(replaced(kind, "build_and_load", _refuse_build))
        yield


def _refuse_build(spec: Any) -> None:
    raise PlanError("generator", f"this function builds {spec.name} at once; name its generator")


def _refuse_cute_dsl(_spec: Any, module_name: str, *_args: Any, **_kwargs: Any) -> None:
    raise _not_nvcc(module_name, _TOOLCHAINS["cute_dsl"])


def _not_nvcc(name: str, toolchain: str) -> PlanError:
    return PlanError(
        "not_nvcc",
        f"{name} is a {toolchain} kernel, which the server compiles itself, for its own GPU and shapes; only "
        "nvcc modules can be compiled beforehand: leave this entry out",
    )


def _toolchain(spec: Any) -> str:
    """What compiles a spec, as FlashInfer's specs say since 0.7.4; else the name of its class."""
    dsl = sys.modules.get("flashinfer.jit.cute_dsl_core")
    if dsl is not None and isinstance(spec, dsl.JitSpecCuteDsl):
        return _TOOLCHAINS["cute_dsl"]
    said = getattr(spec, "toolchain", "unknown")
    return type(spec).__name__ if said == "unknown" else _TOOLCHAINS.get(said, said)


def spec_record(spec: Any) -> dict[str, Any]:
    """Everything about a module that a build needs. Raises PlanError for what cannot be built beforehand."""
    _check_spec(spec)
    ninja, lock = _without_writing(spec)
    sources = [str(source) for source in spec.sources]
    generated_dir = _generated_dir()
    return {
        "kind": "flashinfer",
        "name": spec.name,
        "build_dir": str(spec.build_dir),
        "library": str(spec.jit_library_path),
        "ninja_file": str(spec.ninja_path),
        "ninja": ninja,
        "lock": str(lock),
        "sources": sources,
        "generated": [source for source in sources if generated_dir in Path(source).parents],
        "aot": _aot_artefacts(spec),
    }


def _generated_dir() -> Path:
    from flashinfer.jit import env

    return Path(env.FLASHINFER_GEN_SRC_DIR)


def _check_spec(spec: Any) -> None:
    from flashinfer.jit import core

    nvcc = getattr(core, "JitSpecNvcc", core.JitSpec)  # JitSpec became abstract in 0.6.16
    if not isinstance(spec, nvcc):
        if isinstance(spec, core.JitSpec):
            raise _not_nvcc(spec.name, _toolchain(spec))
        if isinstance(spec, (list, tuple, dict, Iterator)):
            raise PlanError("generator", "this function makes several modules; name their generators")
        raise PlanError("generator", f"this function returns {type(spec).__name__}, not a JitSpec")
    if getattr(spec, "embedded_cubin_factory", None) is not None:
        message = f"{spec.name} embeds cubins that FlashInfer compiles before it can write build.ninja"
        raise PlanError("generator", f"{message}; only the server itself can build it (spec.build())")


def _without_writing(spec: Any) -> tuple[str, Path]:
    """The text that write_ninja() would write, and the lock's path, with nothing written.

    write_ninja makes the build directory first and lock_path makes cached_ops/tmp (flashinfer/jit/core.py);
    made and removed again, they could vanish under a server that is just starting.
    """
    from flashinfer.jit import core

    written: list[str] = []
    keep = replaced(core, "write_if_different", lambda _path, text: written.append(text))
    with keep, replaced(Path, "mkdir", lambda *_args, **_kwargs: None):
        try:
            spec.write_ninja()
            lock = spec.lock_path
        except Exception as error:
            raise PlanError("generator", f"build.ninja of {spec.name} fails: {one_line(error)}") from error
    return written[0], lock


def _aot_artefacts(spec: Any) -> list[dict[str, Any]]:
    """Ahead-of-time modules that the runtime would load instead, each with the architectures here that it serves.

    Since 0.7.0 there may be several, and all of them together may leave an architecture out, for which the runtime
    compiles (jit/core.py, _HeterogeneousAOTModule). So each is asked for alone; get_aot_artifacts reads the variable
    at every call. Up to 0.6 there is one file, which is loaded for all.
    """
    from flashinfer.compilation_context import CompilationContext

    targets = sorted(f"{major}.{minor}" for major, minor in CompilationContext().TARGET_CUDA_ARCHS)
    if not hasattr(spec, "aot_artifacts"):
        served = {str(spec.aot_path): targets} if spec.aot_path.exists() else {}
    else:
        served = _served(spec, targets)
    return [{"path": path, "architectures": [f"sm{one.replace('.', '')}" for one in of]} for path, of in served.items()]


def _served(spec: Any, targets: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target in targets:
        with _variable("FLASHINFER_CUDA_ARCH_LIST", target):
            for artefact in spec.aot_artifacts:
                found.setdefault(str(artefact.path), []).append(target)
    return found


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    original = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ |= {} if original is None else {name: original}
