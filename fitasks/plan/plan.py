"""The plan: every kernel of kernels.yaml as the installed FlashInfer would build it, remembered between runs.

The warm path imports neither YAML nor pydantic and starts no process: it reads `.fitasks/plan.json`, whose key names
all that a plan depends on but the files that planning read, and compares; then it looks at those files (reads.py).
Only where something differs is the serving interpreter asked again.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base import memo
from fitasks.base.doing import doing
from fitasks.base.environment import refuse_unusable
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import remember
from fitasks.config.starter import SCHEMA
from fitasks.cuda import chosen
from fitasks.cuda.gpus import architectures
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.survey import host_compiler
from fitasks.models.kernels import digests, kernels_of_models
from fitasks.plan import hopper, planner
from fitasks.plan.anew import announced, plan_anew
from fitasks.plan.choice import choice_of
from fitasks.plan.kernel import Kernel, NotLoaded, from_record
from fitasks.plan.names import named
from fitasks.plan.overruled import overruled
from fitasks.plan.remembered import digest_of, holding, key_of, remembered, resolved, restored_config
from fitasks.plan.server import Server, as_imported, find_server
from fitasks.plan.target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitasks.config.model import Config
    from fitasks.cuda.capability import Commands
    from fitasks.cuda.toolkit import Toolkit


@dataclass(frozen=True)
class Plan:
    """What is to be built, for whom, and with what."""

    config: Config
    server: Server
    toolkit: Toolkit
    notes: tuple[str, ...]  # what the user should know of the choice of toolkit
    kernels: tuple[Kernel, ...]
    targets: dict[str, Target]  # by what FLASHINFER_CUDA_ARCH_LIST says, "8.0 9.0a"
    state: Path  # the project's .fitasks directory
    commands: Commands = field(default_factory=dict)  # what an nvcc has to know, per build of nvcc
    not_loaded: tuple[NotLoaded, ...] = ()

    @property
    def first(self) -> Target:
        """Any target, for what is the same for all: versions, the package's root, the cache's base."""
        return next(iter(self.targets.values()))

    @property
    def sglang_cache(self) -> Path | None:
        """The directory that modules of SGLang's own JIT lie in, for every target; None where none is planned."""
        return next((one.build_dir.parent for one in self.kernels if one.kind == "sglang" and one.name), None)

    @property
    def keyed_cache(self) -> Path | None:
        """The directory that SGLang keeps modules in by content; None where none is planned."""
        return next((one.build_dir.parents[2] for one in self.kernels if one.kind == "sglang-keyed" and one.name), None)

    def buildable(self) -> tuple[Kernel, ...]:
        """Kernels that have a module of their own: planned without a problem, and nobody's twin."""
        return tuple(kernel for kernel in self.kernels if not kernel.problem and not kernel.twin)

    def chosen(self, names: Sequence[str]) -> list[Kernel]:
        """Kernels by label or wildcard, also as `kernel:…`; all without names, those with a problem too.

        A twin stands for the kernel that it is the same module as. Raises EnvironmentProblem for a name that fits none.
        """
        known = {kernel.label: kernel for kernel in self.kernels}
        if not names:
            return [kernel for kernel in self.kernels if not kernel.twin]
        labels = [label for name in names for label in named(name, known)]
        return [known[label] for label in dict.fromkeys(known[label].twin or label for label in labels)]

    def environment(self, target: str) -> dict[str, str]:
        """The environment in which a server, and so ninja, works for `target`."""
        return planner.environment(self.server, self.toolkit.home, target)


def make_plan(root: Path, *, file: str = "kernels.yaml") -> Plan:
    """The plan of the project in `root`, from the cache where it still holds.

    Raises ConfigError for mistakes in the file, EnvironmentProblem where no toolkit or no FlashInfer is usable.
    """
    state = root / ".fitasks"
    cache = remembered(state / "plan.json")
    digest = digest_of(root / file)
    written = _config(root / file, digest, cache)
    probe = ProbeMemo(state / "probe.json")
    server = find_server(written, probe)
    refuse_unusable(server.env)
    targets = targets_of(written, server)
    config = effective(written, targets, server)
    choice = choice_of(server, cache, probe)
    derived = {"sm90": config.sm90, "models": digests(config.models)}
    key = key_of(digest, targets, server, choice.toolkit) | derived
    reads = holding(cache, key) if _same_host(cache, server, probe) else None
    if not reads:
        with doing(announced(len(config.kernels) * len(targets), server), after=0):
            cache, choice = plan_anew(config, targets, server, cache.get("needs", ()), probe)
        key = key_of(digest, targets, server, choice.toolkit) | derived
        cache |= {"key": key, "config": asdict(written), "overruled": overruled(cache["kernels"])}
        cache |= {"resolved": resolved(cache["targets"]), "chosen": chosen.as_record(choice.toolkit, server.env)}
        cache["host"] = _host(cache["kernels"], server, probe)
    elif reads.renewed:
        cache["reads"] = reads.as_record()
    if not reads:
        remember(state / SCHEMA.name, SCHEMA.read_text(encoding="utf-8"))  # init's kernels.yaml names it for editors
    if not reads or reads.renewed:
        memo.keep(state / "plan.json", cache)
    probe.save()
    kernels = tuple(from_record(record) for record in cache["kernels"])
    found = {name: Target.from_record(record) for name, record in cache["targets"].items()}
    server = as_imported(server, found)
    others = tuple(NotLoaded(**record) for record in cache["not_loaded"])
    return Plan(config, server, choice.toolkit, choice.notes, kernels, found, state, cache["commands"], others)


def _host(records: Sequence[Mapping[str, Any]], server: Server, probe: ProbeMemo) -> list[str]:
    """The host compiler and its words, where they are part of a kernel's key; [] where they aren't, or nobody knows."""
    if not any(record["kind"] == "sglang-keyed" for record in records):
        return []
    try:
        compiler = host_compiler(server.env)
        return [str(compiler), probe.output(compiler, "--version")]
    except EnvironmentProblem:  # the plan stays as it is, and `doit check` says what that means
        return []


def _same_host(cache: dict[str, Any], server: Server, probe: ProbeMemo) -> bool:
    host = _host(cache.get("kernels", ()), server, probe)
    return not host or host == cache["host"]


def effective(written: Config, targets: tuple[str, ...], server: Server) -> Config:
    """The configuration with what the environment (doit --no-sm90) and the models' config.json say.

    A model whose engine's version isn't written is served by the engine that is installed.
    """
    models = tuple(replace(model, version=model.version or server.told(model.engine)) for model in written.models)
    derived = kernels_of_models(models, targets)
    return replace(written, sm90=hopper.wanted(written), models=models, kernels=(*written.kernels, *derived))


def configuration(root: Path, *, file: str = "kernels.yaml") -> Config:
    """kernels.yaml alone, for what must work without a plan. Raises ConfigError."""
    return _config(root / file, digest_of(root / file), remembered(root / ".fitasks" / "plan.json"))


def targets_of(config: Config, server: Server) -> tuple[str, ...]:
    """kernels.yaml's targets with "auto" replaced by the architectures of the GPUs that a server would see."""
    resolved = []
    for target in config.targets:
        found = target if target != "auto" else architectures(server.env)
        if not found:
            raise EnvironmentProblem(
                f"{config.file}: targets: auto needs a GPU to ask, and none is visible here",
                remedy='name those of the server, e.g. targets: ["9.0a"] for an H100, ["8.0"] for an A100',
            )
        resolved.append(found)
    return tuple(dict.fromkeys(resolved))


def _config(file: Path, digest: str, cache: dict[str, Any]) -> Config:
    if digest and cache and cache["key"]["kernels.yaml"] == digest:
        return restored_config(cache["config"])
    from fitasks.config.load import load_config

    return load_config(Path(os.path.relpath(file)))
