"""Will this environment's FlashInfer load each module ahead of time, and SGLang its own? The gate of an image build.

    <serving python> ahead_of_time.py [FILE.json ...]

Runs from wherever it was copied to, with ahead_files.py and ahead_sglang.py beside it: standard library, torch, the
installed FlashInfer and tvm-ffi, no GPU, no toolchain. A FILE is what `doit check --json` writes: then the planned
kernels are asked for. Without one it is the manifest of the installed wheel (fitasks_kernels/manifest.json): then all
that the wheel has.

Exit status 0 if FlashInfer's own lookup finds every module for every architecture that it has code for, each is the
file that was packaged, and the dynamic loader takes it beside torch; 1 if not, naming those; 2 if FlashInfer cannot be
asked. Modules of SGLang's own JIT must be where this environment leads SGLang, as they were built (ahead_sglang.py).
Only the driver's libcuda may be missing: it comes with the GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ahead_asked
import ahead_sglang
from ahead_asked import Answer, Asked
from ahead_files import WHEEL, UnusableError, apart, faults, import_flashinfer
from ahead_sglang import Module


@dataclass(frozen=True)
class Wanted:
    """A module for one kind of host: all its GPU architectures, as FLASHINFER_CUDA_ARCH_LIST writes them: "8.0 9.0a".

    `asked` are those of them that the module has code for. `flashinfer` is the version that it was built for, "" where
    the file doesn't say.
    """

    module: str
    target: str
    asked: tuple[str, ...]
    flashinfer: str = ""


@dataclass(frozen=True)
class Found:
    """What FlashInfer said on a host of one target: its version, and the file for each (module, architecture)."""

    flashinfer: str
    files: dict[tuple[str, str], Path | None]


def main(arguments: list[str]) -> int:
    """Ask, report; the exit status."""
    try:
        entries = [entry for file in map(Path, arguments or [installed_manifest()]) for entry in read(file)]
        wanted = [entry for entry in entries if isinstance(entry, Wanted)]
        found = ask(wanted)
        faulty = faults({path for one in found.values() for path in one.files.values() if path})
        modules = ahead_sglang.faults(entry for entry in entries if isinstance(entry, Module))
        asked = ahead_asked.answers(entry for entry in entries if isinstance(entry, Asked))
        others = [Answer(one.library if one.sha256 else None, problem) for one, problem in modules.items()]
        engines = [*map(ahead_asked.engine_of, asked), *("SGLang" for _ in modules)]
        return report(wanted, found, faulty, [*others, *asked.values()], engines)
    except UnusableError as error:
        print(error, file=sys.stderr)
        return 2


def installed_manifest() -> str:
    """Of the wheel in this environment. Raises UnusableError where there is none."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.origin:
        raise UnusableError(f"{sys.executable} has no {WHEEL}; install the wheel that `doit wheel` makes")
    return str(Path(spec.origin).with_name("manifest.json"))


def read(file: Path) -> list[Wanted | Module | Asked]:
    """What a file asks for, each thing once. Raises UnusableError."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        made_for = str(data.get("flashinfer", ""))
        wanted = [_wanted(kernel, made_for) for kernel in data["kernels"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnusableError(f"{file}: neither of `doit check --json` nor a wheel's manifest: {error!r}") from None
    if not wanted:
        raise UnusableError(f"{file} names no kernel")
    return list(dict.fromkeys(wanted))


def _wanted(kernel: dict[str, Any], made_for: str) -> Wanted | Module | Asked:
    kind = kernel.get("kind", "flashinfer")  # earlier ones don't say
    if kind == ahead_sglang.KIND:
        return ahead_sglang.module(kernel)
    if kind in ahead_asked.KINDS:
        return ahead_asked.asked(kernel)
    if kind != "flashinfer":
        raise ValueError(f"kernels of kind {kind!r:.40} are not known here")
    target = _target(kernel)
    codes = kernel.get("architectures", ())
    asked = tuple(word for word in target.split() if not codes or any(_runs_on(code, word) for code in codes))
    if not str(kernel["name"]).isprintable() or not str(made_for).isprintable():
        raise ValueError(f"{kernel['name']!r} is no module's name")  # it is shown
    return Wanted(str(kernel["name"]), target, asked or tuple(target.split()), made_for)


def _runs_on(code: str, word: str) -> bool:
    """Can machine code "sm80" run on a GPU "8.6"? FlashInfer's rule (jit/_cuda_architecture.py), 9.0 being 9.0a."""
    major, minor, suffix = re.fullmatch(r"sm(\d+)(\d)([af]?)", code).groups()  # type: ignore[union-attr]
    gpu_major, _, gpu_minor = word.rstrip("af").partition(".")
    same = (major, minor) == (gpu_major, gpu_minor)
    return same or (suffix != "a" and major == gpu_major and int(minor) <= int(gpu_minor))


def _target(kernel: dict[str, Any]) -> str:
    """As `doit check` says it; a wheel names directories after theirs: sm80-sm90a is 8.0 9.0a."""
    if "target" in kernel:
        return str(kernel["target"])
    parts = [re.fullmatch(r"sm(\d+)(\d[a-z]?)", word) for word in kernel["directory"].split("-")]
    return " ".join(f"{part[1]}.{part[2]}" for part in parts if part)


def ask(wanted: list[Wanted]) -> dict[str, Found]:
    """FlashInfer's answers by target, each from a process of its own: it may choose at import. Raises UnusableError."""
    entries: dict[str, list[Wanted]] = {}
    for entry in wanted:
        entries.setdefault(entry.target, []).append(entry)
    with ThreadPoolExecutor(2) as two:
        answers = two.map(partial(apart, "importing flashinfer", look_up), entries, entries.values())
        return dict(zip(entries, answers, strict=True))


def look_up(target: str, wanted: list[Wanted]) -> Found:
    """In a process of its own: where FlashInfer finds modules on a host of one target. Raises UnusableError.

    Each architecture is asked for alone: of several, JitSpec.is_aot is content with one that is served (0.7,
    jit/env.py, get_aot_artifacts, which reads the variable anew at every call).
    """
    os.environ["FLASHINFER_CUDA_ARCH_LIST"] = target
    version = import_flashinfer()
    files: dict[tuple[str, str], Path | None] = {}
    for architecture in target.split():
        os.environ["FLASHINFER_CUDA_ARCH_LIST"] = architecture
        asked = [entry.module for entry in wanted if architecture in entry.asked]
        files |= {(module, architecture): find(module) for module in asked}
    return Found(version, files)


def find(module: str) -> Path | None:
    """The file that FlashInfer would load ahead of time; None where it would compile."""
    from flashinfer.jit import env

    if not hasattr(env, "get_aot_artifacts"):  # up to 0.6: one directory, chosen at import (JitSpec.is_aot)
        path = Path(env.FLASHINFER_AOT_DIR, module, f"{module}.so")
        return path if path.exists() else None
    return next((Path(artifact.path) for artifact in env.get_aot_artifacts(module)), None)


def report(
    wanted: list[Wanted], found: dict[str, Found], faulty: dict[Path, str], others: list[Answer], engines: list[str]
) -> int:
    """Print what is missing or can't be used, or how much is there; the exit status. `others` are no package's."""
    version = next((one.flashinfer for one in found.values()), "")
    for made_for in sorted({entry.flashinfer for entry in wanted} - {"", version}):
        print(f"the wheel is for FlashInfer {made_for}, which is {version} here")
    files = {entry: {word: found[entry.target].files[entry.module, word] for word in entry.asked} for entry in wanted}
    _say_what_is_missing(files)
    for path, problem in faulty.items():
        print(f"{path} {problem}")
    told = [one.problem for one in others if one.problem]
    print(*told, sep="\n", end="\n" if told else "")
    bad = [entry for entry, places in files.items() if any(path is None or path in faulty for path in places.values())]
    who, count = _server(version, engines), len(wanted) + len(others)
    if bad or told:
        print(f"{who} would not load {len(bad) + len(told)} of {count} module(s)")
        return 1
    there = {path for places in files.values() for path in places.values() if path}
    there |= {one.library for one in others if one.library}
    size = sum(path.stat().st_size for path in there)
    print(f"{who} finds all {count} module(s) ahead of time, {size / 1e6:.1f} MB")
    return 0


def _say_what_is_missing(files: dict[Wanted, dict[str, Path | None]]) -> None:
    for entry, places in files.items():
        for word in [word for word, path in places.items() if path is None]:
            host = "" if entry.target == word else f" (targets: {entry.target})"
            print(f"{entry.module}: not found ahead of time for {word}{host}")


def _server(version: str, engines: list[str]) -> str:
    """Whoever was asked; a FlashInfer that has objects alone says no version."""
    flashinfer = f"FlashInfer {version}" if version or "SGLang" not in engines else ""
    if "SGLang" not in engines:
        return flashinfer.strip()
    return f"A server with {flashinfer} and SGLang" if flashinfer else "SGLang"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
