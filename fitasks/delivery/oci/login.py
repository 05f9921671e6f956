"""Credentials for a registry, as `docker login` keeps them: in ~/.docker/config.json, or with a helper that it names.

They are handed to the registry, and never shown.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.border import parse_json, read_json
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.processes import process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.delivery.oci.reference import Reference

_MOST = 1 << 20  # bytes of the file
_PATIENCE = 30.0  # seconds for a helper, which may ask a keyring
_ASKING = ("/bin/sh", "-c", 'printf %s "$2" | "$1" get 2>/dev/null', "sh")
_ADDRESS = re.compile(r"https?://")
_HELPER = re.compile(r"[\w.-]+", re.ASCII)


def file_of(env: Mapping[str, str]) -> Path:
    """Return where docker keeps them."""
    place = env.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")  # noqa: PTH111 - no error without a home
    return Path(place) / "config.json"


def credentials(reference: Reference, env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return user and password for a registry; None where there are none. Raises EnvironmentProblem."""
    file = file_of(env)
    if not file.exists():
        return None
    said = read_json(file, _MOST)
    if helper := _text(_below(said, "credHelpers"), reference.login):  # before what an earlier login has written
        return _asked(helper, reference, file, env)
    if written := _text(_below(_of(reference, _below(said, "auths")), ""), "auth"):
        return _decoded(written, file)
    helper = _text(_below(said, ""), "credsStore")
    return _asked(helper, reference, file, env) if helper else None


def _text(said: dict[str, Any], name: str) -> str:
    found = said.get(name)
    return found if isinstance(found, str) else ""


def _of(reference: Reference, auths: dict[str, Any]) -> Any:
    """What is written for a registry: under its key, or one that is an address of the same host."""
    addresses = (key for key in auths if _ADDRESS.sub("", key).partition("/")[0] == reference.login)
    return auths.get(reference.login if reference.login in auths else next(addresses, ""))


def _below(said: Any, name: str) -> dict[str, Any]:
    found = said.get(name) if name and isinstance(said, dict) else said
    return found if isinstance(found, dict) else {}


def _decoded(written: str, file: Path) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(written, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise EnvironmentProblem(f"{file}: an `auth` is no user and password in base64", remedy="docker login")
    return user, password.rstrip("\0")


def _asked(helper: str, reference: Reference, file: Path, env: Mapping[str, str]) -> tuple[str, str] | None:
    """What a helper says; None where it has nothing for this registry."""
    command = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise EnvironmentProblem(f"{file}: {helper[:60]!r} is no name of a helper for credentials")
    if not (found := shutil.which(command, path=env.get("PATH"))):
        raise EnvironmentProblem(f"{file} names {command}: No such file", remedy=f"put {command} on PATH")
    answer = _heard(found, reference.login, env)
    if answer is None:
        return None
    try:
        said = _below(parse_json(answer.decode(), "it"), "")
    except (BadInput, UnicodeDecodeError):
        said = {}
    user, secret = said.get("Username"), said.get("Secret")
    if isinstance(user, str) and isinstance(secret, str):
        return user, secret
    raise EnvironmentProblem(f"{command} (named in {file}) gives no user and password")


def _heard(helper: str, asked: str, env: Mapping[str, str]) -> bytes | None:
    """What it says, kept in memory alone, for it is a secret; None where it says by its exit that it has nothing."""
    with os.fdopen(os.memfd_create("said"), "rb") as memory:
        log = Path(f"/proc/self/fd/{memory.fileno()}")
        finished = process.run([*_ASKING, helper, asked], cwd=Path.cwd(), env=env, log=log, timeout=_PATIENCE)
        if finished.stopped or finished.timed_out:
            why = "was stopped" if finished.stopped else f"gives no answer in {_PATIENCE:.0f} s"
            remedy = f"see what it waits for: echo {asked} | {helper} get"
            raise EnvironmentProblem(f"{helper} {why}", remedy=remedy)
        return None if finished.status else memory.read()
