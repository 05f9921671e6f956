"""The tasks of the group `share`: finished kernels, here and in stores elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.base.streams import show, show_lines
from fitasks.graph.actions.deliver import here
from fitasks.graph.session import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fitasks.graph.session import Session
    from fitasks.store.chain import Chain
    from fitasks.store.remote.remote import Remote


def store() -> None:
    """what the stores have: kernels, versions, sizes, last use"""
    from fitasks.ui.store_table import local_lines, remote_lines

    session = current()
    show_lines(local_lines(session.store.root, session.store.contents()))
    _of_each(session.stores.remotes, lambda remote: remote_lines(remote.url, remote.contents()))


def push(names: list[str]) -> None:
    """put fresh kernels into the stores elsewhere, or a registry: oci://…"""
    from fitasks.delivery.oci.reference import is_reference
    from fitasks.store.publish import publish
    from fitasks.ui.store_table import pushed_lines

    if places := [word for word in names if is_reference(word)]:
        _push_bundle(places, [word for word in names if not is_reference(word)])
        return
    session = current()
    chain = _elsewhere(session)
    fresh = [one for one in session.plan.chosen(names) if not one.problem and session.judge(one).verdict == "fresh"]
    done = publish(chain.remotes, [one for one in fresh if not one.built_whole and not one.twin])
    left = [kernel.label for kernel in session.plan.chosen(names) if kernel not in fresh]
    show_lines(pushed_lines(done, left))
    if left or any(one.lacking for one in done):
        raise Silent


def _push_bundle(places: Sequence[str], names: Sequence[str]) -> None:
    """A bundle, into a registry."""
    from fitasks.delivery.bundle.bundle import bundle as pack
    from fitasks.delivery.oci.artefact import NAME
    from fitasks.delivery.oci.reference import to_push
    from fitasks.delivery.oci.registry import Registry, room
    from fitasks.ui.bundles import bundled_lines

    reference = to_push(places)
    registry = Registry(reference, os.environ, show)
    with room(current().root / ".fitasks") as place:
        done = pack(here(), place / NAME, names)
        pinned = replace(reference, tag="", digest=registry.push(done.path))
    show_lines(bundled_lines(done, str(reference)))
    show(f"this one, whatever the tag will name: {pinned}")
    if done.left_out:
        raise Silent


def keygen(files: list[str]) -> None:
    """make a key to sign kernels with, and say its public part"""
    from fitasks.store.remote import keys

    if len(files) > 1:
        raise EnvironmentProblem(f"keygen makes one key, not {len(files)}", remedy=f"doit keygen {files[0]}")
    file = Path(files[0]).absolute() if files else keys.usual_file(os.environ)
    signer = keys.make(file)
    named = "" if file == keys.usual_file(os.environ) else f", where {keys.VARIABLE}={file} is set"
    show(f"{file}: kernels that this user puts into stores are signed with it{named}")
    show(f"trust: [{signer.public!r}]")


def gc(limit: int, remote: bool, days: int) -> None:
    """shrink the store of finished kernels, or those elsewhere"""
    from fitasks.ui.show import collected_line
    from fitasks.ui.store_table import removed_line

    for name, number in (("--limit", limit), ("--days", days)):
        if number < 0:
            raise EnvironmentProblem(f"{name} {number} is less than nothing", remedy=f"{name} 0 keeps least")
    if remote:
        remotes = _elsewhere(current()).remotes
        _of_each(remotes, lambda one: [removed_line(one.url, one.clear(limit * 10**9, days), days)])
        return
    store = current().store
    removed = store.gc(limit * 10**9)
    show(collected_line(store.root, removed, store.contents()))


def _elsewhere(session: Session) -> Chain:
    if not session.stores.remotes:
        raise EnvironmentProblem(
            "no store elsewhere is named", remedy="write store: into kernels.yaml, or set FITASKS_STORE"
        )
    return session.stores


def _of_each(remotes: Sequence[Remote], lines: Callable[[Remote], Iterable[str]]) -> None:
    """Say something of each store, and at the end of those of which nothing can be said. Raises EnvironmentProblem."""
    problems = []
    for remote in remotes:
        try:
            show_lines(lines(remote))
        except EnvironmentProblem as problem:
            problems.append(problem)
    if problems:
        raise EnvironmentProblem("\n".join(one.message for one in problems), remedy=problems[0].remedy)
