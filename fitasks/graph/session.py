"""Everything of one doit run: the plan, the judges, and, once something has to be built, the builder.

Made when dodo.py is loaded. Trouble with the environment is kept, not raised, so that `doit doctor` and `doit list`
still work; trouble with kernels.yaml is raised at once.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit import get_initial_workdir

from fitasks.base.doing import doing
from fitasks.base.environment import cache_home
from fitasks.base.errors import ConfigError, EnvironmentProblem, FitasksError
from fitasks.base.files import sha256_text
from fitasks.base.limits import met
from fitasks.base.streams import tell
from fitasks.compile.judge import stamp as stamps
from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.freshness import Judge
from fitasks.compile.judge.roots import roots_of
from fitasks.compile.ninja.ninja import find_ninja
from fitasks.compile.pool.costs import Costs
from fitasks.cuda import cudart
from fitasks.cuda.capability import nvcc_of
from fitasks.cuda.loader import Loader
from fitasks.cuda.probe import ProbeMemo
from fitasks.plan.caches import bases
from fitasks.plan.plan import Plan, configuration, make_plan
from fitasks.plan.server import Server, find_server
from fitasks.plan.unbuildable import unbuildable
from fitasks.plan.unbuilt import plan_unbuilt
from fitasks.store.elsewhere import requested, trusted
from fitasks.store.local import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fitasks.compile.builder import Builder
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.config.stores import StoreRequest
    from fitasks.fleet.fleet import Fleet
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.server import Server
    from fitasks.store.chain import Chain

_CURRENT: list[Session] = []


@dataclass
class Session:
    """One run's knowledge. `problem` is why there is no plan, or why nothing can be built by the one that there is."""

    root: Path
    problem: FitasksError | None = None
    say: Callable[[str], None] = print
    observers: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)  # of the journal's events
    wanted: frozenset[str] | None = None  # labels of the kernels that this run is about; None: all
    fleet: Fleet | None = None  # who compiles for this run
    prefetches: bool = True  # whether what stores elsewhere have is fetched before it is asked for
    _plan: Plan | None = None
    _judgements: dict[str, Judgement] = field(default_factory=dict)
    _builder: Builder | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, root: Path) -> Session:
        """Plan, and write the stamp. Raises ConfigError alone."""
        session = cls(root)
        try:
            session._plan = make_plan(root)
            session.problem = unbuildable(session._plan)
            requested(session._plan.config.stores, os.environ)
            _ = session.stamp
        except ConfigError:
            raise
        except (FitasksError, OSError) as error:
            session.problem = error if isinstance(error, FitasksError) else met(error) or EnvironmentProblem(str(error))
        return session

    @property
    def plan(self) -> Plan:
        """The plan. Raises what kept it from being made."""
        if self._plan is None:
            raise self.problem or EnvironmentProblem("there is no plan")
        return self._plan

    @cached_property
    def server(self) -> Server:
        """The serving environment, also where there is no plan. Raises ConfigError, EnvironmentProblem."""
        return self._plan.server if self._plan else find_server(configuration(self.root), self.probe)

    @cached_property
    def asking(self) -> Session:
        """This session, or where a toolchain is missing one that can be asked what is loaded ahead of time.

        Its `problem` stays. Raises EnvironmentProblem where FlashInfer can't be asked.
        """
        if self._plan or not self.problem:
            return self
        return Session(self.root, self.problem, _plan=plan_unbuilt(self.root))

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """All planned kernels, none where planning failed."""
        return self._plan.kernels if self._plan else ()

    @cached_property
    def probe(self) -> ProbeMemo:
        """What executables say, remembered."""
        return ProbeMemo(self.root / ".fitasks" / "probe.json")

    @cached_property
    def ninja(self) -> Ninja:
        """The ninja that the server's PATH gives."""
        return find_ninja(self.plan.server.env, self.probe)

    @cached_property
    def toolchain(self) -> dict[str, str]:
        """The tools that are part of every fingerprint."""
        return stamps.toolchain(self.plan, self.probe)

    @cached_property
    def stamp(self) -> tuple[Path, str]:
        """The stamp's path and the digest of its text; written where it changed."""
        path, text = stamps.write_stamp(self.plan, self.ninja, self.toolchain, self.runtime)
        self.probe.save()
        return path, sha256_text(text)

    @cached_property
    def runtime(self) -> cudart.Runtime:
        """The serving environment's libcudart; asked of its interpreter where anything about it changed."""
        server, toolkit = self.plan.server, self.plan.toolkit
        memo = self.root / ".fitasks" / cudart.MEMO
        return cudart.discover(server.python, server.env, server.site_packages, toolkit.cudart, memo)

    @cached_property
    def loader(self) -> Loader:
        """What the server's dynamic loader has for libraries; remembered at the end of the run."""
        loader = Loader(self.plan.server.python, self.plan.server.env, self.plan.state / "loader.json")
        atexit.register(loader.save)
        return loader

    @cached_property
    def contents(self) -> Contents:
        """What files contain; remembered at the end of the run."""
        contents = Contents.load(self.root / ".fitasks" / "contents.json")
        atexit.register(contents.save)
        return contents

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """A judge for each target."""
        known = self.ninja.version, self.stamp[1]
        return {
            target: Judge(roots_of(self.plan, target), self.contents, self.toolchain, *known, bases(self.plan))
            for target in self.plan.targets
        }

    def judge(self, kernel: Kernel) -> Judgement:
        """The verdict on a kernel as of this run's first look."""
        if kernel.label not in self._judgements:
            self._judgements[kernel.label] = self.judges[kernel.target].judge(kernel)
        return self._judgements[kernel.label]

    @cached_property
    def store(self) -> Store:
        """The finished kernels of this user, of all FlashInfer versions."""
        return Store.of(self.plan.server.env)

    @cached_property
    def stores(self) -> Chain:
        """That store in front of those elsewhere; none is asked before somebody wants a kernel that isn't here."""
        return self.chain(requested(self.plan.config.stores, os.environ))

    def chain(self, requests: Sequence[StoreRequest]) -> Chain:
        """This user's store in front of these."""
        from fitasks.processes import sessions
        from fitasks.store.chain import Chain
        from fitasks.store.remote.loop import Loop
        from fitasks.store.remote.remote import Remote

        loop = Loop(sessions.stopping)

        def say(text: str) -> None:  # whoever shows the run comes later
            self.say(text)

        keys = {*trusted(os.environ), *(key for one in requests for key in one.trust)}
        return Chain(self.store, [Remote(one, loop, os.environ, say, keys) for one in requests], loop, say, keys)

    def builder(self) -> Builder:
        """What builds; the first call, of whichever thread, opens the pool of compiler slots."""
        with self._lock:
            if self._builder is None:
                with doing("looking at what is to be compiled"):
                    self._builder = self._start_builder()
            return self._builder

    def _start_builder(self) -> Builder:
        """The pool, sized and ordered for the kernels that are stale now."""
        from fitasks.compile import begun
        from fitasks.compile.builder import Builder
        from fitasks.compile.fetching import fetch_only
        from fitasks.compile.journal import Journal
        from fitasks.compile.pool.capacity import Slots, at_most, slots
        from fitasks.compile.pool.jobserver import MakeTokens, make_jobs, parent_fifo
        from fitasks.compile.pool.pool import Pool
        from fitasks.compile.pool.schedule import schedule
        from fitasks.compile.runner import Runner

        stale = [kernel for kernel in self.plan.buildable() if self._is_stale(kernel)]
        peak = max((self.costs.of(kernel).peak_rss for kernel in stale), default=1 << 30)  # a store may yet fail
        stored = self.stores.expect(stale, self.judges) if self.prefetches else frozenset()
        stale = [kernel for kernel in stale if kernel.label not in stored]
        fifo = parent_fifo(os.environ)
        chosen = at_most(slots(self.jobs, peak_bytes=peak), make_jobs(os.environ) if fifo else None)
        make = MakeTokens(fifo) if fifo else None
        if make:
            atexit.register(make.close)
        config = self.plan.config
        files = {
            kernel.label: begun.remaining(kernel, self.judges[kernel.target], self.ninja, self.judge(kernel).damaged)
            for kernel in stale
        }
        found = Slots(self.fleet.slots, self.fleet.reason) if self.fleet else chosen
        planned = schedule(stale, self.costs, found.count, split=self._may_split(), only=files)
        journal = Journal.of_run(self.plan.state, self.observers)
        works = [_expected(kernel, self.costs, files[kernel.label]) for kernel in stale]
        times = {"bound": round(planned.bound, 1), "expected": round(planned.expected, 1)}
        journal.write("run", version=1, slots=found.count, reason=found.reason, kernels=works, **times)
        runner = Runner(
            self.plan, self.ninja, Pool(chosen.count, make), journal, self.costs, planned, config.timeout, self.say
        )
        if self.fleet:
            self.fleet.listen(journal, self.say)
        return Builder(runner, self.judges, self.stores, self.fleet, fetch_only=fetch_only(os.environ))

    def _is_stale(self, kernel: Kernel) -> bool:
        """Whether it was asked for, and is to be compiled, unless a store has it."""
        if kernel.built_whole or (self.wanted is not None and kernel.label not in self.wanted):
            return False  # what an engine compiles in one go isn't compiled file by file
        return self.judge(kernel).verdict == "stale"

    def _may_split(self) -> bool:
        """Whether nvcc lists the option, kernels.yaml doesn't forbid it, and the user doesn't set it already."""
        env = self.plan.server.env
        own = env.get("NVCC_PREPEND_FLAGS", "") + env.get("NVCC_APPEND_FLAGS", "")
        if not self.plan.config.split_compile or "-split-compile" in own:
            return False
        return "--split-compile" in self.probe.options(nvcc_of(self.plan.toolkit.home, env))

    @property
    def jobs(self) -> int | None:
        """Compilers at once as somebody asked for: `doit -n`, MAX_JOBS, `jobs:`; None if nobody did.

        The former becomes the latter (fitasks/graph/command.py), which counts as FlashInfer reads it.
        """
        asked = os.environ.get("MAX_JOBS", "")
        limit = int(asked) if asked.isascii() and asked.isdecimal() else 0
        return limit or (self._plan.config.jobs if self._plan else None)

    @cached_property
    def costs(self) -> Costs:
        """What compiling costs, learnt over all projects of this user."""
        return Costs.load(cache_home(self.plan.server.env) / "fitasks" / "costs.json")


def current() -> Session:
    """The one session of this process. Ends the program with status 2 where kernels.yaml is unusable."""
    if not _CURRENT:
        try:
            _CURRENT.append(Session.load(_project()))
        except FitasksError as error:
            print(error, file=sys.stderr)  # noqa: T201
            raise SystemExit(error.exit_status) from None
    return _CURRENT[0]


def _project() -> Path:
    """The working directory; after `doit -f …/dodo.py`, which changes to that file's, the one that doit was started in.

    That is where kernels.yaml is looked for first: to build those of a checkout in their place would be a surprise.
    """
    here, began = Path.cwd(), Path(get_initial_workdir() or Path.cwd())
    asked = any(word.startswith(("-d", "--dir")) for word in sys.argv[1:])
    if began != here and not asked:
        if (began / "kernels.yaml").exists():
            os.chdir(began)
            return began
        tell(f"{began} has no kernels.yaml; this is about {here / 'kernels.yaml'}")
    return here


def _expected(kernel: Kernel, costs: Costs, files: Sequence[str]) -> dict[str, Any]:
    """What the journal says of a kernel of which these files are to be compiled."""
    cost, seconds, kept = costs.of(kernel), costs.files(kernel), len(kernel.sources) - len(files)
    cpu_seconds = round(sum(seconds[name] for name in files) if kept else cost.cpu_seconds, 1)
    counts = {"files": len(kernel.sources), "kept": kept}
    return {"label": kernel.label, **counts, "cpu_seconds": cpu_seconds, "learnt": cost.learnt}
