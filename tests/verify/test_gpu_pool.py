"""Scheduling, retries, poisoned workers and unequal GPUs, with workers that are no processes; and two that are."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fitasks.cuda.gpus import Gpu, usable, visible
from fitasks.verify import worker as workers
from fitasks.verify.pool import GpuPool, Job, Result
from fitasks.verify.worker import Worker, WorkerError

GB = 10**9


def gpu(index: int, capability: str = "9.0", free: int = 80 * GB, instance: int | None = None) -> Gpu:
    return Gpu(index, f"GPU-{index}{instance or ''}", "H100", capability, 80 * GB, free, instance)


class Fake:
    """A worker whose answers are scripted by label: an outcome, or an exception to raise."""

    def __init__(self, host: Host, on: Gpu, target: str) -> None:
        self.host, self.gpu, self.target = host, on, target
        self.ready = {"gpu": on.name, "torch": "2", "flashinfer": "0.7"}
        self.poisoned = False

    def ask(self, request: Any, seconds: float) -> dict[str, Any]:
        self.host.misused += self.poisoned  # a context that may be poisoned
        label = request["id"]
        with self.host.lock:
            self.host.asked.append((label, self.gpu.label))
            script = self.host.script.get((label, self.gpu.label)) or self.host.script.get((label, "*")) or []
            told = script.pop(0) if script else "numerical"
        time.sleep(self.host.seconds)
        if self.host.meeting:
            self.host.meeting.wait(timeout=60)
        if isinstance(told, Exception):
            self.poisoned = True
            raise told
        self.poisoned = told == "gpu"
        return {"outcome": told, "message": "" if told == "numerical" else f"said {told}", "checks": []}

    def close(self) -> None:
        self.host.closed += 1


class Host:
    def __init__(self, *gpus: Gpu, seconds: float = 0.0) -> None:
        self.gpus, self.seconds = gpus, seconds
        self.meeting: threading.Barrier | None = None  # at which as many kernels as it has parties must be at work
        self.script: dict[tuple[str, str], list[Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.started: list[str] = []
        self.broken: set[str] = set()
        self.closed = self.misused = 0
        self.said: list[str] = []
        self.lock = threading.Lock()

    def start(self, on: Gpu, target: str) -> Fake:
        with self.lock:
            self.started.append(f"{on.label} for {target}")
        if on.label in self.broken:
            raise WorkerError("fallen off the bus")
        return Fake(self, on, target)

    def run(self, *jobs: Job) -> dict[str, Result]:
        results: list[Result] = []
        GpuPool(self.gpus, self.start, say=self.said.append, done=results.append).run(jobs)
        assert sorted(result.job.label for result in results) == sorted(job.label for job in jobs), "each once"
        return {result.job.label: result for result in results}


def job(label: str, weight: float = 1, capability: str = "9.0", target: str = "9.0a") -> Job:
    return Job(label, target, capability, weight, {"id": label})


def test_longest_first_on_one_process() -> None:
    host = Host(gpu(0))
    host.run(job("a", 1), job("c", 3), job("b", 2))
    assert [label for label, _ in host.asked] == ["c", "b", "a"]
    assert host.started == ["0 for 9.0a"]
    assert host.closed == 1


def test_all_gpus_work_at_once() -> None:
    host = Host(*(gpu(index) for index in range(4)))
    host.meeting = threading.Barrier(4)
    results = host.run(*(job(str(number)) for number in range(8)))
    assert {result.outcome for result in results.values()} == {"numerical"}, "four at a time, or the meeting fails"
    assert sorted(where for _, where in host.asked) == ["0", "0", "1", "1", "2", "2", "3", "3"]


def test_wrong_numbers_are_final() -> None:
    host = Host(gpu(0), gpu(1))
    host.script["a", "*"] = ["failed"]
    assert host.run(job("a"))["a"].outcome == "failed"
    assert len(host.asked) == 1


@pytest.mark.parametrize("trouble", ["gpu", WorkerError("killed by signal 9"), TimeoutError("no answer")])
def test_trouble_costs_a_retry_on_another_gpu_in_a_fresh_process(trouble: Any) -> None:
    host = Host(gpu(0), gpu(1), seconds=0.1)
    host.script["a", "*"] = [trouble]
    results = host.run(job("a", 9), *(job(str(number)) for number in range(6)))
    assert {result.outcome for result in results.values()} == {"numerical"}
    first, second = (where for label, where in host.asked if label == "a")
    assert first != second
    assert sorted(host.started) == sorted([f"{first} for 9.0a"] * 2 + [f"{second} for 9.0a"])
    assert host.misused == 0


def test_trouble_on_two_gpus_is_the_kernels() -> None:
    host = Host(gpu(0), gpu(1))
    host.script["a", "0"] = ["gpu"]
    host.script["a", "1"] = ["gpu"]
    result = host.run(job("a"), job("b"))["a"]
    assert result.outcome == "gpu"
    assert {where for label, where in host.asked if label == "a"} == {"0", "1"}
    assert sorted(result.message.split("; ")) == ["GPU 0: said gpu", "GPU 1: said gpu"]


def test_with_one_gpu_the_retry_is_there() -> None:
    host = Host(gpu(0))
    host.script["a", "0"] = [WorkerError("it ended")]
    assert host.run(job("a"))["a"].outcome == "numerical"
    assert host.started == ["0 for 9.0a", "0 for 9.0a"]
    assert host.said == ["a: GPU 0: it ended; once more, in a fresh process"]


def test_a_gpu_without_a_worker_is_left_out_and_costs_no_kernel_a_try() -> None:
    host = Host(gpu(0), gpu(1), seconds=0.1)
    host.broken = {"0"}
    host.script["a", "1"] = ["gpu"]  # its one retry is still to be had, on the same GPU
    results = host.run(job("a"), job("b"), job("c"), job("d"))
    assert {result.outcome for result in results.values()} == {"numerical"}
    assert {where for _, where in host.asked} == {"1"}
    assert "GPU 0 is left out" in host.said
    assert host.started.count("0 for 9.0a") == 2


def test_what_is_meant_for_a_gpu_that_does_not_start_is_tried_again_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPU 0 has had trouble and leaves the retry to GPU 1, which then doesn't start at all."""
    host = Host(gpu(0), gpu(1), seconds=0.02)
    host.script["a", "0"] = host.script["b", "0"] = ["gpu"]
    troubled = threading.Event()

    def start(on: Gpu, target: str) -> Fake:
        if on.label == "1":
            troubled.wait(30)
            raise WorkerError("no context")
        return Fake(host, on, target)

    def say(text: str) -> None:
        host.said.append(text)
        if "once more" in text:
            troubled.set()

    results: list[Result] = []
    GpuPool(host.gpus, start, say=say, done=results.append).run([job("a", 2), job("b", 1)])
    assert {result.job.label: result.outcome for result in results} == {"a": "numerical", "b": "numerical"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_error_of_whoever_listens_ends_the_run_and_is_raised(count: int) -> None:
    """As a full disk or a closed pipe: nothing hangs, nothing is silently lost."""
    for name in ("say", "done"):
        host = Host(*(gpu(index) for index in range(count)))
        host.script["a", "*"] = ["gpu"]

        def full(_told: Any) -> None:
            raise OSError(28, "No space left on device")

        listeners: dict[str, Any] = {"say": host.said.append, "done": lambda _result: None} | {name: full}
        with pytest.raises(OSError, match="No space left"):
            GpuPool(host.gpus, host.start, **listeners).run([job(label) for label in "abcdef"])
        assert host.closed == len(host.started), "every process is ended"


def test_no_gpu_left() -> None:
    host = Host(gpu(0))
    host.broken = {"0"}
    result = host.run(job("a"), job("b"))["b"]
    assert (result.outcome, result.gpu, result.message) == ("gpu", None, "no GPU of 9.0 is left")


def test_unequal_gpus_get_what_is_compiled_for_them() -> None:
    host = Host(gpu(0, "8.0"), gpu(1, "9.0"), gpu(2, "9.0"))
    jobs = [job(f"{label}-{capability}", capability=capability) for label in "abc" for capability in ("8.0", "9.0")]
    host.run(*jobs)
    assert {where for label, where in host.asked if label.endswith("8.0")} == {"0"}
    assert {where for label, where in host.asked if label.endswith("9.0")} <= {"1", "2"}


def test_a_process_serves_one_target() -> None:
    host = Host(gpu(0))
    host.run(job("a", 3, target="9.0a"), job("b", 2, target="8.0 9.0a"), job("c", 1, target="9.0a"))
    assert [label for label, _ in host.asked] == ["a", "c", "b"], "the process that is there is used first"
    assert host.started == ["0 for 9.0a", "0 for 8.0 9.0a"]


def test_many_kernels_and_much_trouble_end() -> None:
    host = Host(*(gpu(index) for index in range(3)))
    for number in range(0, 100, 3):
        host.script[str(number), "0"] = ["gpu"]
        host.script[str(number), "1"] = [WorkerError("it ended")]
    results = host.run(*(job(str(number), number) for number in range(100)))
    assert len(results) == 100
    assert all(results[str(number)].outcome == "numerical" for number in range(100) if number % 3)


def test_a_busy_gpu_is_not_used() -> None:
    found, refused = usable([gpu(0, free=GB), gpu(1)], {}, 4 * GB)
    assert found == (gpu(1),)
    assert refused == ((gpu(0, free=GB), "1.0 GB of 80 are free, 4.0 needed"),)


def test_instances_of_a_divided_gpu() -> None:
    host = [gpu(0, instance=0), gpu(0, instance=1), gpu(1)]
    assert [one.label for one in host] == ["0.0", "0.1", "1"]
    assert visible(host, {"CUDA_VISIBLE_DEVICES": "1,0"}) == (gpu(1), gpu(0, instance=0))
    assert visible(host, {"CUDA_VISIBLE_DEVICES": "GPU-01"}) == (gpu(0, instance=1),)


SCRIPT = """
import json, os, sys, time
print(json.dumps({"ready": {"gpu": "fake", "torch": "2", "flashinfer": "0.7"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["id"] == "die":
        os._exit(7)
    if request["id"] == "sleep":
        time.sleep(60)
    if request["id"] == "garbage":
        print("no JSON", flush=True)
    print(json.dumps({"id": request["id"], "outcome": "numerical", "message": "", "checks": []}), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(SCRIPT)
    monkeypatch.setattr(workers, "SCRIPT", path)
    return path


def real(tmp_path: Path) -> Worker:
    return Worker(Path(sys.executable), os.environ, tmp_path / "log")


def test_a_process_answers_and_is_gone_after_close(script: Path, tmp_path: Path) -> None:
    worker = real(tmp_path)
    assert worker.ask({"id": "page"}, 10)["outcome"] == "numerical"
    worker.close()
    assert not Path(f"/proc/{worker.pid}").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("die", "it ended (exit status 7)"),
        ("sleep", "no answer within 0 s (killed by signal 9)"),
        ("garbage", "it answered b'no JSON' (killed by signal 9)"),
    ],
)
def test_a_process_that_misbehaves_is_ended(script: Path, tmp_path: Path, what: str, said: str) -> None:
    worker = real(tmp_path)
    with pytest.raises(WorkerError) as caught:
        worker.ask({"id": what}, 0.3)
    assert str(caught.value) == said
    assert not Path(f"/proc/{worker.pid}").exists()


def test_a_worker_killed_in_the_middle_loses_nothing(script: Path, tmp_path: Path) -> None:
    """kill -9 of a real process that is working: its kernel is proven by the next one."""
    begun: list[Worker] = []

    def start(on: Gpu, target: str) -> Worker:
        begun.append(real(tmp_path))
        return begun[-1]

    def kill() -> None:
        while not begun:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(begun[0].pid, signal.SIGKILL)

    results: list[Result] = []
    said: list[str] = []
    script.write_text(SCRIPT.replace('if request["id"] == "sleep"', 'if not os.path.exists(sys.argv[0] + ".once")'))
    script.write_text(script.read_text().replace("time.sleep(60)", 'open(sys.argv[0] + ".once", "w"); time.sleep(60)'))
    threading.Thread(target=kill).start()
    GpuPool([gpu(0)], start, say=said.append, done=results.append).run([job("a"), job("b")])
    assert sorted((result.job.label, result.outcome) for result in results) == [("a", "numerical"), ("b", "numerical")]
    assert said == ["a: GPU 0: it ended (killed by signal 9); once more, in a fresh process"]


def test_what_an_interpreters_start_prints_is_no_answer(script: Path, tmp_path: Path) -> None:
    script.write_text(f"print('Welcome to our image')\nprint('{{}}')\n{SCRIPT}")
    worker = real(tmp_path)
    assert worker.ask({"id": "page"}, 10)["outcome"] == "numerical"
    worker.close()
    assert (tmp_path / "log").read_text() == "Welcome to our image\n{}\n"


def test_the_limit_holds_while_a_long_request_is_sent(script: Path, tmp_path: Path) -> None:
    worker = real(tmp_path)
    worker._send(b'{"id": "sleep"}\n', time.monotonic() + 1, 1)
    begin = time.monotonic()
    with pytest.raises(WorkerError, match="it read no request within 0 s"):
        worker.ask({"id": "page", "ninja": "x" * 1_000_000}, 0.4)
    assert time.monotonic() - begin < 5
    assert not Path(f"/proc/{worker.pid}").exists()


def test_a_request_longer_than_a_pipe_arrives(script: Path, tmp_path: Path) -> None:
    worker = real(tmp_path)
    assert worker.ask({"id": "page", "ninja": "x" * 1_000_000}, 10)["id"] == "page"
    worker.close()


@pytest.mark.parametrize("answer", [{"outcome": "numerical", "message": ""}, {}, [], None, 3])
def test_an_answer_that_lacks_something_costs_a_retry(answer: Any) -> None:
    class Mute(Fake):
        def ask(self, request: Any, seconds: float) -> Any:
            return answer

    results: list[Result] = []
    host = Host(gpu(0))
    GpuPool(host.gpus, lambda on, target: Mute(host, on, target), say=host.said.append, done=results.append).run(
        [job("a")]
    )
    assert [result.outcome for result in results] == ["gpu"]


def test_an_interpreter_that_cannot_start(tmp_path: Path, script: Path) -> None:
    script.write_text(f"print({json.dumps(json.dumps({'fatal': 'no CUDA driver'}))})")
    with pytest.raises(WorkerError, match="no CUDA driver"):
        real(tmp_path)
