"""The tasks of the group `deliver`: kernels for other machines and images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.doing import doing
from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.base.streams import show, show_lines
from fitasks.base.wording import counted
from fitasks.graph.session import current

if TYPE_CHECKING:
    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.wheel.sizes import Report
    from fitasks.delivery.wheel.wheel import Wheel
    from fitasks.plan.plan import Plan


def wheel(json: str, names: list[str]) -> None:
    """the kernels as a package that FlashInfer loads, in dist/"""
    from fitasks.delivery.wheel.sizes import report
    from fitasks.ui.size_table import write_sizes

    plan, made = current().plan, _packed(names)
    sizes = report(made)
    if made:
        _show_wheel(made, sizes, names)
    if json:
        write_sizes(Path(json), sizes)
    _end_with_what_is_left_out(plan, names)


def _show_wheel(made: Wheel, sizes: Report, names: list[str]) -> None:
    from fitasks.delivery.wheel.install import obstacle
    from fitasks.ui.size_table import show_sizes
    from fitasks.ui.units import size

    plan = current().plan
    show_sizes(sizes)
    show(f"{made.path} ({size(sizes.wheel)})")
    _say_what_is_left_out(names)
    if why := obstacle(plan.server, plan.first):
        show(f"not for this environment: {why}")


def install(names: list[str]) -> None:
    """put that package into the serving environment"""
    from fitasks.delivery.wheel.install import install as put

    plan = current().plan
    if made := _packed(names):
        with doing(f"installing {made.path.name} for {plan.server.python}"):
            put(plan, made.path)
        show(f"fitasks-kernels {made.version} is installed for {plan.server.python}; `doit check` asks FlashInfer")
        _say_what_is_left_out(names)
    _end_with_what_is_left_out(plan, names)


def _packed(names: list[str]) -> Wheel | None:
    """The wheel; None, said, and none of before left in dist/, where no wheel can hold any of these kernels."""
    from fitasks.delivery.collect import collect
    from fitasks.delivery.deliver import to_lay_out
    from fitasks.delivery.wheel.wheel import build_wheel, remove_earlier
    from fitasks.ui.bundles import no_wheel_line

    session, plan = current(), current().plan
    with doing(f"packing {counted(len(plan.chosen(names)), 'kernel')}"):
        if kernels := collect(plan, session.judges, names):
            return build_wheel(kernels, plan.server, Path("dist"))
    remove_earlier(Path("dist"))
    show(no_wheel_line(len(list(to_lay_out(plan, names)))))
    return None


def _end_with_what_is_left_out(plan: Plan, names: list[str]) -> None:
    """Say what wasn't delivered; exit status 1 for what is of no use to anybody, though the others were delivered."""
    from fitasks.delivery.collect import left_out, unpackaged

    show_lines(unpackaged(plan, names))
    show_lines(told := left_out(plan, names))
    if told:
        raise Silent


def _say_what_is_left_out(names: list[str]) -> None:
    """Say what a package of named kernels does without: installed, it takes the place of one that holds others."""
    planned, packed = (len(current().plan.chosen(chosen)) for chosen in ((), names))
    if packed < planned:
        show(f"{packed} of {planned} planned kernels: installed, it takes the place of a package that has the others")


def uninstall() -> None:
    """take it out again"""
    from fitasks.delivery.wheel.install import uninstall as take

    gone = take(current().server)
    show(f"fitasks-kernels {gone} is removed" if gone else "fitasks-kernels is not installed")


def deliver(into: str, names: list[str]) -> None:
    """what no package can hold, in a directory for an image"""
    from fitasks.delivery.collect import left_out
    from fitasks.delivery.deliver import deliver as lay
    from fitasks.delivery.deliver import variables
    from fitasks.ui.bundles import delivered_lines

    session = current()
    delivered = lay(session.plan, session.judges, names, Path(into))
    show_lines(delivered_lines(delivered, into, variables(delivered, into)))
    show_lines(told := left_out(session.plan, names))
    if told:
        raise Silent


def bundle(file: str, names: list[str]) -> None:
    """the fresh kernels as one file, for a cache elsewhere"""
    from fitasks.delivery.bundle.bundle import bundle as pack
    from fitasks.delivery.bundle.filename import file_among
    from fitasks.ui.bundles import bundled_lines

    with doing("packing the kernels"):
        done = pack(here(), *file_among(file, names))
    show_lines(bundled_lines(done))
    if done.left_out:
        raise Silent


def unbundle(file: str, files: list[str], wheel: bool) -> None:
    """take the kernels out of a bundle"""
    from fitasks.delivery.bundle.filename import one_file
    from fitasks.delivery.oci.reference import is_reference, parse

    words = [*filter(None, [file]), *files]
    one = one_file(words, "doit unbundle kernels.tar.gz")
    called, take = words[0], _repack if wheel else _unbundle
    if not wheel:
        _refuse_unplanned(called)
    if not is_reference(called):
        take(one, called)
        return
    from fitasks.delivery.oci.registry import pulled

    with pulled(parse(called), current().root / ".fitasks", os.environ, show) as path:
        take(path, called)


def _refuse_unplanned(called: str) -> None:
    if problem := current().problem:
        raise EnvironmentProblem(
            f"{problem.message}; so nothing is known of this machine's cache",
            remedy=f"{problem.remedy}; or doit unbundle --wheel {called}, which asks for no toolkit and no GPU",
        )


def _unbundle(path: Path, called: str) -> None:
    from fitasks.delivery.bundle.unbundle import unbundle as take
    from fitasks.ui.bundles import unbundled_lines

    done = take(here(), path, called="" if str(path) == called else called)
    show_lines(unbundled_lines(done, called))
    if done.unusable:
        raise Silent


def here() -> Here:
    from fitasks.delivery.bundle.here import Here

    session = current()
    return Here(session.plan, session.judges, session.ninja, session.store)


def _repack(path: Path, called: str) -> None:
    from fitasks.delivery.wheel.from_bundle import repack
    from fitasks.delivery.wheel.sizes import report
    from fitasks.ui.bundles import repacked_lines
    from fitasks.ui.size_table import show_sizes

    state, name = current().root / ".fitasks", "" if str(path) == called else called
    made = repack(current().server, path, Path("dist"), state, called=name)
    show_sizes(report(made.wheel))
    show_lines(repacked_lines(made))
