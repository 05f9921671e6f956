"""The tasks that look, say, or clear up: one function each, named like the task; the docstring is doit's.

What they need is imported when they run, so that `doit list` stays quick.
"""

from __future__ import annotations

from pathlib import Path

from fitasks.errors import Silent
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


def check(json: str) -> None:
    """what the server will do with each kernel; exit status 1 if it would compile (--json FILE)"""
    from fitasks.runtime.check import check as predict_all
    from fitasks.runtime.check import conditions
    from fitasks.ui.check_table import show_verdicts, write_verdicts

    verdicts, needed = predict_all(current()), conditions(current())
    show_verdicts(verdicts, needed)
    if json:
        write_verdicts(Path(json), verdicts, needed)
    if not all(verdict.good for verdict in verdicts):
        raise Silent


def verify(names: list[str], force: bool) -> None:
    """prove kernels on all GPUs at once, against references (or some: doit verify page; --force again)"""
    from fitasks.runtime.verify.verify import verify as prove
    from fitasks.ui.verify_table import line, summary

    verdicts = prove(current(), names, force=force, say=_print, told=lambda verdict: _print(line(verdict)))
    _print(summary(verdicts))
    if not all(verdict.good or verdict.outcome == "no GPU" for verdict in verdicts):
        raise Silent


def install_sm90_switch() -> None:
    """make servers heed FLASHINFER_DISABLE_SM90=1, which FlashInfer itself ignores (a hook in their environment)"""
    from fitasks.runtime.sm90_switch import install

    server = current().plan.server
    _print(f"{install(server.prefix, server.site_packages)}: with FLASHINFER_DISABLE_SM90=1, fa2 is chosen for fa3")


def uninstall_sm90_switch() -> None:
    """take that hook out again"""
    from fitasks.runtime.sm90_switch import uninstall

    server = current().plan.server
    for path in uninstall(server.prefix, server.site_packages):
        _print(f"removed {path}")


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
