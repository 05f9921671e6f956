"""Runs a server and notes which kernels its processes ask for: FlashInfer's, and what other toolchains compile.

    python -m fitasks.record -o trace.jsonl -- python -m sglang.launch_server …
    eval "$(python -m fitasks.record -o trace.jsonl --print-env)"        for a server that you don't start yourself

The server may live in another environment: all it gets is a directory on PYTHONPATH, with a sitecustomize.py that
installs the hook (fitasks/serving/record/) and then runs the environment's own. Lines are appended to the trace. With
a command, a process beside the server notes each compiler that runs below it, too, whoever started it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOOK = Path(__file__).parent / "serving" / "record"


def variables(trace: Path, env: Mapping[str, str]) -> dict[str, str]:
    """What a recorded process needs in its environment."""
    paths = [str(HOOK), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    return {"FITASKS_RECORD": str(trace.absolute()), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def main(words: Sequence[str]) -> int:
    """Become the server, or print the variables; the exit status where neither is possible."""
    parser = argparse.ArgumentParser(prog="python -m fitasks.record", description=__doc__, formatter_class=_Formatter)
    parser.add_argument(
        "-o",
        "--output",
        default=Path("trace.jsonl"),
        type=Path,
        help="the trace; lines are appended (default: trace.jsonl)",
    )
    parser.add_argument("--print-env", action="store_true", help="print export lines instead of running a command")
    parser.add_argument("command", nargs="*", help="the server's command, after --")
    wanted = parser.parse_args(words)
    if problem := _unwritable(wanted.output):
        print(f"fitasks.record: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    more = variables(wanted.output, os.environ)
    if wanted.print_env:
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in more.items()))  # noqa: T201
        return 0
    if not wanted.command:
        parser.error("no command; write it after --, e.g. -- python -m sglang.launch_server --model-path …")
    if shutil.which(wanted.command[0]) is None:
        print(f"fitasks.record: {wanted.command[0]}: no such command", file=sys.stderr)  # noqa: T201
        return 127
    _watch(more["FITASKS_RECORD"])
    return _become(wanted.command, os.environ | more)


def _watch(trace: str) -> None:
    """Have the compilers below this process, which is to be the server, noted."""
    command = [sys.executable, "-E", "-s", "-S", str(HOOK / "fitasks_watch.py"), str(os.getpid()), trace]
    none = subprocess.DEVNULL
    subprocess.run(command, stdin=none, stdout=none, stderr=none, check=False, start_new_session=True)


def _become(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Returns only where it cannot be: 126, as shells say."""
    words, variables = list(command), dict(env)
    try:
        os.execvpe(words[0], words, variables)  # noqa: S606 - the user's own command # nosec B606
    except OSError as error:
        print(f"fitasks.record: {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 126


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """The module's text as it is."""


def _unwritable(trace: Path) -> str:
    """Why lines can't be appended to it, "" if they can; better said before a server has started."""
    try:
        with trace.open("ab"):
            return ""
    except OSError as error:
        return f"{trace}: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
