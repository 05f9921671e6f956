"""doit's task dictionaries, one function per task of dodo.py."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from doit.exceptions import TaskError, TaskFailed

from fitasks.build.schedule import longest_first
from fitasks.errors import FitasksError
from fitasks.session import Session
from fitasks.ui.reporter import Reporter
from fitasks.uptodate import Fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitasks.plan.kernel import Kernel

TaskDict: TypeAlias = dict[str, Any]
Result: TypeAlias = "dict[str, Any] | TaskFailed | TaskError | None"

_SESSION: list[Session] = []


def configuration() -> dict[str, Any]:
    """DOIT_CONFIG. Ends the program with status 2 where kernels.yaml is unusable."""
    session = _session()
    database = session.root / ".fitasks" / "doit.sqlite3"
    _sound(database)
    return {
        "default_tasks": ["kernel"],
        "continue": True,
        "par_type": "thread",
        "num_process": session.jobs or len(os.sched_getaffinity(0)),
        "reporter": Reporter,
        "backend": "sqlite3",
        "dep_file": str(database),
    }


def kernels() -> Iterator[TaskDict]:
    """One subtask per kernel and target."""
    session = _session()
    if session.problem:
        yield _task("kernel", _raise(session.problem)) | {"basename": "kernel"}
        return
    yield {"name": None, "doc": "compile what is stale or incomplete (default)"}
    twins = [kernel for kernel in session.kernels if kernel.twin]
    for kernel in longest_first((kernel for kernel in session.kernels if not kernel.twin), session.costs):
        yield _kernel(session, kernel)
    yield from map(_twin, twins)


def _kernel(session: Session, kernel: Kernel) -> TaskDict:
    build = functools.partial(_build, session, kernel)
    if kernel.problem:
        return {
            "name": kernel.label,
            "doc": kernel.problem,
            "actions": [_guard(build)],
            "io": {"capture": False},
        }
    return {
        "name": kernel.label,
        "doc": _described(kernel),
        "targets": [str(kernel.library)],
        "file_dep": [str(session.stamp[0])],
        "uptodate": [Fresh(session, kernel)],
        "actions": [_guard(build)],
        "io": {"capture": False},
    }


def _described(kernel: Kernel) -> str:
    """`batch_decode dtype_q=bfloat16 head_dim=128 for 9.0a`: as kernels.yaml says it, not as the module is called."""
    words = [kernel.op, *(f"{name}={value}" for name, value in kernel.given.items()), "for", kernel.target]
    return " ".join(words) + (f" ({kernel.note})" if kernel.note else "")


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


def cudart() -> TaskDict:
    """The toolkit, and what was said of the others."""

    def action() -> None:
        from fitasks.ui.show import show_cudart

        show_cudart(_session())

    return _task("cudart", action)


def check() -> TaskDict:
    """What the server will do with each kernel."""

    def action(json: str) -> Result:
        from fitasks.runtime.check import check as predict_all
        from fitasks.runtime.check import conditions
        from fitasks.ui.check_table import show_verdicts, write_verdicts

        verdicts, needed = predict_all(_session()), conditions(_session())
        show_verdicts(verdicts, needed)
        if json:
            write_verdicts(Path(json), verdicts, needed)
        return None if all(verdict.good for verdict in verdicts) else TaskFailed("", report=False)

    option = {"name": "json", "long": "json", "type": str, "default": "", "help": "also write the verdicts to a file"}
    return _task("check", action) | {"params": [option]}


def why() -> TaskDict:
    """The reasons, for named kernels or for all that aren't fresh."""

    def action(names: list[str]) -> None:
        from fitasks.ui.show import show_why

        show_why(_session(), names)

    return _task("why", action) | {"pos_arg": "names"}


def env() -> TaskDict:
    """Lines for `eval "$(doit env)"`."""

    def action() -> None:
        from fitasks.ui.show import show_env

        show_env(_session())

    return _task("env", action)


def clear_incomplete() -> TaskDict:
    """Half-built modules of every cache layout."""

    def action() -> None:
        from fitasks.ui.show import show_cleared

        show_cleared(_session())

    return _task("clear_incomplete", action)


def gc() -> TaskDict:
    """The store of finished kernels, least recently used first."""

    def action(limit: int) -> None:
        from fitasks.ui.show import show_collected

        show_collected(_session(), limit)

    option = {"name": "limit", "long": "limit", "type": int, "default": 20, "help": "gigabytes to keep"}
    return _task("gc", action) | {"params": [option]}


def reset() -> TaskDict:
    """Everything compiled for this plan's version and targets."""

    def action(yes: bool) -> None:
        from fitasks.ui.show import ask_and_reset

        ask_and_reset(_session(), yes=yes)

    option = {"name": "yes", "short": "y", "long": "yes", "type": bool, "default": False, "help": "don't ask"}
    return _task("reset", action) | {"params": [option]}


def _task(name: str, action: Callable[..., Any]) -> TaskDict:
    """A task that always runs and speaks for itself."""
    return {
        "basename": name,
        "actions": [_guard(action)],
        "uptodate": [False],
        "verbosity": 2,
        "io": {"capture": False},
        "meta": {"speaks": True},
    }


def _guard(action: Callable[..., Any]) -> Callable[..., Any]:
    """Our own errors become doit's, without a traceback and with the exit status that they stand for."""

    @functools.wraps(action)
    def guarded(*args: Any, **kwargs: Any) -> Result:
        try:
            return action(*args, **kwargs)
        except FitasksError as error:
            return (TaskFailed if error.exit_status == 1 else TaskError)(str(error))

    return guarded


def _raise(problem: FitasksError) -> Callable[[], None]:
    def action() -> None:
        raise problem

    return action


def _session() -> Session:
    """The one session of this process. Ends the program with status 2 where kernels.yaml is unusable."""
    if not _SESSION:
        try:
            _SESSION.append(Session.load(Path.cwd()))
        except FitasksError as error:
            print(error, file=sys.stderr)  # noqa: T201
            raise SystemExit(error.exit_status) from None
    return _SESSION[0]


def _sound(database: Path) -> None:
    """doit's database is a cache that may be lost; one that can't be read would end the run, so it is removed."""
    import sqlite3

    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("select count(*) from doit").fetchone()
    except sqlite3.OperationalError:
        return  # locked by another doit, or not made yet
    except sqlite3.DatabaseError:
        database.unlink(missing_ok=True)
