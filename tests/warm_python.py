"""A Python that has imported something, and forks itself for whoever asks (warm.py starts it).

    python warm_python.py IMPORTS ROOT NAME

Listens on the abstract socket NAME until its standard input ends. Who connects sends environment, directory, words and
three streams, and is told the exit status (negative: a signal); if it goes away before, what runs is killed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

MOST = 1 << 20  # bytes of a question
STREAMS = 3


def main(imports: str, root: str, name: str) -> None:
    """Import, listen, and be what is asked for, in forks."""
    found = sys.path[1:]
    sys.path[0] = root
    gc.disable()
    with contextlib.suppress(ImportError):
        exec(imports)  # noqa: S102 - warm.py's own words
    gc.freeze()
    asked, streams = _asked(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), name)
    env, cwd, words = json.loads(asked)
    _be(env, cwd, words, streams, found)


def _asked(listening: socket.socket, name: str) -> tuple[bytes, list[int]]:
    """The question and the streams of a client, in a fork for it."""
    listening.bind(f"\0{name}")
    listening.listen(64)
    os.write(1, b"listens\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork that waits for its own
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        client, _ = listening.accept()
        with client:
            if not os.fork():
                return _of_client(listening, client)
    os._exit(0)


def _of_client(listening: socket.socket, client: socket.socket) -> tuple[bytes, list[int]]:
    listening.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, streams, _, _ = socket.recv_fds(client, MOST, STREAMS)
    child = os.fork()
    if child:
        _watch(client, child)
    client.close()
    os.setsid()
    return asked, streams


def _watch(client: socket.socket, child: int) -> NoReturn:
    """Until the child ends, which is told, or the client goes away, which ends the child."""
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, client.fileno()], [], [])[0]:
        with contextlib.suppress(ProcessLookupError):  # it doesn't lead its session yet, and is alone
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        client.send(b"%d" % status)
    os._exit(0)


def _be(env: dict[str, str], cwd: str, words: list[str], streams: list[int], found: list[str]) -> None:
    """Run `python words…` in this process."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    way = words.pop(0) if words[0] in ("-c", "-m") else ""
    sys.argv = words
    more = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    sys.path[:] = [cwd if way else str(Path(words[0]).parent), *more, *found]
    if any(Path(path, "sitecustomize.py").exists() for path in more):
        sys.modules.pop("sitecustomize", None)
        __import__("sitecustomize")
    gc.enable()
    if way == "-c":
        text, words[0] = words[0], "-c"
        exec(text, {"__name__": "__main__"})  # noqa: S102 - a test's own words
    elif way == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
