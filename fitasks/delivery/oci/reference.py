"""`oci://registry/name:tag`: where an artefact is. https://github.com/opencontainers/distribution-spec"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEME = "oci://"
SHAPE = f"{SCHEME}registry/name:tag"
_HUB = "docker.io"
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_WRITTEN = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?)"
    rf"/(?P<repository>{_WORD}(?:/{_WORD})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_LOCAL = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")


@dataclass(frozen=True)
class Reference:
    """An artefact: the tag, or where it is pinned the digest of its manifest; "" for what isn't named."""

    host: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag, digest = self.tag and f":{self.tag}", self.digest and f"@{self.digest}"
        return f"{SCHEME}{self.host}/{self.repository}{tag}{digest}"

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where registries speak plain HTTP."""
        return bool(_LOCAL.fullmatch(self.host))

    @property
    def server(self) -> str:
        """The host that is asked."""
        return "registry-1.docker.io" if self.host == _HUB else self.host

    @property
    def login(self) -> str:
        """The key under which docker keeps credentials for it."""
        return "https://index.docker.io/v1/" if self.host == _HUB else self.host


def is_reference(word: str) -> bool:
    """Whether this names an artefact, and no file and no kernel."""
    return word.startswith(SCHEME)


def parse(word: str) -> Reference:
    """Return what a word names. Raises EnvironmentProblem, which doesn't quote credentials."""
    rest = word.removeprefix(SCHEME)
    if "@" in rest.partition("/")[0]:
        raise EnvironmentProblem(
            "credentials don't belong into the name of an artefact, which is shown",
            remedy=f"docker login registry, then {SHAPE}",
        )
    found = _WRITTEN.fullmatch(rest)
    if not found or not (found["tag"] or found["digest"]):
        lacks = "has no tag" if found else "names no artefact of a registry"
        raise EnvironmentProblem(f"{word} {lacks}; expected {SHAPE}, in small letters", remedy=f"doit push {SHAPE}")
    return Reference(found["host"], found["repository"], found["tag"] or "", found["digest"] or "")


def to_push(words: Sequence[str]) -> Reference:
    """Return the one that a bundle is to be put under. Raises EnvironmentProblem."""
    first = parse(words[0])
    if len(words) > 1:
        raise EnvironmentProblem(f"push puts a bundle into one place, not {len(words)}", remedy=f"doit push {first}")
    if first.digest:
        raise EnvironmentProblem(
            f"{first}: a digest says what is there already; a tag is what is pushed to", remedy=f"doit push {SHAPE}"
        )
    return first
