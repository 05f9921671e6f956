"""doit's task dictionaries: one per kernel, and one around each action."""

from __future__ import annotations

import contextlib
import functools
import getopt
import inspect
import io
import os
import signal
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from doit.exceptions import TaskError, TaskFailed

from fitasks.base.errors import EnvironmentProblem, FitasksError, Silent
from fitasks.base.limits import met
from fitasks.base.streams import one_line, shown, silence, tell, whole
from fitasks.base.wording import labelled
from fitasks.compile.pool.schedule import longest_first
from fitasks.cuda.gpus import all_gpus, visible
from fitasks.graph import command as command_line
from fitasks.graph import reporting
from fitasks.graph.listing import TITLE
from fitasks.graph.session import current
from fitasks.graph.uptodate import Fresh
from fitasks.graph.words import NAMES, NOTHING
from fitasks.plan.names import GROUP, PREFIX
from fitasks.processes import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fitasks.graph.session import Session
    from fitasks.plan.kernel import Kernel

TaskDict: TypeAlias = dict[str, Any]
Result: TypeAlias = "dict[str, Any] | TaskFailed | TaskError | None"

DAYS = {"name": "days", "long": "days", "type": int, "default": 30, "help": "keep what was used since, elsewhere"}
DRY_RUN = {"name": "dry_run", "long": "dry-run", "type": bool, "default": False, "help": "only say what would be done"}
FILE = {"name": "file", "short": "f", "long": "file", "type": str, "default": "", "help": "the bundle"}
FORCE = {"name": "force", "long": "force", "type": bool, "default": False, "help": "also what holds already"}
INTO = {
    "name": "into",
    "long": "into",
    "type": str,
    "default": "dist/engines",
    "help": "the directory (default: dist/engines)",
}
JSON = {"name": "json", "long": "json", "type": str, "default": "", "help": "also write it to a file"}
LIMIT = {"name": "limit", "long": "limit", "type": int, "default": 20, "help": "gigabytes to keep"}
REMOTE = {"name": "remote", "long": "remote", "type": bool, "default": False, "help": "the stores elsewhere"}
TRACE = {"name": "trace", "long": "trace", "type": str, "default": "", "help": "compare with what was recorded"}
VERBOSE = {"name": "verbose", "short": "v", "long": "verbose", "type": bool, "default": False, "help": "every row"}
WHEEL = {"name": "wheel", "long": "wheel", "type": bool, "default": False, "help": "make a package of its kernels"}
WRITE = {"name": "write", "long": "write", "type": bool, "default": False, "help": "write kernels.yaml"}
YES = {"name": "yes", "short": "y", "long": "yes", "type": bool, "default": False, "help": "don't ask"}

_COMPILES = "compile what is stale or incomplete (default)"
_DATABASE, _ROOM = "doit.sqlite3", 1 << 20  # bytes that it may need
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
    database = _database(session.root / ".fitasks")
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
    spoken = _with_late_options(action, params, words)
    return _task(action.__name__, action.__doc__ or "", spoken) | {"params": list(params), "pos_arg": words}


def _with_late_options(
    action: Callable[..., None], params: Sequence[dict[str, Any]], words: str
) -> Callable[..., None]:
    """Options count behind a task's words, too (`doit verify page --force`), where doit leaves them among the words."""

    @functools.wraps(action)
    def parsed(**given: Any) -> None:
        if {"--help", "-h"} & set(given.get(words) or []):
            from fitasks.ui.show import help_lines

            print("\n".join(help_lines(action.__name__, action.__doc__ or "", words, params)))  # noqa: T201
            return
        try:
            found, given[words] = _split(given.get(words) or [], params)
        except getopt.GetoptError as error:
            raise EnvironmentProblem(f"{action.__name__}: {error}", remedy=f"doit {action.__name__} --help") from None
        for word, value in found:
            param = next(one for one in params if word in {f"--{one['long']}", f"-{one.get('short')}"})
            given[param["name"]] = _value(action.__name__, param, value)
        if words == NOTHING and (refused := given.pop(words)):
            raise EnvironmentProblem(
                f"doit {action.__name__} takes no names, but was given {' '.join(refused)}",
                remedy=f"doit {action.__name__}",
            )
        action(**given)

    if words == NOTHING:  # doit gives an action only what its signature has
        signature = inspect.signature(action)
        refused = inspect.Parameter(NOTHING, inspect.Parameter.KEYWORD_ONLY)
        vars(parsed)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), refused])
    return parsed


def _value(task: str, param: dict[str, Any], value: str) -> Any:
    """What an option behind a task's words says. Raises EnvironmentProblem for what is no number."""
    if param["type"] is bool:
        return True
    try:
        return param["type"](value)
    except ValueError:
        problem = f"{task}: --{param['long']} takes a whole number, not {value!r}"
        raise EnvironmentProblem(problem, remedy=f"doit {task} --{param['long']} {param['default']}") from None


def _split(words: Sequence[str], params: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return options with their values, and the other words. Raises GetoptError."""
    long = [param["long"] + ("" if param["type"] is bool else "=") for param in params]
    short = "".join(
        param.get("short", "") + ("" if param["type"] is bool else ":") for param in params if "short" in param
    )
    return getopt.gnu_getopt(list(words), short, long)


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
            return [f"{PREFIX}{kernel.label}" for kernel in needed(session.plan.chosen(_split(words, params)[1]))]
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


def _database(state: Path) -> Path | str:
    """doit's database: a cache that may be lost, and is, where this project's state can't be written."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state) as probe:
            probe.write(bytes(_ROOM))
            probe.flush()
        if not os.access(state / _DATABASE, os.F_OK) or os.access(state / _DATABASE, os.W_OK):
            _sound(state / _DATABASE)
            return state / _DATABASE
        problem = "its database is read-only"
    except OSError as error:
        problem = error.strerror or str(error)
    tell(f"{state} can't be written to ({problem}); what this run learns is forgotten")
    return ":memory:"  # sqlite's word for a database that needs no file


def _sound(database: Path) -> None:
    """One that can't be read would end the run, so it is removed."""
    import sqlite3

    if not database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("select count(*) from doit").fetchone()
    except sqlite3.OperationalError:
        return  # locked by another doit, or not made yet
    except sqlite3.DatabaseError:
        database.unlink(missing_ok=True)
