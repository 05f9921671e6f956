"""The tasks of the group `repair`: caches and the serving environment."""

from __future__ import annotations

import sys

from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.base.streams import show, show_lines, show_text
from fitasks.graph.session import current


def clear_incomplete() -> None:
    """remove half-built modules that nobody is building"""
    from fitasks.compile import scratch
    from fitasks.compile.clear import clear_incomplete as clear
    from fitasks.ui.show import cleared_lines

    session = current()
    elsewhere = scratch.everywhere(session.plan, session.store.root)
    show_lines(cleared_lines(clear(session.plan.first.base, elsewhere)))


def reset(yes: bool) -> None:
    """remove this version's modules and generated sources"""
    from fitasks.compile import clear
    from fitasks.ui.show import reset_lines

    plan = current().plan
    directories = clear.reset_targets(plan)
    show_lines(reset_lines({one: clear.bytes_in(one) for one in directories}, clear.left_by_reset(plan)))
    if not directories:
        return
    if not yes and not _confirmed():
        show("nothing was removed")
        raise Silent
    clear.reset(directories)
    show("removed")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise EnvironmentProblem("nothing was removed: nobody can be asked here", remedy="doit reset --yes")
    return input("remove all of these? [y/N] ").strip().lower() in {"y", "yes"}


def patch_cudart(dry_run: bool) -> None:
    """put the toolkit's newer libcudart into the server"""
    from fitasks.server.cudart_policy import patch

    show_text(patch(current().plan, current().runtime, dry_run=dry_run))


def restore_cudart(dry_run: bool) -> None:
    """put the server's own libcudart back"""
    from fitasks.server.cudart_policy import restore

    show_text(restore(current().runtime, dry_run=dry_run))


def install_sm90_switch() -> None:
    """make FlashInfer heed FLASHINFER_DISABLE_SM90=1"""
    from fitasks.server.sm90_switch import install

    server = current().server
    where = install(server.prefix, server.site_directories)
    show(f"{where}: with FLASHINFER_DISABLE_SM90=1, FlashInfer chooses generic modules for Hopper's (fa2 for fa3)")


def uninstall_sm90_switch() -> None:
    """take that out again"""
    from fitasks.server.sm90_switch import uninstall

    server = current().server
    removed = uninstall(server.prefix, server.site_directories)
    show_lines(f"removed {path}" for path in removed)
    if not removed:
        show(f"the switch is not installed for {server.python}")
