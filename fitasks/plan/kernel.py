"""One kernel to build: FlashInfer's own JitSpec, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """A module of one target, exactly as the installed FlashInfer would build it at run time.

    `ninja` is the whole text of FlashInfer's build.ninja. `problem` is set instead of paths being usable where
    the configuration could not be planned; such a kernel fails alone. `twin` names the label of an earlier kernel
    that is the very same module.
    """

    label: str  # doit's subtask name, unique over all targets
    entry: str
    op: str
    target: str  # "9.0a", as FLASHINFER_CUDA_ARCH_LIST says it
    place: str  # "kernels.yaml:14:3"
    params: dict[str, object]
    name: str = ""
    generator: str = ""  # "flashinfer.jit.page:gen_page_module"
    build_dir: Path = Path()
    library: Path = Path()
    ninja_file: Path = Path()
    lock: Path = Path()
    sources: tuple[Path, ...] = ()
    ninja: str = ""
    note: str = ""  # what the planner has to say of it, e.g. under which condition a server loads it
    problem: str = ""
    twin: str = ""
