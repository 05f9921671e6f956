"""Credentials for a registry, as `docker login` keeps them: in ~/.docker/config.json, or with a helper that it names.

They are handed to the registry, and never shown.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitasks.base.border import read_json
from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitasks.delivery.oci.reference import Reference

_MOST = 1 << 20  # bytes of the file
_PATIENCE = 30.0  # seconds for a helper, which may ask a keyring
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
    helper = _below(said, "credHelpers").get(reference.login) or _below(said, "").get("credsStore")
    written = _below(_below(said, "auths").get(reference.login), "").get("auth")
    if isinstance(written, str) and written:
        return _decoded(written, file)
    return _asked(helper, reference, file, env) if isinstance(helper, str) and helper else None


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
    try:
        done = subprocess.run(
            [command, "get"],
            input=reference.login,
            capture_output=True,
            check=False,
            text=True,
            timeout=_PATIENCE,
            env=dict(env),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = getattr(error, "strerror", None) or f"no answer in {_PATIENCE:.0f} s"
        raise EnvironmentProblem(f"{file} names {command}: {why}", remedy=f"put {command} on PATH") from None
    try:
        said = json.loads(done.stdout) if done.returncode == 0 else {}
        return (said["Username"], said["Secret"]) if said else None
    except (ValueError, KeyError, TypeError):
        raise EnvironmentProblem(f"{command} (named in {file}) gives no user and password") from None
