"""Replacing the serving environment's libcudart by the toolkit's, and putting the original back.

    libcudart.so.12                     the toolkit's, after a patch
    libcudart.so.12.fitasks-original    the environment's own
    libcudart.so.12.fitasks.json        {"original": sha256, "patched": sha256, "source": path}

The new file is written beside, fsynced and renamed: a running server keeps the file that it has mapped (copying over
it in place would crash it), and so does every other hard link of it, such as uv's cache. Each step leaves a usable
library and a record that tells where things stand.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.version import InvalidVersion, Version

from fitasks.base import memo
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file, write_atomic
from fitasks.base.locks import locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.cuda.cudart import Cudart


Action = Literal["none", "patch", "refuse"]

# Minor-version compatibility: any 12.x needs this driver at least, any 13.x that one (CUDA release notes, table
# "CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility").
DRIVERS = {12: "525.60.13", 13: "580"}


@dataclass(frozen=True)
class Decision:
    """What is to be done with the environment's libcudart, and why."""

    action: Action
    reason: str
    target: Path | None = None  # the real file in the environment
    source: Path | None = None  # the toolkit's
    remedy: str = ""


def decide(runtime: Cudart | None, toolkit: Cudart, prefixes: Sequence[Path], failures: Sequence[str]) -> Decision:
    """What `cudart: patch` means here. `failures` are the audit's sentences, `prefixes` the serving environment."""
    if runtime is None:
        return Decision("refuse", "the serving environment has no libcudart", remedy="pip install nvidia-cuda-runtime")
    if runtime.problem or toolkit.problem:
        return Decision("refuse", runtime.problem or toolkit.problem)
    if runtime.major != toolkit.major:
        reason = f"{runtime.path} is CUDA {runtime.major}, the toolkit's {toolkit.path} CUDA {toolkit.major}"
        return Decision("refuse", reason, remedy=f"compile with a CUDA {runtime.major} toolkit")
    if reason := _good_enough(runtime, toolkit, failures):
        return Decision("none", reason)
    return _allowed(Path(runtime.real), Path(toolkit.real), prefixes, _why(runtime, toolkit, failures))


def patch(decision: Decision, *, dry_run: bool = False) -> str:
    """Do it; a sentence of what was done, or would be. Raises EnvironmentProblem where it can't be."""
    target, source = decision.target, decision.source
    if decision.action != "patch" or target is None or source is None:
        if decision.action == "refuse":
            raise EnvironmentProblem(decision.reason, remedy=decision.remedy)
        return f"nothing to patch: {decision.reason}"
    if dry_run:
        return f"would replace {target} by {source}: {decision.reason}"
    with locked(_beside(target, "lock")):
        _replace(target, source)
    return f"replaced {target} by {source}: {decision.reason}"


def restore(target: Path, *, dry_run: bool = False) -> str:
    """Undo our own patch of `target`, if it is still ours. Raises EnvironmentProblem where that isn't safe."""
    target = target.resolve()
    record, original = _read_record(target), _beside(target, "original")
    if record is None or not original.exists():
        return f"nothing to restore: {target} was not patched"
    present = sha256_file(target) if target.exists() else ""
    if present == record["original"]:
        return _forget(target, "is the original already", dry_run=dry_run)
    if present not in {record["patched"], ""}:
        return _forget(target, "has been replaced since, by pip for instance; it stays", dry_run=dry_run)
    if sha256_file(original) != record["original"]:
        raise EnvironmentProblem(
            f"{original} is not the file that was kept (another hash)",
            remedy="pip install --force-reinstall the CUDA runtime package",
        )
    if dry_run:
        return f"would restore {target} from {original}"
    with locked(_beside(target, "lock")):
        original.replace(target)
        _sync_directory(target.parent)
        _beside(target, "json").unlink(missing_ok=True)
    return f"restored {target}"


def is_patched(target: Path) -> bool:
    """Whether a record of ours lies beside a library."""
    return _beside(target.resolve(), "json").exists()


def driver_sentence(runtime: Cudart, driver: str) -> str:
    """Whether the driver ("535.104.05", "" if unknown) is new enough for this runtime."""
    wanted = DRIVERS.get(runtime.major, "")
    if not wanted:
        return ""
    if not driver:
        return f"CUDA {runtime.major}.x needs driver {wanted} or newer; none is visible here"
    verdict = "is" if Version(driver) >= Version(wanted) else "is NOT"
    return f"CUDA {runtime.major}.x needs driver {wanted} or newer; {driver} {verdict}"


def _good_enough(runtime: Cudart, toolkit: Cudart, failures: Sequence[str]) -> str:
    """Why the environment's library stays; "" if it is the older one, or symbols are missing from one as old."""
    if runtime.sha256 == toolkit.sha256:
        return f"the server loads the toolkit's libcudart {toolkit.version}"
    order = _compare(toolkit, runtime)
    if order < 0:
        return f"the server's libcudart {runtime.version} is newer than the toolkit's {toolkit.version}"
    if order == 0 and not failures:
        return f"the server's libcudart is as new as the toolkit's, {toolkit.version}"
    return ""


def _why(runtime: Cudart, toolkit: Cudart, failures: Sequence[str]) -> str:
    if failures:
        return failures[0]
    return f"the toolkit's libcudart {toolkit.version} is newer than the server's {runtime.version}"


def _compare(toolkit: Cudart, runtime: Cudart) -> int:
    """-1, 0, 1: whether the toolkit's is older, as new, newer; as far as both versions are known (12.4 or 12.4.127)."""
    try:
        ours, theirs = Version(toolkit.version).release, Version(runtime.version).release
    except InvalidVersion:
        return 0
    known = min(len(ours), len(theirs))
    return (ours[:known] > theirs[:known]) - (ours[:known] < theirs[:known])


def _allowed(target: Path, source: Path, prefixes: Sequence[Path], reason: str) -> Decision:
    """Only inside the serving environment, and only where we may."""
    if not any(target.is_relative_to(prefix.resolve()) for prefix in prefixes):
        where = ", ".join(map(str, prefixes))
        return Decision("refuse", f"{target} lies outside the serving environment ({where})", remedy="cudart: ignore")
    stat = target.stat()
    if os.geteuid() not in {0, stat.st_uid}:
        return Decision("refuse", f"{target} belongs to another user", remedy=f"run as user {stat.st_uid}")
    if not os.access(target.parent, os.W_OK):
        return Decision("refuse", f"{target.parent} is not writable", remedy=f"chmod u+w {target.parent}")
    return Decision("patch", reason, target, source)


def _replace(target: Path, source: Path) -> None:
    """Keep the original, write down what is going to be, rename. Idempotent, and safe to be cut short anywhere."""
    patched, present = sha256_file(source), sha256_file(target)
    if present == patched:
        return
    original, record = _beside(target, "original"), _read_record(target)
    if (
        record is None
        or not original.exists()
        or sha256_file(original) != record["original"]
        or present != record["patched"]
    ):
        _copy(target, original)  # the first patch, or pip has brought a new original
        kept = present
    else:
        kept = record["original"]  # a newer toolkit on top of our own patch
    write_atomic(_beside(target, "json"), json.dumps({"original": kept, "patched": patched, "source": str(source)}))
    _copy(source, target, like=target)


def _copy(source: Path, target: Path, like: Path | None = None) -> None:
    """A new file under an old name, whole at every moment, with the owner and mode of `like`."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".fitasks", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream, source.open("rb") as data:
            shutil.copyfileobj(data, stream)
            stat = (like or source).stat()
            os.fchmod(stream.fileno(), stat.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(stream.fileno(), stat.st_uid, stat.st_gid)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(target)
        _sync_directory(target.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _forget(target: Path, why: str, *, dry_run: bool) -> str:
    if not dry_run:
        for kind in ("json", "original"):
            _beside(target, kind).unlink(missing_ok=True)
    return f"nothing to restore: {target} {why}"


def _beside(target: Path, kind: str) -> Path:
    names = {"original": "fitasks-original", "json": "fitasks.json", "lock": "fitasks.lock"}
    return target.with_name(f"{target.name}.{names[kind]}")


def _read_record(target: Path) -> dict[str, str] | None:
    said = memo.read(_beside(target, "json"), dict[str, str], unsealed=True)
    return said if said and {"original", "patched"} <= said.keys() else None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
