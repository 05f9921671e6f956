"""What a user sees, as Markdown: the board, check and doctor on terminals of 80 and 120 columns, and through a pipe.

    python bench/screens.py > docs/screens.md

Run it in a project whose environment is on PATH (`PATH=$PWD/.venv/bin:$PATH`). The kernels it compiles for the board
are compiled anew, in a cache of its own; check and doctor tell of the project's own.
"""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pyte

WIDTHS = (80, 120)
BOARD = ("doit", "quantization", "page")
AFTER = 9.0  # seconds, at which the board is looked at: one compiler at least runs
ASKED = (("doit", "check"), ("doit", "doctor"), ("doit", "doctor", "-v"), ("doit", "list"))
HEAD = """\
# Screens

What commands say on a terminal of 80 columns, on one of 120, and where there is none (CI, `docker build`, a file):
there lines are as long as they need to be. Colours are left out. `python bench/screens.py` makes this page.
"""


def main() -> int:
    """Print the page."""
    print(HEAD)
    print("## The board\n\nOf `doit quantization page`, while it compiles; through a pipe all that it says:\n")
    for width in WIDTHS:
        with tempfile.TemporaryDirectory() as cache:
            _show(f"{width} columns, after {AFTER:.0f} s", on_terminal(BOARD, width, _anew(cache), AFTER))
    with tempfile.TemporaryDirectory() as cache:
        _show("Through a pipe", piped(BOARD, _anew(cache)))
    for command in ASKED:
        print(f"## `{' '.join(command)}`\n")
        for width in WIDTHS:
            _show(f"{width} columns", on_terminal(command, width, dict(os.environ)))
        _show("Through a pipe", piped(command, dict(os.environ)))
    return 0


def _anew(cache: str) -> dict[str, str]:
    """The environment, with nothing compiled yet."""
    return {**os.environ, "FLASHINFER_WORKSPACE_BASE": cache, "FITASKS_STORE": "", "XDG_CACHE_HOME": f"{cache}/own"}


def _show(title: str, text: str) -> None:
    print(f"{title}:\n\n```text\n{text}\n```\n")


def piped(command: tuple[str, ...], env: dict[str, str]) -> str:
    """Both streams, as a log has them."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.rstrip()


def on_terminal(command: tuple[str, ...], columns: int, env: dict[str, str], after: float = 0) -> str:
    """What stands on a terminal at the end, or so many seconds after the first compiler was spoken of."""
    screen = pyte.HistoryScreen(columns, 200)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(command, env=env | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    deadline, read = float("inf"), b""
    while time.monotonic() < deadline or read:  # not in the middle of a drawing
        if (read := _read(ours, process) or b"") == b"" and process.poll() is not None:
            break
        stream.feed(read)
        if after and deadline == float("inf") and any("compiling" in line for line in screen.display):
            deadline = time.monotonic() + after
    shown = "\n".join(line.rstrip() for line in screen.display).rstrip()
    process.terminate()
    while _read(ours, process) is not None:
        pass
    process.wait()
    os.close(ours)
    return shown


def _read(terminal: int, process: subprocess.Popen[bytes]) -> bytes | None:
    """What was written meanwhile, after a tenth of a second at the latest; None at the end."""
    try:
        if select.select([terminal], [], [], 0.1)[0]:
            return os.read(terminal, 65536) or None
    except OSError:  # nobody has it open any more
        return None
    return None if process.poll() is not None else b""


if __name__ == "__main__":
    if not Path("kernels.yaml").exists():
        sys.exit("run it in a project: there is no kernels.yaml here")
    sys.exit(main())
