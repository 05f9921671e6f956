"""Where a test, or a doit that is itself a fork (warm.py), starts a script of the serving interpreter: a fork, too.

Importing torch is half of what planning costs. A small program takes the script's place: it leads the session that
fitasks has begun, hands on its words, environment, directory and streams, and ends as the script ends; if it is
killed, so is the script.

    python -I -S warm_client.py NAME SCRIPT [WORD ...]
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Name = Callable[[Mapping[str, str]], str]  # of the socket of a Python with torch for this environment, "" for none

NAME = "WARM_SERVING"  # in doit's environment: the socket of a Python with torch that starts as this environment says
_ROOT = Path(__file__).parents[1]
_SCRIPTS = tuple(f"{_ROOT}/fitasks/serving/{directory}/" for directory in ("plan", "loading"))
_WITHOUT_TORCH = ("describe.py",)
_TORCHS = "TORCH", "PYTORCH"  # variables that it reads when it is imported


def main(name: str, *words: str) -> int:
    """Have it run; its exit status, or its signal."""
    status = have_run(name, words, Path.cwd(), os.environ, [0, 1, 2])
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def have_run(
    name: str,
    words: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    streams: list[int],
    *,
    timeout: float | None = None,
) -> int:
    """Have `python words…` run by the Python that listens there; its exit status, of one that has gone away SIGKILL's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.settimeout(timeout)
        asking.connect(f"\0{name}")
        socket.send_fds(asking, [json.dumps([dict(env), str(cwd), list(words)]).encode()], streams)
        return int(asking.recv(100) or -signal.SIGKILL)


def install(name_for: Name = lambda env: env.get(NAME, "")) -> None:
    """From now on subprocess.Popen starts the small program in place of such scripts."""
    start = subprocess.Popen.__init__

    def init(self: subprocess.Popen[bytes], command: Any, *words: Any, **more: Any) -> None:
        env = more.get("env") or {}
        start(self, instead(command, env, name_for) if "user" not in more else command, *words, **more)

    subprocess.Popen.__init__ = init  # type: ignore[method-assign,assignment]


def instead(command: Sequence[str], env: Mapping[str, str], name_for: Name) -> Sequence[str]:
    """The command, by way of a Python with torch if it runs such a script with an environment that starts it alike."""
    if isinstance(command, str) or len(command) < 2 or command[0] != sys.executable:
        return command
    script = str(command[1])
    if not script.startswith(_SCRIPTS) or script.endswith(_WITHOUT_TORCH) or not _torch_starts_alike(env):
        return command
    name = name_for(env)
    return [command[0], "-I", "-S", __file__, name, *command[1:]] if name else command


def starts_alike(env: Mapping[str, str], *but: str, more: tuple[str, ...] = ()) -> bool:
    """Whether a Python here has the same locale, loader and switches, and what begins with `more`; all without `but`."""
    before = "LANG", "LC_", "LD_", "PYTHON", *more
    names = {one for one in {*os.environ, *env} if one.startswith(before)} - {"PYTHONPATH", "PYTHONHASHSEED", *but}
    return all(os.environ.get(one) == env.get(one) for one in names)


def _torch_starts_alike(env: Mapping[str, str]) -> bool:
    return starts_alike(env, more=_TORCHS) and env.get("PYTHONPATH", "") in ("", str(_ROOT))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
