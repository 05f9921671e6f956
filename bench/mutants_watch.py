"""What a piece of code does to this machine, as Python's audit events tell it: writes, and commands.

Nothing of it is done: what writes outside of the allowed directories or starts a process is recorded and stopped by an
exception that no `except Exception` hears. An audit hook can't be removed, so there is one, and it sleeps outside of
`Watch.watching`. What C code does without an event (a library that is loaded) it doesn't see.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# event → which of its arguments are paths that change; a directory's descriptor, where there is one, comes last.
_CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.setxattr": (0,),
    "os.removexattr": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "shutil.copyfile": (1,),
    "shutil.move": (0, 1),
    "shutil.rmtree": (0,),
    "shutil.unpack_archive": (1,),
}
_ENTRIES = {"os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.mkdir", "shutil.rmtree", "shutil.move"}
_STARTS = (
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "webbrowser.open")
_PACKAGES = sysconfig.get_path("purelib")
_OURS = (str(ROOT), sysconfig.get_path("stdlib"), _PACKAGES, sys.prefix, sys.base_prefix)


class Stopped(BaseException):
    """Raised in place of what was about to be done."""


class Asked(Stopped):
    """The code was about to ask one of the programs that it may ask: the input counts for nothing any more."""


@dataclass
class Watch:
    """`allowed` are the directories that may be written to, `programs` the executables that may be started."""

    allowed: tuple[str, ...] = ()
    programs: frozenset[str] = frozenset()
    writes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    on: bool = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record from here to the end of the block."""
        self.writes, self.commands = [], []
        _install(self)
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """One audit event. Raises Stopped in place of what must not happen."""
        if event == "open":
            self._open(*args)
        elif event in _CHANGES:
            self._change(event, args)
        elif event.startswith(_STARTS):
            self._start(event, args)
        elif event.startswith(_NETWORK):
            self._refuse(self.commands, f"{event} {args!r:.120}")
        elif event == "exec":
            self._run(args[0])

    def _open(self, path: object, mode: str | None, flags: int) -> None:
        writes = bool(flags & _WRITING) if mode is None else any(letter in mode for letter in "wax+")
        if writes and not isinstance(path, int):
            self._write("open", os.path.realpath(os.fsdecode(path)))  # type: ignore[arg-type]

    def _change(self, event: str, args: tuple[Any, ...]) -> None:
        numbers = [arg for arg in args if isinstance(arg, int) and not isinstance(arg, bool) and arg > 2]
        for index in _CHANGES[event]:
            if not isinstance(args[index], int):
                self._write(event, _place(os.fsdecode(args[index]), numbers, entry=event in _ENTRIES))

    def _write(self, event: str, place: str) -> None:
        inside = any(place == root or place.startswith(f"{root}/") for root in (*self.allowed, "/dev/null", "/dev/tty"))
        if not inside:
            self._refuse(self.writes, f"{event} {place:.200}")

    def _start(self, event: str, args: tuple[Any, ...]) -> None:
        words = args[1] if event == "subprocess.Popen" else args
        program = args[0] if event == "subprocess.Popen" else ""
        if program is not None and os.fspath(program) in self.programs:
            raise Asked(program)
        self._refuse(self.commands, f"{event} {words!r:.200}")

    def _run(self, code: Any) -> None:
        """A module's own code; that of the standard library, of this project and of what it depends on is no news.

        But it is where somebody imports by a name that he was given (importlib.import_module): FlashInfer alone then.
        """
        file = getattr(code, "co_filename", "")
        asking, by_name = _asking()
        ours = asking.startswith(str(ROOT)) and not asking.startswith(_PACKAGES)  # .venv may lie in the project
        if ours and (by_name or file[:1] == "<") and "/flashinfer/" not in file:
            self._refuse(self.commands, f"code of {file} by {asking}")
        if file[:1] != "<" and not file.startswith((*_OURS, *self.allowed)):
            self._refuse(self.commands, f"import of {file}")

    def _refuse(self, found: list[str], text: str) -> None:
        found.append(text)
        raise Stopped(text)


def _asking() -> tuple[str, bool]:
    """The file of the code that runs or imports something, and whether it does so by import_module."""
    frame, by_name = sys._getframe(4), False  # noqa: SLF001 - _run, hear and _hear are above
    while frame.f_back and "importlib" in frame.f_code.co_filename:
        by_name |= frame.f_code.co_name == "import_module"
        frame = frame.f_back
    return frame.f_code.co_filename, by_name


def _place(path: str, descriptors: list[int], *, entry: bool) -> str:
    """The absolute path without links; of what is an entry in a directory, the entry may itself be a link."""
    if not path.startswith("/") and descriptors:
        with contextlib.suppress(OSError):
            path = f"{Path(f'/proc/self/fd/{descriptors[-1]}').readlink()}/{path}"
    if entry:
        directory, name = os.path.split(path.rstrip("/"))
        return (
            os.path.realpath(f"{os.path.realpath(directory)}/{name}")
            if name in {".", ".."}
            else (f"{os.path.realpath(directory)}/{name}")
        )
    return os.path.realpath(path)


_HEARING: list[Watch] = []


def _install(watch: Watch) -> None:
    """The one hook of this process hears for the last watch."""
    if not _HEARING:
        sys.addaudithook(_hear)
    _HEARING[:] = [watch]


def _hear(event: str, args: tuple[Any, ...]) -> None:
    watch = _HEARING[0]
    if not watch.on:
        return
    watch.on = False  # what the watch does itself is nobody's business
    try:
        watch.hear(event, args)
    finally:
        watch.on = True
