"""`python -m fitasks`: doit with the tasks of fitasks/dodo.py, for the kernels.yaml of the working directory.

It needs no dodo.py, and has what comes before one: `init`, --help, --version, the path of the Makefile's part.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.cmd_base import NamespaceTaskLoader
from doit.doit_cmd import DoitMain

from fitasks.base.errors import FitasksError
from fitasks.graph.command import List, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

MAKEFILE = Path(__file__).parent.parent / "kernels.mk"
_HELP = """\
fitasks compiles the CUDA kernels of an LLM server before they are needed, and says what the server will then do.

  {name} init              write kernels.yaml and dodo.py into this directory (init --help)
  {name}                   compile what kernels.yaml names and isn't fresh
  {name} page 'prefill*'   some of it
  {name} check             what the server will do with each kernel
  {name} list              the kernels with their state, then all tasks
  {name} doctor            what is wrong with this machine
  {name} help TASK         a task's options; also TASK --help
  {name} makefile          the path of targets for a Makefile to include
  python -m fitasks.record         run a server and note what it asks for

Where dodo.py is, `doit` is the same as `{name}`. Kernels of another directory: cd there first.
"""


class Loader(NamespaceTaskLoader):  # type: ignore[misc]  # doit has no types
    """Loads the tasks of fitasks/dodo.py, once it is known that a command needs them: to load them is to plan."""

    cmd_options = ()

    def setup(self, _options: Any) -> None:
        """Called by doit before anything of the namespace is asked for."""
        self.namespace = dict(inspect.getmembers(importlib.import_module("fitasks.dodo")))


class Main(DoitMain):  # type: ignore[misc]
    """doit, with `run` and `list` of ours."""

    BIN_NAME = "fitasks"
    DOIT_CMDS = (*(one for one in DoitMain.DOIT_CMDS if one.get_name() not in {"run", "list"}), Run, List)


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words of a command line say; the exit status."""
    words = sys.argv[1:] if words is None else words
    if "" in words:
        print("fitasks: an empty word among the arguments; is a variable not set?", file=sys.stderr)  # noqa: T201
        return 2
    first = words[0] if words else ""
    if said := _said(first):
        print(said)  # noqa: T201
        return 0
    if first == "keygen" and not {"--help", "-h"} & set(words):
        return _keygen(list(words[1:]))
    if first == "init":
        from fitasks.graph.start import main as init

        return init(words[1:], _doit)
    return _doit(list(words))


def _said(word: str) -> str:
    """What a word alone asks for; "" for a task."""
    if word in {"--help", "-h"}:
        return _HELP.format(name="fitasks").rstrip("\n")
    if word == "--version":
        return versions()
    return str(MAKEFILE) if word == "makefile" else ""


def _keygen(files: list[str]) -> int:
    """As the task does, but without kernels.yaml: a key may be made where nothing is compiled."""
    from fitasks.graph.actions import share

    try:
        share.keygen(files)
    except FitasksError as error:
        print(f"fitasks keygen: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    return 0


def _doit(words: list[str]) -> int:
    status: int | None = Main(Loader()).run(words)
    return status or 0


def versions() -> str:
    """`fitasks 0.1.0 (doit 0.37.0, Python 3.11.2)`."""
    said = [f"doit {version('doit')}", f"Python {'.'.join(map(str, sys.version_info[:3]))}"]
    try:
        own = version("fitasks")
    except PackageNotFoundError:
        own = f"of {Path(__file__).parent.parent}"
    return f"fitasks {own} ({', '.join(said)})"
