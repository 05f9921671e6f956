"""What a registry has of a bundle: a manifest, which names the bundle as its only layer, by size and digest.

    artifactType  application/vnd.fitasks.bundle.v1
    layers        one application/vnd.fitasks.bundle.v1.tar+gzip: the file that `doit bundle` writes

https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage
The same bundle gives the same manifest, and so the same digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from fitasks.base.border import parse_json
from fitasks.base.errors import EnvironmentProblem
from fitasks.delivery.bundle.manifest import BundleRefused

ARTEFACT = "application/vnd.fitasks.bundle.v1"
LAYER = f"{ARTEFACT}.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "kernels.tar.gz"  # as which `oras pull` writes it
EMPTY = b"{}"  # a manifest must have a config; this one says that there is none
_TITLE = "org.opencontainers.image.title"
_MOST = 4 << 20  # bytes of a manifest, by the specification of registries
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHOWN = 100  # letters of somebody's media type
_OTHERS = "name the artefact that doit push has put there"


@dataclass(frozen=True)
class Layer:
    """A file in a registry, by the digest ("sha256:…") and the size (bytes) that a manifest says."""

    digest: str
    size: int


def digest(data: bytes) -> str:
    """Return the name that a registry gives these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest(layer: Layer) -> str:
    """Return the JSON of a bundle's manifest."""
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(EMPTY), "size": len(EMPTY)}
    only = {"mediaType": LAYER, "digest": layer.digest, "size": layer.size, "annotations": {_TITLE: NAME}}
    whole = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTEFACT, "config": empty, "layers": [only]}
    return json.dumps(whole)


def bundle_in(data: bytes) -> Layer:
    """Return the layer that is the bundle. Raises BundleRefused for the manifest of anything else."""
    said = _parsed(data)
    layers = said.get("layers")
    found = [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []
    ours = [one for one in found if one.get("mediaType") == LAYER]
    if len(ours) != 1:
        raise BundleRefused(f"it is {_kind(said, found)}, and no bundle ({LAYER})", remedy=_OTHERS)
    name, size = ours[0].get("digest"), ours[0].get("size")
    if not isinstance(name, str) or not _DIGEST.fullmatch(name):
        raise BundleRefused("its manifest names the bundle by no SHA-256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BundleRefused("its manifest says no size of the bundle")
    return Layer(name, size)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        said = parse_json(data.decode(), "its manifest") if len(data) <= _MOST else None
    except (UnicodeDecodeError, EnvironmentProblem):
        said = None
    if not isinstance(said, dict):
        raise BundleRefused(f"its manifest is no JSON object of at most {_MOST:,} bytes", remedy=_OTHERS)
    return said


def _kind(said: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    """Return what it is, by the media types that it has."""
    config = said.get("config")
    types = [said.get("artifactType"), *(one.get("mediaType") for one in layers)]
    types += [config.get("mediaType") if isinstance(config, dict) else None, said.get("mediaType")]
    named = next((one for one in types if isinstance(one, str) and one), "")
    return f"an artefact of the type {named[:_SHOWN]!r}" if named else "an artefact without a type"
