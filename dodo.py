"""fitasks' task graph. `doit list` is the manual; kernels.yaml says what is built.

kernels.yaml ─▶ plan ─▶ kernel:<label> ─▶ cached_ops/<module>/<module>.so, with its receipt
                        check, why          the same kernels, judged and not touched
"""

from collections.abc import Iterator

from fitasks import tasks
from fitasks.tasks import TaskDict

DOIT_CONFIG = tasks.configuration()


def task_kernel() -> Iterator[TaskDict]:
    """compile what is stale or incomplete (default)"""
    yield from tasks.kernels()


def task_cudart() -> TaskDict:
    """show the CUDA toolkit and the libcudart that kernels meet"""
    return tasks.cudart()


def task_check() -> TaskDict:
    """what the server will do with each kernel; exit status 1 if it would compile"""
    return tasks.check()


def task_why() -> TaskDict:
    """why each kernel that isn't fresh isn't (or of some: doit why kernel:page)"""
    return tasks.why()


def task_env() -> TaskDict:
    """print the export lines that the server needs"""
    return tasks.env()


def task_clear_incomplete() -> TaskDict:
    """remove half-built kernels that nobody is building"""
    return tasks.clear_incomplete()


def task_gc() -> TaskDict:
    """shrink the store of finished kernels (--limit, in GB)"""
    return tasks.gc()


def task_reset() -> TaskDict:
    """remove all compiled kernels and generated sources of this plan (asks, or --yes)"""
    return tasks.reset()
