"""`fitasks --workers tcp://scheduler:8786`: this run's kernels are compiled by others."""

from __future__ import annotations

import atexit
import os
import time

from fitasks.base.streams import tell
from fitasks.fleet.fleet import Fleet
from fitasks.graph.session import current
from fitasks.graph.worker import ENTRY


def hire(address: str) -> int:
    """Have this run's kernels made by the workers of a scheduler; how many of them at once.

    Raises EnvironmentProblem where there are none.
    """
    from fitasks.fleet.dask import DaskWorkers

    session, run = current(), f"{os.getpid()}-{time.time_ns()}"
    workers = DaskWorkers(address, session, run, entry=ENTRY, say=tell)
    atexit.register(workers.close)
    session.fleet = Fleet(workers, workers.environment, run)
    workers.listen(session.fleet.told)
    return workers.count()
