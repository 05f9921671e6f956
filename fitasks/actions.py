"""The tasks that look, say, or clear up: one function each, named like the task; the docstring is doit's.

What they need is imported when they run, so that `doit list` stays quick.
"""

from __future__ import annotations

from pathlib import Path

from fitasks.errors import EnvironmentProblem, Silent
from fitasks.session import current

# The product's output: stdout, so that it can be piped.
_print = print


def apply_cudart_policy() -> None:
    """after the kernels: what `cudart:` in kernels.yaml asks for"""
    from fitasks.runtime.cudart_policy import apply

    for line in apply(current()):
        _print(line)


def cudart() -> None:
    """the toolkit's libcudart and the server's, side by side; act by kernels.yaml's policy"""
    from fitasks.ui.show import show_cudart

    show_cudart(current())


def patch_cudart(dry_run: bool) -> None:
    """replace the server's libcudart by the toolkit's newer one (--dry-run)"""
    from fitasks.runtime.cudart_policy import patch

    _print(patch(current(), dry_run=dry_run))


def restore_cudart(dry_run: bool) -> None:
    """put the server's own libcudart back (--dry-run)"""
    from fitasks.runtime.cudart_policy import restore

    _print(restore(current(), dry_run=dry_run))


def check(json: str, trace: str) -> None:
    """what the server will do with each kernel; exit status 1 if it would compile (--json FILE, --trace FILE)"""
    from fitasks.runtime.check import check as predict_all
    from fitasks.runtime.check import conditions
    from fitasks.ship.install import notice
    from fitasks.ui.check_table import show_verdicts, write_verdicts

    verdicts = predict_all(current())
    needed = conditions(current(), verdicts)
    show_verdicts(verdicts, needed)
    if told := notice(current().plan):
        _print(told)
    if json:
        write_verdicts(Path(json), verdicts, needed)
    if not _covers(trace) or not all(verdict.good for verdict in verdicts):
        raise Silent


def _covers(trace: str) -> bool:
    """Whether kernels.yaml names all that a recorded server asked for; true where nothing is to be compared."""
    if not trace:
        return True
    from fitasks.ui.trace_table import show_coverage

    return show_coverage(current(), Path(trace))


def verify(names: list[str], force: bool) -> None:
    """prove kernels on all GPUs at once, against references (or some: doit verify page; --force again)"""
    from fitasks.runtime.verify.verify import verify as prove
    from fitasks.ui.verify_table import line, summary

    verdicts = prove(current(), names, force=force, say=_print, told=lambda verdict: _print(line(verdict)))
    _print(summary(verdicts))
    if verdicts and all(verdict.outcome == "no GPU" for verdict in verdicts):
        raise EnvironmentProblem(
            "none of these GPUs is of an architecture that kernels.yaml names", remedy="see targets:"
        )
    if not all(verdict.good or verdict.outcome == "no GPU" for verdict in verdicts):
        raise Silent


def install_sm90_switch() -> None:
    """make servers heed FLASHINFER_DISABLE_SM90=1, which FlashInfer itself ignores (a hook in their environment)"""
    from fitasks.runtime.sm90_switch import install

    server = current().server
    where = install(server.prefix, server.site_directories)
    _print(f"{where}: with FLASHINFER_DISABLE_SM90=1, FlashInfer chooses generic modules for Hopper's (fa2 for fa3)")


def uninstall_sm90_switch() -> None:
    """take that hook out again"""
    from fitasks.runtime.sm90_switch import uninstall

    server = current().server
    removed = uninstall(server.prefix, server.site_directories)
    for path in removed:
        _print(f"removed {path}")
    if not removed:
        _print(f"the switch is not installed for {server.python}")


def report() -> None:
    """the last run as a page and as a trace for Chrome: what was compiled when, by which slot, and why"""
    from fitasks.ui.report import report_last_run

    for path in report_last_run(current()):
        _print(str(path))


def jitlog(files: list[str]) -> None:
    """what servers compiled or loaded at run time, by FlashInfer's own log, and whether kernels.yaml covers it"""
    from fitasks.ui.jitlog_table import show_jitlog

    if not show_jitlog(current(), files):
        raise Silent


def doctor(json: str) -> None:
    """versions side by side, what is missing and how to get it; compiles ten lines as FlashInfer would (--json FILE)"""
    from fitasks.runtime.doctor.examine import examine
    from fitasks.ui.doctor_table import show_findings, write_findings

    findings = examine(current())
    show_findings(findings)
    if json:
        write_findings(Path(json), findings)
    if any(finding.state == "problem" for finding in findings):
        raise Silent


def why(names: list[str]) -> None:
    """why each kernel that isn't fresh isn't (or of some: doit why kernel:page)"""
    from fitasks.ui.show import show_why

    show_why(current(), names)


def env() -> None:
    """print the export lines that the server needs"""
    from fitasks.ui.show import show_env

    show_env(current())


def wheel(json: str) -> None:
    """the kernels as a package that FlashInfer loads without compiler or cache, in dist/ (--json FILE for its sizes)"""
    from fitasks.ship.install import obstacle
    from fitasks.ship.sizes import report
    from fitasks.ship.wheel import build_wheel
    from fitasks.ui.size_table import show_sizes, write_sizes
    from fitasks.ui.units import size

    made = build_wheel(current(), Path("dist"))
    sizes = report(made)
    show_sizes(sizes)
    _print(f"{made.path} ({size(sizes.wheel)})")
    if why := obstacle(current().plan):
        _print(f"not for this environment: {why}")
    if json:
        write_sizes(Path(json), sizes)


def install() -> None:
    """put that package into the serving environment (pip, or uv)"""
    from fitasks.ship.install import install as put
    from fitasks.ship.wheel import build_wheel

    plan = current().plan
    made = build_wheel(current(), Path("dist"))
    put(plan, made.path)
    _print(f"fitasks-kernels {made.version} is installed for {plan.server.python}; `doit check` asks FlashInfer")


def uninstall() -> None:
    """take the package of kernels out of the serving environment"""
    from fitasks.ship.install import uninstall as take

    gone = take(current().plan.server)
    _print(f"fitasks-kernels {gone} is removed" if gone else "fitasks-kernels is not installed")


def bundle(file: str, names: list[str]) -> None:
    """put the fresh kernels into one file for another machine (doit bundle FILE)"""
    from fitasks.ship.bundle import bundle as pack
    from fitasks.ui.bundles import bundled_lines

    for line in bundled_lines(pack(current(), _one_file(file, names, "bundle"))):
        _print(line)


def unbundle(file: str, names: list[str]) -> None:
    """take the kernels of a bundle, proven by hash (doit unbundle FILE)"""
    from fitasks.ship.unbundle import unbundle as unpack
    from fitasks.ui.bundles import unbundled_lines

    for line in unbundled_lines(unpack(current(), _one_file(file, names, "unbundle"))):
        _print(line)


def _one_file(file: str, names: list[str], task: str) -> Path:
    if len(chosen := [*filter(None, [file]), *names]) != 1:
        raise EnvironmentProblem(f"doit {task} takes one file", remedy=f"doit {task} kernels.tar.gz")
    return Path(chosen[0])


def ops(words: list[str]) -> None:
    """what the installed FlashInfer offers, with parameters and values (doit ops prefill)"""
    from fitasks.ui.ops_table import show_ops

    show_ops(current(), words)


def explain_models() -> None:
    """what each model of kernels.yaml needs, by which field and which rule of which engine, and what isn't known"""
    from fitasks.ui.models_table import show_models

    show_models(current())


def import_trace(files: list[str], write: bool) -> None:
    """add what a trace, log or cache asks for to kernels.yaml: shows the diff (--write writes it)"""
    from fitasks.ui.trace_table import files_of, import_files

    import_files(current(), files_of(files, Path.cwd()), to_write=write)


def clear_incomplete() -> None:
    """remove half-built kernels that nobody is building"""
    from fitasks.ui.show import show_cleared

    show_cleared(current())


def gc(limit: int) -> None:
    """shrink the store of finished kernels (--limit, in GB)"""
    from fitasks.ui.show import show_collected

    show_collected(current(), limit)


def reset(yes: bool) -> None:
    """remove all compiled kernels and generated sources of this plan (asks, or --yes)"""
    from fitasks.ui.show import ask_and_reset

    ask_and_reset(current(), yes=yes)
