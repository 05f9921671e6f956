"""What predictions are made from. The session of a run has it: each part is found out when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fitasks.base.errors import FitasksError
    from fitasks.compile.judge.contents import Contents
    from fitasks.compile.judge.reasons import Judgement
    from fitasks.compile.ninja.ninja import Ninja
    from fitasks.cuda.cudart import Runtime
    from fitasks.cuda.loader import Loader
    from fitasks.cuda.probe import ProbeMemo
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan


class Knowledge(Protocol):
    """The plan, and what this machine's tools say. `problem` is why nothing can be built by this plan."""

    problem: FitasksError | None

    @property
    def plan(self) -> Plan: ...
    @property
    def ninja(self) -> Ninja: ...
    @property
    def probe(self) -> ProbeMemo: ...
    @property
    def loader(self) -> Loader: ...
    @property
    def runtime(self) -> Runtime: ...
    @property
    def contents(self) -> Contents: ...
    def judge(self, kernel: Kernel) -> Judgement:
        """The verdict on a kernel."""
