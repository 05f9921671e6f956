"""Whether an nvcc can do FlashInfer's commands, known before anything is compiled.

`nvcc --dryrun` parses its command line and stops: an option that it doesn't know (--compress-mode came with 12.8) or an
architecture (compute_120f with 12.9) ends it with "nvcc fatal", in 0.02 s. The flags are those of the planned modules.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.cuda.probe import LAUNCHERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from fitasks.cuda.probe import ProbeMemo

Flags = tuple[str, ...]
Commands = dict[str, list[list[str]]]  # nvcc's build → the flags that FlashInfer plans with that nvcc; "": with any

_CONTINUED = re.compile(r"\$\n\s*")
_CUDA_FLAGS = re.compile(r"^\s*(?:cuda_cflags|cudaflags) = (.*)$", re.MULTILINE)
_CAPABILITY = re.compile(r"(\d+)\.(\d+[a-z]?)")
_WITH_VALUE = {"-isystem", "-I", "-D", "-ccbin"}
_FATAL = re.compile(r"^nvcc fatal\s*: (?!.*host compiler)(.+)$", re.MULTILINE)


def nvcc_flags(ninja: str) -> set[Flags]:
    """What a build.ninja has nvcc do, without includes, definitions and the host compiler; once per set of flags."""
    found = _CUDA_FLAGS.findall(_CONTINUED.sub("", ninja))
    return {tuple(_telling(shlex.split(line))) for line in found}


def _telling(words: Iterable[str]) -> Iterator[str]:
    words = iter(words)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith(("$", "-I", "-D", "-isystem")):
            yield word


def of_targets(targets: Iterable[str]) -> list[list[str]]:
    """Flags for the architectures of targets as written ("8.0 9.0a"), for before anything is planned."""
    names = sorted({f"{major}{minor}" for target in targets for major, minor in _CAPABILITY.findall(target)})
    return [[f"-gencode=arch=compute_{name},code=sm_{name}"] for name in names]


def refusal(nvcc: Path, build: str, flags: Collection[Sequence[str]], probe: ProbeMemo) -> str:
    """What this nvcc, of that build, says of the first flags that it can't do; "" where it can do all, or isn't known.

    As "Unsupported gpu architecture 'compute_120f'".
    """
    for each in sorted(map(tuple, flags)):
        said = probe.failure(nvcc, build, "--dryrun", *each, "-c", "-x", "cu", os.devnull, "-o", os.devnull)
        if found := _FATAL.search(said):
            return found[1].strip()
    return ""


def wanted_of(build: str, commands: Mapping[str, list[list[str]]]) -> list[list[str]]:
    """The flags that an nvcc of that build is to be tried with."""
    return commands.get(build) or commands.get("", [])


def nvcc_of(home: Path, env: Mapping[str, str]) -> Path:
    """The nvcc of FlashInfer's commands: FLASHINFER_NVCC, without a launcher, or the toolkit's."""
    words = [word for word in env.get("FLASHINFER_NVCC", "").split() if Path(word).name not in LAUNCHERS]
    found = shutil.which(words[0], path=env.get("PATH", os.defpath)) if words else None
    return Path(found) if found else home / "bin" / "nvcc"
