"""GPUs as a pool: one worker process each, kernels leased longest first, a failing GPU costs a retry and no more.

An answer about the kernel is final. Trouble with the GPU or its process (out of memory, an error of CUDA, a dead or
silent worker) ends that process, since its context may be poisoned; the kernel is tried once more, on another GPU where
there is one that fits. A GPU on which no worker starts twice in a row is left out from then on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fitasks.cuda.gpus import Gpu

_TRIES = 2
_STARTS = 2


class Workerlike(Protocol):
    """What the pool needs of a worker; fitasks/verify/worker.py has the real one."""

    ready: dict[str, str]

    def ask(self, request: Mapping[str, object], seconds: float) -> dict[str, Any]: ...

    def close(self) -> None: ...


@dataclass
class Job:
    """One kernel to prove on a GPU of one capability, in a process for `target`."""

    label: str
    target: str
    capability: str
    weight: float  # heaviest first
    request: Mapping[str, object]
    troubles: list[tuple[Gpu, str]] = field(default_factory=list)  # what happened where

    @property
    def history(self) -> str:
        return "; ".join(f"GPU {gpu.label}: {what}" for gpu, what in self.troubles)


@dataclass(frozen=True)
class Result:
    """A job's end. `outcome` as in fitasks/serving/verify/verify.py, or "gpu" where no GPU could tell."""

    job: Job
    gpu: Gpu | None
    outcome: str
    answer: Mapping[str, Any]
    ready: Mapping[str, str]
    message: str = ""


class GpuPool:
    """`start(gpu, target)` makes a worker or raises an Exception; `timeout` is in seconds for one kernel."""

    def __init__(
        self,
        gpus: Sequence[Gpu],
        start: Callable[[Gpu, str], Workerlike],
        *,
        say: Callable[[str], None],
        done: Callable[[Result], None],
        timeout: float = 300.0,
    ) -> None:
        self._gpus, self._start, self._say, self._done, self._timeout = tuple(gpus), start, say, done, timeout
        self._turn = threading.Condition()
        self._queue: list[Job] = []
        self._leased = 0
        self._alive = set(gpus)
        self._error: Exception | None = None  # of `say` or `done`: a full disk, a closed pipe

    def run(self, jobs: Sequence[Job]) -> None:
        """Prove all; `done` is called once for each job, from any thread, also from several at once.

        What `done` or `say` raises ends the run, and is raised.
        """
        self._queue = sorted(jobs, key=lambda job: job.weight, reverse=True)
        threads = [
            threading.Thread(target=self._serve, args=(gpu,), name=f"GPU {gpu.label}", daemon=True)
            for gpu in self._gpus
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error:
            raise self._error
        for job in self._queue:
            self._done(Result(job, None, "gpu", {}, {}, job.history or f"no GPU of {job.capability} is left"))
        self._queue = []

    def _serve(self, gpu: Gpu) -> None:
        """One GPU's life; an exception of our own callers ends that of every GPU."""
        try:
            self._work(gpu)
        except Exception as error:  # noqa: BLE001 - raised again by `run`
            with self._turn:
                self._error = self._error or error
                self._turn.notify_all()

    def _work(self, gpu: Gpu) -> None:
        """Lease, prove, give back what went wrong, until nothing is left that it could do."""
        worker: Workerlike | None = None
        target, failed_starts = "", 0
        try:
            while job := self._lease(gpu, target):
                if worker is None or job.target != target:
                    if worker is not None:
                        worker.close()
                    worker, target = self._started(gpu, job), job.target
                    if worker is None:
                        failed_starts += 1
                        if failed_starts == _STARTS:
                            self._retire(gpu)
                            return
                        continue
                failed_starts = 0
                if not self._prove(gpu, worker, job):
                    worker.close()
                    worker = None
        finally:
            if worker is not None:
                worker.close()

    def _started(self, gpu: Gpu, job: Job) -> Workerlike | None:
        """A fresh process; where none starts, the job goes back, and that is no mark against it."""
        try:
            return self._start(gpu, job.target)
        except Exception as error:  # noqa: BLE001 - whatever it is, other GPUs go on
            self._give_back(job)
            self._say(f"GPU {gpu.label}: no worker starts: {error}")
            return None

    def _prove(self, gpu: Gpu, worker: Workerlike, job: Job) -> bool:
        """Whether the worker may go on."""
        try:
            answer = worker.ask(job.request, self._timeout)
            outcome, message, _ = answer["outcome"], answer["message"], answer["checks"]
        except KeyError as error:
            answer, outcome, message = {}, "gpu", f"its answer has no {error}"
        except Exception as error:  # noqa: BLE001 - as above
            answer, outcome, message = {}, "gpu", str(error) or type(error).__name__
        if outcome != "gpu":
            self._end(Result(job, gpu, outcome, answer, worker.ready, message))
            return True
        job.troubles.append((gpu, message))
        if len(job.troubles) < _TRIES:
            self._give_back(job)
            self._say(f"{job.label}: GPU {gpu.label}: {message}; once more, in a fresh process")
        else:
            self._end(Result(job, gpu, "gpu", answer, worker.ready, job.history))
        return False

    def _lease(self, gpu: Gpu, target: str) -> Job | None:
        """The next job for this GPU, of the same target if there is one; waits while there might be one for it yet.

        That is, while others prove what they may give back, or haven't begun what is meant for them and may fail to.
        """
        with self._turn:
            while not self._error:
                left = [job for job in self._queue if job.capability == gpu.capability]
                if fitting := [job for job in left if self._may(gpu, job)]:
                    job = next((job for job in fitting if job.target == target), fitting[0])
                    self._queue.remove(job)
                    self._leased += 1
                    return job
                if not left and not self._leased:
                    return None
                self._turn.wait()
            return None

    def _may(self, gpu: Gpu, job: Job) -> bool:
        """A job that had trouble on this GPU is for another one, where a living one fits."""
        tried = {tried for tried, _ in job.troubles}
        return gpu not in tried or not {one for one in self._alive - tried if one.capability == job.capability}

    def _give_back(self, job: Job) -> None:
        with self._turn:
            self._queue.insert(0, job)
            self._leased -= 1
            self._turn.notify_all()

    def _retire(self, gpu: Gpu) -> None:
        with self._turn:
            self._alive.discard(gpu)
            self._turn.notify_all()
        self._say(f"GPU {gpu.label} is left out")

    def _end(self, result: Result) -> None:
        with self._turn:
            self._leased -= 1
            self._turn.notify_all()
        self._done(result)
