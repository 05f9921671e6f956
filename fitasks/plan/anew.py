"""Planning anew: FlashInfer is asked, with a toolkit that has what its modules include and can do their commands."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem, FitasksError
from fitasks.base.wording import counted
from fitasks.cuda.capability import Commands, Flags, nvcc_flags, of_targets
from fitasks.cuda.cudart import MEMO as CUDART
from fitasks.cuda.cudart import discover
from fitasks.cuda.needs import IncludeMemo, include_dirs, needed_headers
from fitasks.plan import planner
from fitasks.plan.choice import toolkit_of
from fitasks.plan.expand import kernels_of, not_loaded
from fitasks.plan.kernel import Kernel, as_record, from_record, impossible
from fitasks.plan.reads import Reads
from fitasks.plan.target import targets_in
from fitasks.plan.written import written

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from fitasks.config.model import Config
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.cuda.toolkit import Choice, Toolkit
    from fitasks.plan.server import Server


def plan_anew(
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


def announced(count: int, server: Server) -> str:
    """Before anything is imported: its version as far as the package itself tells it, and where it isn't installed."""
    name, text = "flashinfer-python", f"planning {counted(count, 'kernel')} with FlashInfer"
    root = server.imported_from(name)
    where = f"in {root}" if root and not Path(root).is_relative_to(server.prefix) else ""
    words = [text if count else "asking FlashInfer", server.version(name), where, f"of {server.python}"]
    return " ".join(filter(None, words))


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
    planned, found = list(kernels_of(config, answers)), targets_in(answers)
    kernels = list(map(as_record, planned))
    if why := impossible(kernels, answers):
        message = f"{server.python}: its FlashInfer plans what can't be compiled: {why}"
        raise EnvironmentProblem(message, remedy="doit doctor says which FlashInfer that is; install it again")
    records = {name: target.as_record() for name, target in found.items()}
    others = list(map(asdict, not_loaded(config, answers)))
    return {
        "kernels": kernels,
        "targets": records,
        "reads": reads.as_record(),
        "written": written(planned, found),
        "not_loaded": others,
    }


def _needs(kernels: Sequence[Kernel]) -> frozenset[str]:
    """Toolkit headers that the planned modules include, found before anything is compiled."""
    memo = IncludeMemo()
    found = (needed_headers(kernel.reading, include_dirs(kernel.ninja), memo) for kernel in kernels)
    return frozenset[str]().union(*found)


def _commands(kernels: Sequence[Kernel]) -> list[list[str]]:
    """The flags that nvcc has to know for these modules."""
    return sorted(map(list, set[Flags]().union(*(nvcc_flags(kernel.ninja) for kernel in kernels))))
