"""Notes what else a server waits for: torch.compile, autotuning; and when it begins to answer.

Each function is given a module that has just been executed, before anybody could import a name from it. Seconds are
without those of what was noted meanwhile: tracing compiles graphs, and a search may compile what it tries out.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from typing import NamedTuple

import fitasks_lines
from fitasks_quietly import quietly

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHORTEST = 0.05  # seconds; most functions are traced, and most searches answered from earlier ones, in less
_graphs = itertools.count()


class _Watch(NamedTuple):
    """Seconds from its making, without those that lines of this thread have meanwhile told of."""

    begin: float
    before: float

    @property
    def seconds(self) -> float:
        return max(0.0, time.perf_counter() - self.begin - (fitasks_lines.told_of() - self.before))


def _watch() -> _Watch:
    return _Watch(time.perf_counter(), fitasks_lines.told_of())


class _Noting:
    """A context for what is noted only if it took long: with a line when it begins, and one when it ends."""

    def __init__(self, trace: str, what: Any, kind: str) -> None:
        self._trace, self._what, self._kind = trace, what, kind

    def __enter__(self) -> None:
        self._said = quietly(fitasks_lines.begun_if_long, self._trace, _name(self._what), self._kind)
        self._watch = _watch()

    def __exit__(self, *_error: object) -> None:
        quietly(self._end, self._watch.seconds)

    def _end(self, seconds: float) -> None:
        name, short = _name(self._what), seconds < _SHORTEST
        if not short:
            fitasks_lines.write(self._trace, name, self._kind, "compiled", seconds=seconds)
        fitasks_lines.over(self._trace, name, self._kind, said=self._said and short, short=short)


def _name(what: Any) -> str:
    """Of code, its function's."""
    return str(getattr(what, "co_qualname", getattr(what, "co_name", what)))


def dynamo(convert_frame: Any, trace: str) -> None:
    """torch._dynamo.convert_frame: each function that torch.compile traces, by its name, is given to `_compile`.

    It raises, too, what only says that a function is left as it is.
    """
    theirs = convert_frame._compile

    @functools.wraps(theirs)
    def compiled(code: Any, *args: Any, **kwargs: Any) -> Any:
        with _Noting(trace, code, "torch-compile"):
            return theirs(code, *args, **kwargs)

    convert_frame._compile = compiled


def inductor(compile_fx: Any, trace: str) -> None:
    """torch._inductor.compile_fx: each graph passes `_compile_fx_inner`; a hit of its cache is counted by torch."""
    theirs = compile_fx._compile_fx_inner

    @functools.wraps(theirs)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        graph = f"graph {next(_graphs)}"
        quietly(fitasks_lines.begun, trace, graph, "inductor")
        watch, hits, failed = _watch(), quietly(_hits), True
        try:
            result = theirs(*args, **kwargs)
            failed = False
            return result
        finally:
            how = "failed" if failed else "cached" if quietly(_hits) != hits else "compiled"
            quietly(fitasks_lines.write, trace, graph, "inductor", how, seconds=watch.seconds)

    compile_fx._compile_fx_inner = compiled


def _hits() -> int:
    counters = sys.modules["torch._dynamo.utils"].counters
    return int(counters["inductor"]["fxgraph_cache_hit"])


def flashinfer_autotuner(autotuner: Any, trace: str) -> None:
    """flashinfer.autotuner, since 0.7 in a package: AutoTuner.choose_one tries out what it has no result of."""
    theirs = autotuner.AutoTuner.choose_one
    if hasattr(theirs, "_fitasks"):
        return  # the package, after its module

    @functools.wraps(theirs)
    def chosen(self: Any, custom_op: str, *args: Any, **kwargs: Any) -> Any:
        if not self.is_tuning_mode:  # each call of the operation in a server
            return theirs(self, custom_op, *args, **kwargs)
        with _Noting(trace, custom_op, "autotuning"):
            return theirs(self, custom_op, *args, **kwargs)

    chosen._fitasks = True  # type: ignore[attr-defined]
    autotuner.AutoTuner.choose_one = chosen


def uvicorn(server: Any, trace: str) -> None:
    """uvicorn.server, of SGLang's and vLLM's servers: its `startup` ends when requests are listened for."""
    theirs: Callable[..., Any] = server.Server.startup

    @functools.wraps(theirs)
    async def startup(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = await theirs(self, *args, **kwargs)
        if getattr(self, "started", False):  # not where the application failed to start
            quietly(fitasks_lines.write, trace, "uvicorn", "server", "answering")
        return result

    server.Server.startup = startup
