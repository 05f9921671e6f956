"""fitasks' task graph. `doit list` is the manual; kernels.yaml says what is built.

    kernels.yaml ─▶ plan ─▶ kernel:<label> ─▶ cached_ops/<module>/<module>.so, with its receipt
                                │
                             _cudart            the policy of kernels.yaml, once the symbols are known (default)

A project's dodo.py is `from fitasks.dodo import *`; `python -m fitasks` needs none. All other tasks look at the same
kernels, or clear up after them; each is a function of fitasks/graph/actions/.
"""

from collections.abc import Iterator

from fitasks.graph import options, tasks
from fitasks.graph.actions import ask, build, deliver, know, repair, share
from fitasks.graph.tasks import TaskDict

__all__ = ["DOIT_CONFIG", "task_ask", "task_build", "task_deliver", "task_know", "task_repair", "task_share"]

DOIT_CONFIG = tasks.configuration()


@tasks.group
def task_build() -> Iterator[TaskDict]:
    """build: `doit` compiles what isn't fresh, `doit page 'prefill*'` some of it"""
    yield from tasks.kernels()
    yield tasks.after_all_kernels(build.apply_cudart_policy, "_cudart")


@tasks.group
def task_ask() -> Iterator[TaskDict]:
    """ask: what a server will do, and why"""
    yield tasks.command(ask.check, options.JSON, options.TRACE, options.VERBOSE, words="names")
    yield tasks.command(ask.why, options.VERBOSE, words="names")
    yield tasks.command(ask.doctor, options.JSON, options.VERBOSE)
    yield tasks.on_gpus(ask.verify, options.FORCE)
    yield tasks.command(ask.env)
    yield tasks.command(ask.report, words="names")
    yield tasks.command(ask.jitlog, words="files")
    yield tasks.command(ask.cudart)


@tasks.group
def task_deliver() -> Iterator[TaskDict]:
    """deliver: kernels for other machines and images"""
    yield tasks.after_kernels(deliver.wheel, options.JSON, packaged=True)
    yield tasks.after_kernels(deliver.install, packaged=True)
    yield tasks.command(deliver.uninstall)
    yield tasks.after_kernels(deliver.deliver, options.INTO, packaged=False)
    yield tasks.command(deliver.bundle, options.FILE, words="names")
    yield tasks.command(deliver.unbundle, options.FILE, options.WHEEL, words="files")


@tasks.group
def task_share() -> Iterator[TaskDict]:
    """share: finished kernels, here and in stores elsewhere"""
    yield tasks.command(share.store)
    yield tasks.command(share.push, words="names")
    yield tasks.command(share.keygen, words="files")
    yield tasks.command(share.gc, options.LIMIT, options.REMOTE, options.DAYS)


@tasks.group
def task_know() -> Iterator[TaskDict]:
    """know: what belongs into kernels.yaml"""
    yield tasks.command(know.ops, words="words")
    yield tasks.command(know.explain_models)
    yield tasks.command(know.import_trace, options.WRITE, words="files")


@tasks.group
def task_repair() -> Iterator[TaskDict]:
    """repair: caches and the serving environment"""
    yield tasks.command(repair.clear_incomplete)
    yield tasks.command(repair.reset, options.YES)
    yield from (tasks.command(action, options.DRY_RUN) for action in (repair.patch_cudart, repair.restore_cudart))
    yield from map(tasks.command, (repair.install_sm90_switch, repair.uninstall_sm90_switch))
