"""doit's task dictionaries: one per kernel, and one around each action."""

from __future__ import annotations

import contextlib
import functools
import getopt
import io
import os
import signal
import sys
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from doit.exceptions import TaskError, TaskFailed

from fitasks.base.errors import FitasksError, Silent
from fitasks.base.limits import met
from fitasks.base.streams import one_line, shown, silence, whole
from fitasks.base.wording import labelled
from fitasks.compile.pool.schedule import longest_first
from fitasks.cuda.gpus import all_gpus, visible
from fitasks.graph import command as command_line
from fitasks.graph import databases, reporting
from fitasks.graph.listing import TITLE
from fitasks.graph.options import NAMES, NOTHING, split, spoken_with
from fitasks.graph.session import current
from fitasks.graph.uptodate import Fresh
from fitasks.plan.names import GROUP, PREFIX
from fitasks.processes import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fitasks.graph.session import Session
    from fitasks.plan.kernel import Kernel

TaskDict: TypeAlias = dict[str, Any]
Result: TypeAlias = "dict[str, Any] | TaskFailed | TaskError | None"

_COMPILES = "compile what is stale or incomplete (default)"
_WAITING = 16  # kernels whose files may wait for a slot: the longest of all of them is next


def configuration() -> dict[str, Any]:
    """DOIT_CONFIG. Ends the program with status 2 where kernels.yaml is unusable."""
    command_line.take_over()
    with command_line.within_limits():
        return _configuration()


def _configuration() -> dict[str, Any]:
    signals.install()  # before anything is asked: planning, too, ends with us
    _prepare_streams()
    session = current()
    database = databases.place(session.root / ".fitasks")
    return (
        {
            "default_tasks": ["_cudart"],  # and so all kernels
            "continue": True,
            "par_type": "thread",
            "num_process": command_line.Default(max(_WAITING, session.jobs or 0, len(os.sched_getaffinity(0)))),
            "backend": "sqlite3",
            "dep_file": str(database),
            "problem": str(session.problem or ""),  # for fitasks/graph/command.py, as is the store
        }
        | ({} if session.problem else {"store": str(session.store.root)})
        | reporting.configuration()
    )


def group(creator: Callable[[], Iterator[TaskDict]]) -> Callable[[], Iterator[TaskDict]]:
    """Let `doit list` show these tasks below the creator's docstring."""

    @functools.wraps(creator)
    def titled() -> Iterator[TaskDict]:
        with command_line.within_limits():
            for task in creator():
                yield task | {"meta": (task.get("meta") or {}) | {TITLE: (creator.__doc__ or "").strip()}}

    return titled


def kernels() -> Iterator[TaskDict]:
    """One subtask per kernel and target, that of the longest file first: doit begins them in this order."""
    session = current()
    if session.problem:
        yield _task(GROUP, _COMPILES, _raise(session.problem))
        return
    yield {"basename": GROUP, "name": None, "doc": _COMPILES}
    twins = [kernel for kernel in session.kernels if kernel.twin]
    for kernel in longest_first((kernel for kernel in session.kernels if not kernel.twin), session.costs):
        yield {"basename": GROUP} | _kernel(session, kernel)
    yield from ({"basename": GROUP} | _twin(kernel) for kernel in twins)


def command(action: Callable[..., None], *params: dict[str, Any], words: str = NOTHING) -> TaskDict:
    """A task that always runs and speaks for itself; `words` is the parameter that takes the words behind its name.

    One that takes none refuses them: doit would run them as tasks, and compile the kernel that was asked about.
    """
    spoken = spoken_with(action, params, words)
    return _task(action.__name__, action.__doc__ or "", spoken) | {"params": list(params), "pos_arg": words}


def on_gpus(action: Callable[..., None], *params: dict[str, Any]) -> TaskDict:
    """A task that runs compiled files on GPUs: it comes after the kernels that it is to look at, and takes their names.

    What a server loads ahead of time needs no compile, where there may be no compiler; nor does anything where no GPU
    is visible, which the task then says.
    """
    from fitasks.server.ahead import ahead_of_time

    session = current()

    def needed(kernels: Sequence[Kernel]) -> list[Kernel]:
        if not session.kernels or not visible(all_gpus(), session.plan.server.env):
            return []
        return [kernel for kernel in kernels if not kernel.problem and not ahead_of_time(session.plan, kernel)]

    return _after_named(action, params, needed)


def after_kernels(action: Callable[..., None], *params: dict[str, Any], packaged: bool) -> TaskDict:
    """A task that delivers kernels, once those are done that it can hold, all or those that it was given the names of.

    `packaged` are what packages of kernels can hold, or else what they can't. A delivery doesn't wait for those that no
    GPU of their target could run: they fail before anything is compiled. It waits for those that can't be planned.
    """

    def held(kernels: Sequence[Kernel]) -> list[Kernel]:
        return [one for one in kernels if not one.unfit and (one.problem or one.packageable is packaged)]

    return _after_named(action, params, held)


def after_all_kernels(action: Callable[..., None], name: str) -> TaskDict:
    """A task that runs once all kernels are done."""
    return _task(name, action.__doc__ or "", action) | {"task_dep": [GROUP]}


def _after_named(
    action: Callable[..., None],
    params: Sequence[dict[str, Any]],
    needed: Callable[[Sequence[Kernel]], list[Kernel]],
) -> TaskDict:
    """What it depends on is known once its words are: fitasks/graph/words.py asks `needs`."""
    session = current()

    def needs(words: Sequence[str]) -> list[str]:
        with contextlib.suppress(FitasksError, getopt.GetoptError):  # the task will say it
            return [f"{PREFIX}{kernel.label}" for kernel in needed(session.plan.chosen(split(words, params)[1]))]
        return []

    return command(action, *params, words=NAMES) | {"task_dep": [GROUP], "meta": {"needs": needs}}


def _kernel(session: Session, kernel: Kernel) -> TaskDict:
    build = functools.partial(_build, session, kernel)
    if kernel.problem:
        return {
            "name": kernel.label,
            "doc": one_line(kernel.problem.partition("\n")[0]),
            "actions": [_guard(build)],
            "io": {"capture": False},
        }
    return {
        "name": kernel.label,
        "doc": _described(session, kernel),
        "targets": [str(kernel.library)],
        "file_dep": [str(session.stamp[0])],
        "uptodate": [Fresh(session, kernel)],
        "actions": [_guard(build)],
        "io": {"capture": False},
    }


def _described(session: Session, kernel: Kernel) -> str:
    """`batch_decode dtype_q=bfloat16 head_dim=128 for 9.0a`: as kernels.yaml says it, not as the module is called.

    `doit list --status` says why a kernel isn't fresh, as `doit why` does; it judges them all anyway.
    """
    words = [kernel.op, *(f"{name}={value}" for name, value in kernel.given.items()), "for", kernel.target]
    said = " ".join(words) + (f" ({kernel.note})" if kernel.note else "")
    if sys.argv[1:2] == ["list"] and {"--status", "-s"} & set(sys.argv):
        with contextlib.suppress(Exception):  # the list is to be shown whatever keeps a kernel from being judged
            first = session.judge(kernel).first
            said += f": {labelled(str(first), kernel.name, kernel.label)}" if first else ""
    return one_line(said)


def _twin(kernel: Kernel) -> TaskDict:
    """Two entries of kernels.yaml that mean the same module are built once."""
    return {
        "name": kernel.label,
        "doc": f"the same module as kernel:{kernel.twin}",
        "actions": None,
        "task_dep": [f"kernel:{kernel.twin}"],
    }


def _build(session: Session, kernel: Kernel) -> dict[str, Any]:
    done = session.builder().build(kernel)
    return {"outcome": done.outcome, "seconds": done.seconds}


def _task(name: str, doc: str, action: Callable[..., Any]) -> TaskDict:
    return {
        "basename": name,
        "doc": doc,
        "actions": [_guard(action)],
        "uptodate": [False],
        "verbosity": 2,
        "io": {"capture": False},
    }


def _guard(action: Callable[..., Any]) -> Callable[..., Any]:
    """Our own errors become doit's, without a traceback and with the exit status that they stand for."""

    @functools.wraps(action)
    def guarded(*args: Any, **kwargs: Any) -> Result:
        try:
            return action(*args, **kwargs)
        except BrokenPipeError:  # `doit check | head`: whoever reads has seen enough
            silence(sys.stdout)
            return TaskFailed("", report=False)
        except Silent:
            return TaskFailed("", report=False)
        except FitasksError as error:
            return (TaskFailed if error.exit_status == 1 else TaskError)(str(error))
        except (OSError, MemoryError, RuntimeError) as error:  # a full disk, a directory in place of a file
            if problem := met(error):
                return TaskError(str(problem))
            if not isinstance(error, OSError):
                raise
            return TaskError(f"{error.filename}: {error.strerror}" if error.filename else str(error))

    return guarded


def _raise(problem: FitasksError) -> Callable[[], None]:
    def action() -> None:
        raise problem

    return action


def _prepare_streams() -> None:
    """A terminal or log that isn't UTF-8 gets ? for an arrow, no traceback; nor does `doit list | head`, or `>&-`.

    And nothing that is quoted is obeyed by a terminal.
    """
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in map(whole, (sys.stdout, sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = shown(sys.stdout), shown(sys.stderr)
    if sys.argv[1:2] == ["list"]:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _nowhere() -> IO[str]:
    """For a stream that was closed before Python began, which then has None in its place."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
