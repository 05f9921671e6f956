"""`dask worker --preload fitasks.worker`: a worker that gets ready before it is asked, and leaves at once."""

from __future__ import annotations

import asyncio
import threading

import dask

from fitasks.graph.worker import prepare
from fitasks.processes import sessions

# Dask would look every 10 ms at where our threads wait: 0.68 CPU seconds in 10 s of two such threads, 0.33 without.
dask.config.set({"distributed.worker.profile.enabled": False})


def dask_setup(_worker: object) -> None:
    """Called by Dask, which gives up a worker that isn't there in time: a plan that is made anew may take a minute."""
    threading.Thread(target=prepare, name="prepare", daemon=True).start()


async def dask_teardown(_worker: object) -> None:
    """Called by Dask when the worker ends: nobody would take what its compilers make."""
    await asyncio.to_thread(sessions.stop_all)
