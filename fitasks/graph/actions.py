"""The tasks that look, say, or clear up: one function each, named like the task; the docstring is doit's.

What they need is imported when they run, so that `doit list` stays quick.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.doing import doing
from fitasks.base.errors import EnvironmentProblem, Silent
from fitasks.base.streams import show as _print
from fitasks.base.streams import show_for_shell, show_text
from fitasks.base.wording import counted
from fitasks.graph.session import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fitasks.delivery.bundle.here import Here
    from fitasks.delivery.wheel.wheel import Wheel
    from fitasks.graph.session import Session
    from fitasks.plan.plan import Plan
    from fitasks.server.verdict import Verdict
    from fitasks.store.chain import Chain
    from fitasks.store.remote.remote import Remote


_NONE_YET = (
    "kernels.yaml names no kernels yet: write them below `kernels:` (`doit ops`) or `models:`, or import a trace",
)


def apply_cudart_policy() -> None:
    """after the kernels: what `cudart:` in kernels.yaml asks for"""
    from fitasks.server.cudart_policy import apply

    session = current()
    _say(_NONE_YET if not session.plan.kernels else ())
    _say(apply(session.plan, session.runtime))


def cudart() -> None:
    """the toolkit's libcudart and the server's, side by side"""
    from fitasks.server.cudart_policy import foretold
    from fitasks.ui.show import cudart_lines

    session = current()
    _say(cudart_lines(session.plan.notes, session.runtime))
    failed, then = foretold(session.plan, session.runtime)
    _say(failed)
    if then:
        show_text(f"after the next build: {then}")
    if failed and session.plan.config.cudart != "ignore":
        raise Silent


def patch_cudart(dry_run: bool) -> None:
    """put the toolkit's newer libcudart into the server"""
    from fitasks.server.cudart_policy import patch

    show_text(patch(current().plan, current().runtime, dry_run=dry_run))


def restore_cudart(dry_run: bool) -> None:
    """put the server's own libcudart back"""
    from fitasks.server.cudart_policy import restore

    show_text(restore(current().runtime, dry_run=dry_run))


def check(json: str, trace: str, names: list[str]) -> None:
    """what the server will do with each kernel; fails if it would compile"""
    from fitasks.delivery.wheel.install import damaged, notice
    from fitasks.server.check import check as predict_all
    from fitasks.server.conditions import conditions
    from fitasks.ui.check_table import show_verdicts, write_verdicts

    session = current().asking
    with doing(f"looking at {counted(len(session.plan.chosen(names)), 'kernel')} as the server will"):
        verdicts = in_stores(session, predict_all(session, names))
        needed = conditions(session, verdicts)
    others = () if names else session.plan.not_loaded
    show_verdicts(verdicts, needed, others)
    damage = damaged(session.plan.server)
    if told := damage or notice(session.plan):
        _print(told)
    _say(_NONE_YET if not verdicts else ())
    if json:
        write_verdicts(Path(json), verdicts, needed, others)
    if damage or (trace and not covers(session, Path(trace))) or not all(verdict.good for verdict in verdicts):
        raise Silent


def in_stores(session: Session, verdicts: list[Verdict]) -> list[Verdict]:
    """Say of what would be compiled which store has it; no store is asked where nothing would be."""
    from fitasks.server.verdict import stored

    lacking = {verdict.label for verdict in verdicts if verdict.state == "would compile"}
    if not lacking or session.problem:
        return verdicts
    kernels = [kernel for kernel in session.plan.buildable() if kernel.label in lacking and not kernel.built_whole]
    there = session.stores.holding(kernels, session.judges)
    return [stored(verdict, there.get(verdict.label, "")) for verdict in verdicts]


def covers(session: Session, trace: Path) -> bool:
    """Compare a trace with the plan and say what differs; whether everything that was asked for is there beforehand."""
    from fitasks.trace.coverage import coverage, packaged_names, planned_names
    from fitasks.trace.sources import read_sources
    from fitasks.ui.trace_table import covered

    plan = session.plan
    found = coverage(read_sources([trace]).requested, planned_names(plan), packaged_names(plan.server))
    _say(covered(found, plan.config.file))
    return not found.missing


def verify(names: list[str], force: bool) -> None:
    """prove the kernels on all GPUs of this machine"""
    from fitasks.ui.verify_table import line, summary
    from fitasks.verify.verify import verify as prove

    plan = current().plan
    plan.chosen(names)  # a wrong name is told where there is no GPU, too
    verdicts = prove(plan, names, force=force, say=_print, told=lambda verdict: _print(line(verdict)))
    _print(summary(verdicts))
    if verdicts and all(verdict.outcome == "no GPU" for verdict in verdicts):
        raise EnvironmentProblem(
            "none of these GPUs is of an architecture that kernels.yaml names", remedy="see targets:"
        )
    if not all(verdict.good or verdict.outcome == "no GPU" for verdict in verdicts):
        raise Silent


def install_sm90_switch() -> None:
    """make FlashInfer heed FLASHINFER_DISABLE_SM90=1"""
    from fitasks.server.sm90_switch import install

    server = current().server
    where = install(server.prefix, server.site_directories)
    _print(f"{where}: with FLASHINFER_DISABLE_SM90=1, FlashInfer chooses generic modules for Hopper's (fa2 for fa3)")


def uninstall_sm90_switch() -> None:
    """take that out again"""
    from fitasks.server.sm90_switch import uninstall

    server = current().server
    removed = uninstall(server.prefix, server.site_directories)
    _say(f"removed {path}" for path in removed)
    if not removed:
        _print(f"the switch is not installed for {server.python}")


def report(names: list[str]) -> None:
    """the last run as a page: what was compiled when, and why"""
    from fitasks.ui.report import kernels_on_disk, report_last_run

    session = current()
    labels = {kernel.label for kernel in session.plan.chosen(names)} if names else None
    known = kernels_on_disk(session.kernels, session.judge)
    _say(map(str, report_last_run(session.root / ".fitasks", known, labels)))


def jitlog(files: list[str]) -> None:
    """what servers compiled at run time, by FlashInfer's own log"""
    from fitasks.server.jitlog import logs_of, read_logs
    from fitasks.ui.jitlog_table import lines

    session = current()
    named = {os.path.realpath(file): Path(file) for file in files}
    logs = tuple(named.values()) or logs_of(session.plan, session.server)
    found = read_logs(logs, None if session.problem else session.kernels)
    _say(lines(found, logs))
    if found and session.problem:
        raise EnvironmentProblem(f"coverage unknown: {session.problem.message}", remedy=session.problem.remedy)
    if any(one.accuses for one in found):
        raise Silent


def doctor(json: str) -> None:
    """what is wrong with this machine, and what to do"""
    from fitasks.doctor.examine import examine
    from fitasks.ui.doctor_table import show_findings, write_findings

    findings = examine(current())
    show_findings(findings)
    if json:
        write_findings(Path(json), findings)
    if any(finding.state == "problem" for finding in findings):
        raise Silent


def why(names: list[str]) -> None:
    """why each kernel that isn't fresh isn't"""
    from fitasks.ui.show import why_lines

    session = current()
    chosen = session.plan.chosen(names)
    if session.problem:
        raise session.problem
    shown = [kernel for kernel in chosen if names or kernel.problem or session.judge(kernel).verdict != "fresh"]
    for kernel in shown:
        if kernel.problem:
            show_text(f"kernel:{kernel.label}: {kernel.problem}")
            continue
        judged = session.judge(kernel)
        told = session.stores.explain(kernel, session.judges[kernel.target], judged)
        _say(why_lines(kernel.label, kernel.name, judged, told))
    if not shown and not names:
        _print(f"{counted(len(chosen), 'kernel')}, all fresh" if len(chosen) != 1 else "1 kernel, fresh")


def env() -> None:
    """the export lines that the server needs"""
    from fitasks.server.exports import export_lines

    for line in export_lines(current().plan, current().ninja.executable.parent):
        show_for_shell(line)


def wheel(json: str, names: list[str]) -> None:
    """the kernels as a package that FlashInfer loads, in dist/"""
    from fitasks.delivery.wheel.install import obstacle
    from fitasks.delivery.wheel.sizes import report
    from fitasks.ui.size_table import show_sizes, write_sizes
    from fitasks.ui.units import size

    plan, made = current().plan, _packed(names)
    sizes = report(made)
    show_sizes(sizes)
    _print(f"{made.path} ({size(sizes.wheel)})")
    _say_what_is_left_out(names)
    if why := obstacle(plan.server, plan.first):
        _print(f"not for this environment: {why}")
    if json:
        write_sizes(Path(json), sizes)
    _end_with_what_is_left_out(plan, names)


def install(names: list[str]) -> None:
    """put that package into the serving environment"""
    from fitasks.delivery.wheel.install import install as put

    plan, made = current().plan, _packed(names)
    with doing(f"installing {made.path.name} for {plan.server.python}"):
        put(plan, made.path)
    _print(f"fitasks-kernels {made.version} is installed for {plan.server.python}; `doit check` asks FlashInfer")
    _say_what_is_left_out(names)
    _end_with_what_is_left_out(plan, names)


def _packed(names: list[str]) -> Wheel:
    from fitasks.delivery.collect import collect
    from fitasks.delivery.wheel.wheel import build_wheel

    session, plan = current(), current().plan
    with doing(f"packing {counted(len(plan.chosen(names)), 'kernel')}"):
        return build_wheel(collect(plan, session.judges, names), plan.server, Path("dist"))


def _end_with_what_is_left_out(plan: Plan, names: list[str]) -> None:
    """Say what wasn't delivered; exit status 1 for what is of no use to anybody, though the others were delivered."""
    from fitasks.delivery.collect import left_out, unpackaged

    _say(unpackaged(plan, names))
    _say(told := left_out(plan, names))
    if told:
        raise Silent


def _say_what_is_left_out(names: list[str]) -> None:
    """Say what a package of named kernels does without: installed, it takes the place of one that holds others."""
    planned, packed = (len(current().plan.chosen(chosen)) for chosen in ((), names))
    if packed < planned:
        _print(f"{packed} of {planned} planned kernels: installed, it takes the place of a package that has the others")


def deliver(into: str, names: list[str]) -> None:
    """what no package can hold, in a directory for an image"""
    from fitasks.delivery.collect import left_out
    from fitasks.delivery.deliver import deliver as lay
    from fitasks.delivery.deliver import variables
    from fitasks.ui.bundles import delivered_lines

    session = current()
    delivered = lay(session.plan, session.judges, names, Path(into))
    _say(delivered_lines(delivered, into, variables(delivered, into)))
    _say(told := left_out(session.plan, names))
    if told:
        raise Silent


def uninstall() -> None:
    """take it out again"""
    from fitasks.delivery.wheel.install import uninstall as take

    gone = take(current().server)
    _print(f"fitasks-kernels {gone} is removed" if gone else "fitasks-kernels is not installed")


def bundle(file: str, names: list[str]) -> None:
    """the fresh kernels as one file, for a cache elsewhere"""
    from fitasks.delivery.bundle.bundle import bundle as pack
    from fitasks.delivery.bundle.filename import file_among
    from fitasks.ui.bundles import bundled_lines

    with doing("packing the kernels"):
        done = pack(_here(), *file_among(file, names))
    _say(bundled_lines(done))
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

    with pulled(parse(called), current().root / ".fitasks", os.environ, _print) as path:
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

    done = take(_here(), path, called="" if str(path) == called else called)
    _say(unbundled_lines(done, called))
    if done.unusable:
        raise Silent


def _here() -> Here:
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
    _say(repacked_lines(made))


def ops(words: list[str]) -> None:
    """what may be written below `kernels:`, with parameters"""
    from fitasks.plan.offers import offers
    from fitasks.ui.ops_table import ops_lines

    plan = current().plan
    known = offers(plan.server, plan.toolkit.home, next(iter(plan.targets)), plan.state)
    _say(ops_lines(known, words, plan.server.version("flashinfer-python")))


def explain_models() -> None:
    """what each model below `models:` needs, and why"""
    from fitasks.models.kernels import answers
    from fitasks.ui.models_table import NONE, lines

    plan = current().plan
    for request in plan.config.models:
        for target, told in answers(request, tuple(plan.targets)).items():
            for answer in told:
                _say(lines(request, target, answer, plan.not_loaded))
    if not plan.config.models:
        _print(NONE)


def import_trace(files: list[str], write: bool) -> None:
    """what a recorded server asked for, for kernels.yaml"""
    from fitasks.trace.sources import files_of

    import_files(current(), files_of(files, Path.cwd()), to_write=write)


def import_files(session: Session, files: Sequence[Path], *, to_write: bool) -> None:
    """Show what the files ask for beyond kernels.yaml as a diff, and write it if asked to. Raises FitasksError."""
    from fitasks.trace.importing import propose, write
    from fitasks.trace.sources import read_sources
    from fitasks.ui.trace_table import proposed

    sources = read_sources(files)
    proposal = propose(session.plan, session.root / session.plan.config.file, sources.requested)
    _say(sources.notes)
    if proposal.diff:
        show_text(proposal.diff)
    _say(proposed(proposal))
    if proposal.diff and to_write:
        write(proposal)
        _print(f"{proposal.file.name} written; `doit` compiles")
    elif proposal.diff:
        _print(f"nothing written yet: {proposal.file.name} gets this with --write")


def clear_incomplete() -> None:
    """remove half-built modules that nobody is building"""
    from fitasks.compile.clear import clear_incomplete as clear
    from fitasks.ui.show import cleared_lines

    _say(cleared_lines(clear(current().plan.first.base)))


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
    _say(pushed_lines(done, left))
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
    registry = Registry(reference, os.environ, _print)
    with room(current().root / ".fitasks") as place:
        done = pack(_here(), place / NAME, names)
        pinned = replace(reference, tag="", digest=registry.push(done.path))
    _say(bundled_lines(done, str(reference)))
    _print(f"this one, whatever the tag will name: {pinned}")
    if done.left_out:
        raise Silent


def store() -> None:
    """what the stores have: kernels, versions, sizes, last use"""
    from fitasks.ui.store_table import local_lines, remote_lines

    session = current()
    _say(local_lines(session.store.root, session.store.contents()))
    _of_each(session.stores.remotes, lambda remote: remote_lines(remote.url, remote.contents()))


def keygen(files: list[str]) -> None:
    """make a key to sign kernels with, and say its public part"""
    from fitasks.store.remote import keys

    if len(files) > 1:
        raise EnvironmentProblem(f"keygen makes one key, not {len(files)}", remedy=f"doit keygen {files[0]}")
    file = Path(files[0]).absolute() if files else keys.usual_file(os.environ)
    signer = keys.make(file)
    named = "" if file == keys.usual_file(os.environ) else f", where {keys.VARIABLE}={file} is set"
    _print(f"{file}: kernels that this user puts into stores are signed with it{named}")
    _print(f"trust: [{signer.public!r}]")


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
            _say(lines(remote))
        except EnvironmentProblem as problem:
            problems.append(problem)
    if problems:
        raise EnvironmentProblem("\n".join(one.message for one in problems), remedy=problems[0].remedy)


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
    _print(collected_line(store.root, removed, store.contents()))


def reset(yes: bool) -> None:
    """remove this version's modules and generated sources"""
    from fitasks.compile import clear
    from fitasks.ui.show import reset_lines

    plan = current().plan
    directories = clear.reset_targets(plan)
    _say(reset_lines({one: clear.bytes_in(one) for one in directories}, clear.left_by_reset(plan)))
    if not directories:
        return
    if not yes and not _confirmed():
        _print("nothing was removed")
        raise Silent
    clear.reset(directories)
    _print("removed")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise EnvironmentProblem("nothing was removed: nobody can be asked here", remedy="doit reset --yes")
    return input("remove all of these? [y/N] ").strip().lower() in {"y", "yes"}


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        _print(line)
