"""Commands in the cache that aren't the planned ones: news that no key of our own could bring."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from fitasks.base.files import regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def overruled(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Each build.ninja in the cache that isn't the planned one, with its digest.

    A server writes it before it compiles: another text means another FlashInfer or environment than was planned with,
    whatever our own memory says. One that the plan was made in spite of is another environment's.
    """
    found = {}
    for record in records:
        if record["problem"] or record["twin"] or not record["ninja"]:
            continue
        try:
            with regular(record["ninja_file"]) as stream:
                text = stream.read()
        except OSError:
            continue
        if text != record["ninja"].encode():
            found[record["ninja_file"]] = sha256(text).hexdigest()
    return found
