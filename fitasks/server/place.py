"""Whether a server can use the directory that its kernels lie in: FlashInfer's steps, one after the other.

    a start         of the interpreter, which may lie in another user's home
    import          makes the workspace's directory, opens flashinfer_jit.log in it for appending
    a generator     reads generated/<name>/*, writes what is missing or differs, whatever is loaded then
    build_and_load  opens cached_ops/tmp/<name>.lock for writing, even if there is nothing to compile
                    reads build.ninja, writes it where its text differs
                    ninja reads its logs and, without work, writes nothing
    load            maps the library as executable code

Each was tried with the build_and_load of FlashInfer 0.7.4 (tests/server/test_place_real.py): a module's directory may
be read-only, `cached_ops/tmp` and the log may not.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fitasks.compile.ninja import ninja as ninjas
from fitasks.server.mounts import existing, forbids
from fitasks.server.user import Access, User, access_of, home_of, user_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fitasks.config.model import Config
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

_TVM_FFI, _KEYED = "TVM_FFI_CACHE_DIR", "SGLANG_JIT_CACHE_DIR"
LOG = "flashinfer_jit.log"
_BASE = "set FLASHINFER_WORKSPACE_BASE, for doit and the server, to a directory that it may write to"


@dataclass(frozen=True)
class Obstacle:
    """Why a step fails; or, where `known` is false, what can't be told."""

    reason: str
    known: bool = True


@dataclass(frozen=True)
class Place:
    """What the server's user may do; None is who runs this."""

    user: User | None
    _access: Access
    _answers: dict[tuple[str, int], bool | None] = field(default_factory=dict)

    def using(self, base: Path) -> Obstacle | None:
        """Why no cache can be kept, or nothing loaded, in `base`, which need not be there yet."""
        return self._executing(base) or self._writing(base / "new", "FlashInfer's cache")

    def starting(self, python: Path, flashinfer: Path) -> Obstacle | None:
        """Why another user can't run the interpreter, or import the package: both may lie in somebody's home."""
        if self.user is None:
            return None
        return self._needed(python, os.X_OK, "run") or self._needed(flashinfer / "__init__.py", os.R_OK, "read")

    def importing(self, workspace: Path) -> Obstacle | None:
        """Why `import flashinfer` fails."""
        return self._writing(workspace / LOG, "`import flashinfer` opens it for writing")

    def generating(self, kernel: Kernel) -> Obstacle | None:
        """Why FlashInfer can't write the module's sources, or compare them with what it would write."""
        workspace = kernel.workspace
        return _first(self._generating(source) for source in kernel.sources if workspace in source.parents)

    def _generating(self, source: Path) -> Obstacle | None:
        if os.path.lexists(source):
            return self._needed(source, os.R_OK, "read", " (FlashInfer compares it with what it would write)")
        return self._writing(source, "FlashInfer generates it, also where it then loads a module ahead of time")

    def locking(self, kernel: Kernel) -> Obstacle | None:
        """Why FlashInfer can't take the module's lock, which it does before it looks at the module."""
        return self._writing(kernel.lock, "FlashInfer locks it, whatever there is to do")

    def compiling(self, kernel: Kernel) -> Obstacle | None:
        """Why nothing can be compiled there."""
        return self._writing(kernel.build_dir, "a compile writes it")

    def reading(self, kernel: Kernel) -> Obstacle | None:
        """Why FlashInfer or its ninja fail before they see that there is nothing to do."""
        files = [kernel.ninja_file, *(kernel.build_dir / name for name in (ninjas.LOG, ninjas.DEPS))]
        read = _first(self._needed(path, os.R_OK, "read") for path in files)
        if read or _same(kernel):
            return read
        return self._writing(kernel.ninja_file, "FlashInfer writes it")

    def opening(self, *files: Path) -> Obstacle | None:
        """Why one of these can't be read; what isn't there is no obstacle."""
        return _first(self._needed(file, os.R_OK, "read") for file in files)

    def mapping(self, library: Path) -> Obstacle | None:
        """Why the dynamic loader can't use the file, whatever is in it."""
        if not os.path.lexists(library):
            return None
        return self._executing(library) or self._needed(library, os.R_OK, "read")

    def _executing(self, path: Path) -> Obstacle | None:
        if not (mount := forbids(existing(path), os.ST_NOEXEC)):
            return None
        remedy = f"mount -o remount,exec {shlex.quote(str(mount))}, or {_BASE}"
        return Obstacle(f"{path} can't be loaded: {mount} is mounted noexec; {remedy}")

    def _writing(self, path: Path, why: str) -> Obstacle | None:
        """Of what isn't there the directory counts that it would be made in."""
        there = existing(path)
        mode = os.W_OK | os.X_OK if there != path or there.is_dir() else os.W_OK
        verb = "write" if there == path else "make files in"
        if mount := forbids(there, os.ST_RDONLY):
            remedy = f"mount it writable, or {_BASE}"
            return Obstacle(f"{path} can't be written: {mount} is mounted read-only ({why}); {remedy}")
        return self._needed(there, mode, verb, f" ({why})")

    def _needed(self, path: Path, mode: int, verb: str, why: str = "") -> Obstacle | None:
        if not os.path.lexists(path) or (allowed := self._may(path, mode)):
            return None
        if allowed is None:
            ask = "run doit check as that user, or as root"
            return Obstacle(
                f"whether {self._who} may {verb} {path} isn't known (access control lists); {ask}", known=False
            )
        return Obstacle(f"{self._who} may not {verb} {path}{why}; {self._remedy(path, mode)}")

    def _may(self, path: Path, mode: int) -> bool | None:
        key = (os.fspath(path), mode)
        if key not in self._answers:
            self._answers[key] = self._access(path, mode)
        return self._answers[key]

    @property
    def _who(self) -> str:
        return f"the server's user {self.user}" if self.user else f"this user (uid {os.geteuid()})"

    def _remedy(self, path: Path, mode: int) -> str:
        if mode in {os.R_OK, os.X_OK}:
            return (
                f"chmod a+{'r' if mode == os.R_OK else 'rx'} {shlex.quote(str(path))}, and a+x each directory above it"
            )
        return f"chown it to that user, or {_BASE}" if self.user else f"make it writable, or {_BASE}"


@contextlib.contextmanager
def place_of(config: Config) -> Iterator[Place]:
    """The place as kernels.yaml's user finds it. Raises EnvironmentProblem for one that this machine doesn't know."""
    user = user_of(config.serving.user, config.file)
    with access_of(user) as access:
        yield Place(user, access)


def moved(plan: Plan) -> str:
    """The directory that FlashInfer's cache is below, where a server of another user would take its home for that."""
    return "" if plan.server.env.get("FLASHINFER_WORKSPACE_BASE") else home_left(plan)


def home_left(plan: Plan) -> str:
    """The home that was planned with, where a server of another user has another one; "" where it has the same."""
    user, planned = user_of(plan.config.serving.user, plan.config.file), plan.server.env.get("HOME", "")
    if user is None or "HOME" in plan.config.serving.env:
        return ""
    return planned if home_of(user) != planned else ""


def caches_of_sglang(plan: Plan) -> dict[str, Path]:
    """The variables by which a server has to be told where SGLang's own modules lie, with the directories."""
    places = {_TVM_FFI: plan.sglang_cache, _KEYED: plan.keyed_cache}
    told = home_left(plan)
    return {name: place for name, place in places.items() if place and (told or name in plan.server.env)}


def _same(kernel: Kernel) -> bool:
    """Whether build.ninja is what FlashInfer would write; one that can't be read has been said by then."""
    try:
        return kernel.ninja_file.read_text() == kernel.ninja
    except (OSError, ValueError):
        return False


def _first(obstacles: Iterable[Obstacle | None]) -> Obstacle | None:
    """Of several one that is known."""
    found = sorted((one for one in obstacles if one), key=lambda one: not one.known)
    return next(iter(found), None)
