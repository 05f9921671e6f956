"""fitasks' task graph. `doit list` is the manual; kernels.yaml says what is built.

    kernels.yaml ─▶ plan ─▶ kernel:<label> ─▶ cached_ops/<module>/<module>.so, with its receipt
                                │
                             _cudart            the policy of kernels.yaml, once the symbols are known (default)

All other tasks look at the same kernels, or clear up after them; each is a function of fitasks/graph/actions.py.
"""

from collections.abc import Iterator

from fitasks.graph import actions, tasks
from fitasks.graph.tasks import TaskDict

DOIT_CONFIG = tasks.configuration()


def task_kernel() -> Iterator[TaskDict]:
    """compile what is stale or incomplete (default)"""
    yield from tasks.kernels()


def task_libcudart() -> Iterator[TaskDict]:
    """the CUDA runtime library that kernels are linked against, and the one that they will meet"""
    yield tasks.after_all_kernels(actions.apply_cudart_policy, "_cudart")
    yield tasks.command(actions.cudart)
    yield from (tasks.command(action, tasks.DRY_RUN) for action in (actions.patch_cudart, actions.restore_cudart))


def task_server() -> Iterator[TaskDict]:
    """what a server will meet"""
    yield tasks.command(actions.check, tasks.JSON, tasks.TRACE, words="names")
    yield tasks.command(actions.why, words="names")
    yield tasks.on_gpus(actions.verify, tasks.FORCE)
    yield tasks.command(actions.jitlog, words="files")
    yield tasks.command(actions.report, words="names")
    yield from map(tasks.command, (actions.env, actions.install_sm90_switch, actions.uninstall_sm90_switch))
    yield tasks.command(actions.doctor, tasks.JSON)


def task_knowledge() -> Iterator[TaskDict]:
    """what may be written into kernels.yaml, and what should be"""
    yield tasks.command(actions.ops, words="words")
    yield tasks.command(actions.explain_models)
    yield tasks.command(actions.import_trace, tasks.WRITE, words="files")


def task_delivery() -> Iterator[TaskDict]:
    """what leaves this machine"""
    yield from (tasks.after_kernels(actions.wheel, tasks.JSON), tasks.after_kernels(actions.install))
    yield tasks.command(actions.uninstall)
    yield tasks.command(actions.bundle, tasks.FILE, words="names")
    yield tasks.command(actions.unbundle, tasks.FILE, tasks.WHEEL, words="files")


def task_stores() -> Iterator[TaskDict]:
    """finished kernels, here and elsewhere"""
    yield tasks.command(actions.store)
    yield tasks.command(actions.push, words="names")
    yield tasks.command(actions.keygen, words="files")
    yield tasks.command(actions.gc, tasks.LIMIT, tasks.REMOTE, tasks.DAYS)


def task_clearing() -> Iterator[TaskDict]:
    """what may go"""
    yield tasks.command(actions.clear_incomplete)
    yield tasks.command(actions.reset, tasks.YES)
