"""fitasks' task graph. `doit list` is the manual; kernels.yaml says what is built.

    kernels.yaml ─▶ plan ─▶ kernel:<label> ─▶ cached_ops/<module>/<module>.so, with its receipt
                                │
                             _cudart            the policy of kernels.yaml, once the symbols are known (default)

A project's dodo.py is `from fitasks.dodo import *`; `python -m fitasks` needs none. All other tasks look at the same
kernels, or clear up after them; each is a function of fitasks/graph/actions.py.
"""

from collections.abc import Iterator

from fitasks.graph import actions, tasks
from fitasks.graph.tasks import TaskDict

__all__ = ["DOIT_CONFIG", "task_ask", "task_build", "task_deliver", "task_know", "task_repair", "task_share"]

DOIT_CONFIG = tasks.configuration()


@tasks.group
def task_build() -> Iterator[TaskDict]:
    """build: `doit` compiles what isn't fresh, `doit page 'prefill*'` some of it"""
    yield from tasks.kernels()
    yield tasks.after_all_kernels(actions.apply_cudart_policy, "_cudart")


@tasks.group
def task_ask() -> Iterator[TaskDict]:
    """ask: what a server will do, and why"""
    yield tasks.command(actions.check, tasks.JSON, tasks.TRACE, words="names")
    yield tasks.command(actions.why, words="names")
    yield tasks.command(actions.doctor, tasks.JSON)
    yield tasks.on_gpus(actions.verify, tasks.FORCE)
    yield tasks.command(actions.env)
    yield tasks.command(actions.report, words="names")
    yield tasks.command(actions.jitlog, words="files")
    yield tasks.command(actions.cudart)


@tasks.group
def task_deliver() -> Iterator[TaskDict]:
    """deliver: kernels for other machines and images"""
    yield from (tasks.after_kernels(actions.wheel, tasks.JSON), tasks.after_kernels(actions.install))
    yield tasks.command(actions.uninstall)
    yield tasks.after_kernels(actions.deliver, tasks.INTO)
    yield tasks.command(actions.bundle, tasks.FILE, words="names")
    yield tasks.command(actions.unbundle, tasks.FILE, tasks.WHEEL, words="files")


@tasks.group
def task_share() -> Iterator[TaskDict]:
    """share: finished kernels, here and in stores elsewhere"""
    yield tasks.command(actions.store)
    yield tasks.command(actions.push, words="names")
    yield tasks.command(actions.keygen, words="files")
    yield tasks.command(actions.gc, tasks.LIMIT, tasks.REMOTE, tasks.DAYS)


@tasks.group
def task_know() -> Iterator[TaskDict]:
    """know: what belongs into kernels.yaml"""
    yield tasks.command(actions.ops, words="words")
    yield tasks.command(actions.explain_models)
    yield tasks.command(actions.import_trace, tasks.WRITE, words="files")


@tasks.group
def task_repair() -> Iterator[TaskDict]:
    """repair: caches and the serving environment"""
    yield tasks.command(actions.clear_incomplete)
    yield tasks.command(actions.reset, tasks.YES)
    yield from (tasks.command(action, tasks.DRY_RUN) for action in (actions.patch_cudart, actions.restore_cudart))
    yield from map(tasks.command, (actions.install_sm90_switch, actions.uninstall_sm90_switch))
