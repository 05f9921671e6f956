"""The plan: every kernel of kernels.yaml as the installed FlashInfer would build it, remembered between runs.

The warm path imports neither YAML nor pydantic and starts no process: it reads `.fitasks/plan.json`, whose key names
all that a plan depends on but the files that planning read, and compares; then it looks at those files (reads.py).
Only where something differs is the serving interpreter asked again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.border import read_bytes
from fitasks.base.doing import doing
from fitasks.base.environment import home, refuse_unusable
from fitasks.base.errors import BadInput, EnvironmentProblem, FitasksError, NoCompiler
from fitasks.base.files import remember
from fitasks.base.wording import counted
from fitasks.config.model import MOST_BYTES, Config, KernelConfig, ModelRequest, Position, Serving
from fitasks.config.starter import SCHEMA
from fitasks.config.stores import StoreRequest
from fitasks.cuda import chosen
from fitasks.cuda.capability import Commands, Flags, nvcc_flags, of_targets
from fitasks.cuda.cudart import MEMO as CUDART
from fitasks.cuda.cudart import discover
from fitasks.cuda.gpus import architectures
from fitasks.cuda.needs import IncludeMemo, include_dirs, needed_headers
from fitasks.cuda.probe import ProbeMemo
from fitasks.cuda.survey import host_compiler
from fitasks.cuda.toolkit import choose_toolkit
from fitasks.models.kernels import digests, kernels_of_models
from fitasks.plan import hopper, planner
from fitasks.plan.expand import kernels_of, not_loaded
from fitasks.plan.kernel import Artefact, Kernel, NotLoaded, as_record, from_record, impossible
from fitasks.plan.names import named
from fitasks.plan.overruled import overruled
from fitasks.plan.reads import Reads
from fitasks.plan.server import Server, as_imported, find_server
from fitasks.plan.target import Target, targets_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from fitasks.cuda.toolkit import Choice, Toolkit

# Of plan.json: raised whenever its meaning changes; a changed shape is noticed by itself.
VERSION = [
    6,
    *(
        field.name
        for record in (Kernel, Artefact, NotLoaded, Target, Config, Serving, KernelConfig, ModelRequest, StoreRequest)
        for field in fields(record)
    ),
]


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
    digest = _digest(root / file)
    written = _config(root / file, digest, cache)
    probe = ProbeMemo(state / "probe.json")
    server = find_server(written, probe)
    refuse_unusable(server.env)
    targets = targets_of(written, server)
    config = effective(written, targets, server)
    choice = _choice(server, cache, probe)
    derived = {"sm90": config.sm90, "models": digests(config.models)}
    key = _key(digest, targets, server, choice.toolkit) | derived
    reads = _reads(cache, key) if _same_host(cache, server, probe) else None
    if not reads:
        with doing(_planning(len(config.kernels) * len(targets), server), after=0):
            cache, choice = _plan_anew(config, targets, server, cache.get("needs", ()), probe)
        key = _key(digest, targets, server, choice.toolkit) | derived
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


def _choice(server: Server, cache: dict[str, Any], probe: ProbeMemo) -> Choice:
    """The toolkit; without a host compiler the one that the plan was made with.

    Where there is none, nor FlashInfer, as in a small environment of fitasks' own, it is the interpreter that is wrong.
    """
    try:
        return toolkit_of(server, cache.get("needs", ()), probe, cache.get("commands"))
    except EnvironmentProblem as error:
        if not server.imported_from("flashinfer-python"):
            remedy = "name the server's interpreter as serving.python in kernels.yaml, or install FlashInfer there"
            raise EnvironmentProblem(f"{server.python} has no FlashInfer", remedy=remedy) from None
        if not isinstance(error, NoCompiler):
            raise
        if same := chosen.again(cache.get("chosen", {}), server.env, probe):
            return same
        raise


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


def _reads(cache: dict[str, Any], key: dict[str, Any]) -> Reads | None:
    """What the remembered plan rests on; None where that plan no longer holds."""
    if cache.get("key") != key or not overruled(cache["kernels"]).items() <= cache["overruled"].items():
        return None
    if cache["resolved"] != resolved(cache["targets"]):
        return None
    return Reads.holding(cache["reads"])


def resolved(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Where the targets' directories really lie: FlashInfer writes sources without links into build.ninja."""
    targets = map(Target.from_record, records.values())
    paths = {str(path) for one in targets for path in (one.root, one.cuda_home, one.cached_ops, one.generated)}
    return {path: os.path.realpath(path) for path in sorted(paths)}


def effective(written: Config, targets: tuple[str, ...], server: Server) -> Config:
    """The configuration with what the environment (doit --no-sm90) and the models' config.json say.

    A model whose engine's version isn't written is served by the engine that is installed.
    """
    models = tuple(replace(model, version=model.version or server.told(model.engine)) for model in written.models)
    derived = kernels_of_models(models, targets)
    return replace(written, sm90=hopper.wanted(written), models=models, kernels=(*written.kernels, *derived))


def _plan_anew(
    config: Config, targets: tuple[str, ...], server: Server, needs: Collection[str], probe: ProbeMemo
) -> tuple[dict[str, Any], Choice]:
    """Ask FlashInfer, then see whether the toolkit has what these modules include, and can do their commands.

    If another toolkit has and can, ask with that one.
    """
    commands: Commands = {"": of_targets(targets)}
    choice, asked = toolkit_of(server, needs, probe, commands), set[Path]()
    while True:
        with _looking_at_cudart(server, choice.toolkit, probe.directory / CUDART):
            planned = _ask(config, targets, server, choice.toolkit)
        kernels = [kernel for kernel in map(from_record, planned["kernels"]) if not kernel.problem and not kernel.twin]
        needs = _needs(kernels)
        commands[choice.toolkit.build] = _commands(kernels)
        better = toolkit_of(server, needs, probe, commands)
        asked.add(choice.toolkit.home)
        if better.toolkit.home in asked:
            choice = better if better.toolkit.home == choice.toolkit.home else choice
            return planned | {"needs": sorted(needs), "commands": commands}, choice
        choice = better


@contextlib.contextmanager
def _looking_at_cudart(server: Server, toolkit: Toolkit, memo: Path) -> Iterator[None]:
    """Meanwhile ask for the server's libcudart, which costs an import of torch and is remembered: it is needed next."""

    def look() -> None:
        with contextlib.suppress(FitasksError, OSError):  # whoever needs it will ask again, and be told
            discover(server.python, server.env, server.site_packages, toolkit.cudart, memo)

    thread = threading.Thread(target=look, name="libcudart", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _ask(config: Config, targets: tuple[str, ...], server: Server, toolkit: Toolkit) -> dict[str, Any]:
    since = time.time_ns()
    home, named = toolkit.home, config.generators
    answers = planner.ask(server, home, targets, config.kernels, sm90=config.sm90, generators=named)
    noted = [one for answer in answers.values() for one in (answer["reads"], *answer.get("more_reads", ()))]
    reads = Reads.of(noted, since, server.python)
    kernels = list(map(as_record, kernels_of(config, answers)))
    if why := impossible(kernels, answers):
        message = f"{server.python}: its FlashInfer plans what can't be compiled: {why}"
        raise EnvironmentProblem(message, remedy="doit doctor says which FlashInfer that is; install it again")
    records = {name: target.as_record() for name, target in targets_in(answers).items()}
    others = list(map(asdict, not_loaded(config, answers)))
    return {"kernels": kernels, "targets": records, "reads": reads.as_record(), "not_loaded": others}


def _needs(kernels: Sequence[Kernel]) -> frozenset[str]:
    """Toolkit headers that the planned modules include, found before anything is compiled."""
    memo = IncludeMemo()
    found = (needed_headers(kernel.reading, include_dirs(kernel.ninja), memo) for kernel in kernels)
    return frozenset[str]().union(*found)


def _commands(kernels: Sequence[Kernel]) -> list[list[str]]:
    """The flags that nvcc has to know for these modules."""
    return sorted(map(list, set[Flags]().union(*(nvcc_flags(kernel.ninja) for kernel in kernels))))


def toolkit_of(server: Server, needs: Collection[str], probe: ProbeMemo, commands: Commands | None = None) -> Choice:
    """The first toolkit with the headers `needs` that can do `commands`. Raises EnvironmentProblem where none has."""
    return choose_toolkit(server.env, server.toolkit_places(), needs, probe, cache_home(server.env), commands=commands)


def configuration(root: Path, *, file: str = "kernels.yaml") -> Config:
    """kernels.yaml alone, for what must work without a plan. Raises ConfigError."""
    return _config(root / file, _digest(root / file), remembered(root / ".fitasks" / "plan.json"))


def cache_home(env: Mapping[str, str]) -> Path:
    """Where a user's caches lie: XDG_CACHE_HOME, or ~/.cache. Raises EnvironmentProblem where there is no home.

    A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification).
    """
    named = Path(env.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else home(env) / ".cache"


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


def _key(digest: str, targets: tuple[str, ...], server: Server, toolkit: Toolkit) -> dict[str, Any]:
    """All that a plan depends on, but what planning read, in a form that survives JSON."""
    return planner.basis(server) | {
        "version": VERSION,
        "kernels.yaml": digest,
        "targets": list(targets),
        "toolkit": [str(toolkit.home), toolkit.build],
    }


def _digest(file: Path) -> str:
    """Of the file's bytes; "" where it can't be read, so that reading it says why."""
    try:
        return sha256(read_bytes(file, MOST_BYTES)).hexdigest()
    except BadInput:
        return ""


class _Memo(TypedDict):
    """plan.json."""

    key: dict[str, Any]  # compared with the present
    config: Config
    kernels: list[Kernel]
    targets: dict[str, Target]
    resolved: dict[str, str]
    chosen: chosen.Record
    needs: list[str]
    commands: Commands
    not_loaded: list[NotLoaded]
    overruled: dict[str, str]
    host: list[str]
    reads: dict[str, Any]  # Reads.holding looks at it


def remembered(file: Path) -> dict[str, Any]:
    """What plan.json says; {} where it is damaged, of an older fitasks or not there."""
    cache: dict[str, Any] | None = memo.read(file, _Memo)
    if cache is None or cache["key"].get("version") != VERSION or "kernels.yaml" not in cache["key"]:
        return {}
    whole = list(cache["targets"]) == cache["key"].get("targets")
    return cache if whole and not impossible(cache["kernels"], cache["targets"]) else {}


def _config(file: Path, digest: str, cache: dict[str, Any]) -> Config:
    if digest and cache and cache["key"]["kernels.yaml"] == digest:
        return _restore_config(cache["config"])
    from fitasks.config.load import load_config

    return load_config(Path(os.path.relpath(file)))


def _restore_config(data: dict[str, Any]) -> Config:
    kernels = tuple(
        KernelConfig(
            **entry
            | {
                "targets": tuple(entry["targets"]),
                "place": Position(**entry["place"]),
                "param_places": {name: Position(**place) for name, place in entry["param_places"].items()},
            }
        )
        for entry in data["kernels"]
    )
    targets = tuple(data["targets"])
    models = tuple(ModelRequest(**model | {"place": Position(**model["place"])}) for model in data["models"])
    restored = {"serving": Serving(**data["serving"]), "targets": targets, "kernels": kernels, "models": models}
    restored["generators"] = tuple(data["generators"])
    restored["stores"] = tuple(StoreRequest(**store | {"trust": tuple(store["trust"])}) for store in data["stores"])
    return Config(**data | restored)


def _planning(count: int, server: Server) -> str:
    """Before anything is imported: its version as far as the package itself tells it, and where it isn't installed."""
    name, text = "flashinfer-python", f"planning {counted(count, 'kernel')} with FlashInfer"
    root = server.imported_from(name)
    where = f"in {root}" if root and not Path(root).is_relative_to(server.prefix) else ""
    words = [text if count else "asking FlashInfer", server.version(name), where, f"of {server.python}"]
    return " ".join(filter(None, words))
