"""Stores elsewhere: each is asked for something that nobody has, which tells whether it can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitasks.base.errors import FitasksError
from fitasks.doctor.finding import Finding
from fitasks.store.remote.keys import signer_of
from fitasks.store.remote.loop import Loop
from fitasks.store.remote.remote import Remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fitasks.config.stores import StoreRequest

SECTION = "stores elsewhere"


def examine(requests: Iterable[StoreRequest], env: Mapping[str, str]) -> Iterator[Finding]:
    """A finding for each store, in the order in which they are asked. One that doesn't answer costs 5 s."""
    loop = Loop()
    for one in requests:
        trouble = Remote(one, loop, env, lambda _said: None).trouble()
        use = "; ".join([_believed(one), _written(one, env)])
        if trouble:
            remedy = "is it there, and may you read it? doit goes on without it, and compiles"
            yield Finding(SECTION, one.url, f"{trouble}; {use}", "note", remedy)
        else:
            yield Finding(SECTION, one.url, f"answers; {use}")


def _believed(one: StoreRequest) -> str:
    count = len(one.trust)
    return f"takes what {'one of ' if count > 1 else ''}{count} key{'s'[: count != 1]} signed" if count else "takes all"


def _written(one: StoreRequest, env: Mapping[str, str]) -> str:
    if not one.push:
        return "only read"
    try:
        signer = signer_of(env)
    except FitasksError as error:
        return f"not written: {error.message}"
    return f"written, signed by {signer.public}" if signer else "written, unsigned"
