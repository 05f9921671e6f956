"""One process of the serving interpreter on one GPU, asked line by line (see fitasks/serving/verify/verify.py)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.answers import Proven, Ready, checked
from fitasks.base.border import parse_json
from fitasks.base.errors import BadInput
from fitasks.processes.interpreter import SCRIPTS, TIMEOUT
from fitasks.processes.process import ended, last_lines
from fitasks.processes.sessions import LIMIT, OWN

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPT = SCRIPTS / "verify" / "verify.py"


class WorkerError(Exception):
    """The process could not be started, died, or did not answer in time; the message says what it said last."""


def _parsed(line: bytes) -> Any:
    """A kernel that is wrong may have an error of Infinity, or NaN."""
    return parse_json(line.decode(errors="replace"), "it", finite=False)


class Worker:
    """A context of one GPU. `ready` is what it said of itself: gpu, torch, flashinfer.

    It leads a session of its own, which ends with this process, however that ends (fitasks/processes/sessions.py).
    """

    def __init__(self, python: Path, env: Mapping[str, str], log: Path) -> None:
        """Start it and wait until it is ready; what it says is added to `log`. Raises WorkerError, OSError."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        pipe = subprocess.PIPE
        with log.open("ab") as stream:
            begun = OWN.start([str(python), str(SCRIPT)], Path.cwd(), env, stdin=pipe, stdout=pipe, stderr=stream)
        if begun is None:
            raise WorkerError("all is to stop")
        self._process = begun
        os.set_blocking(begun.stdin.fileno(), False)  # type: ignore[union-attr]  # a pipe was asked for
        self._received = bytearray()
        first = self._greeting()
        if "fatal" in first:
            self.close()
            raise WorkerError(str(first["fatal"]))
        self.ready: dict[str, str] = first["ready"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, object], seconds: float) -> dict[str, Any]:
        """The answer. Raises WorkerError where there is none within `seconds`; the process is gone then."""
        deadline = time.monotonic() + seconds
        self._send(json.dumps(request).encode() + b"\n", deadline, seconds)
        line = self._line(deadline, seconds)
        try:
            return dict(checked(_parsed(line), Proven))
        except BadInput:
            raise WorkerError(self._end(f"it answered {line[:200]!r}")) from None

    def close(self) -> None:
        """End the process and whatever it has started. One that can't be killed (a GPU that hangs) is left behind."""
        if self._process.returncode is not None:
            return
        OWN.end(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LIMIT)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _greeting(self) -> dict[str, Any]:
        """Its first own word. What an interpreter's start prints before it (sitecustomize, .pth) goes to the log."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            line = self._line(deadline, TIMEOUT)
            with contextlib.suppress(BadInput):
                first = _parsed(line)
                if isinstance(first, dict) and "ready" in first:
                    return {"ready": checked(first["ready"], Ready)}
                if isinstance(first, dict) and "fatal" in first:
                    return first
            with self._log.open("ab") as stream:
                stream.write(line + b"\n")

    def _send(self, data: bytes, deadline: float, seconds: float) -> None:
        """Also to a process that reads slowly, or not at all: a request is longer than a pipe."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for # nosec B101
        descriptor = self._process.stdin.fileno()
        while data:
            if not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
                raise WorkerError(self._end(f"it read no request within {seconds:.0f} s"))
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # less room than the whole of a small request
                time.sleep(0.01)
            except OSError:
                raise WorkerError(self._end("it is gone")) from None

    def _line(self, deadline: float, seconds: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for # nosec B101
        descriptor, seen = self._process.stdout.fileno(), 0
        while (end := self._received.find(b"\n", seen)) < 0:
            seen = len(self._received)
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise WorkerError(self._end(f"no answer within {seconds:.0f} s"))
            if not (chunk := os.read(descriptor, 65536)):
                raise WorkerError(self._end("it ended"))
            self._received += chunk
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _end(self, what: str) -> str:
        """What happened, with the exit status and the last words of the log."""
        self.close()
        status = self._process.returncode
        if status is None:
            return f"{what}, and can't be killed"
        last = last_lines(self._log, 1)
        return f"{what} ({ended(status)})" + (f": {last[0][:300]}" if last and status != -signal.SIGKILL else "")
