"""The tasks that look, say, or clear up: one function each, named like the task; the docstring is doit's.

What they need is imported when they run, so that `doit list` stays quick.
"""

from __future__ import annotations

from pathlib import Path

from fitasks.errors import Silent
from fitasks.session import current


def apply_cudart_policy() -> None:
    """after the kernels: what `cudart:` in kernels.yaml asks for"""
    from fitasks.runtime.cudart_policy import apply

    for line in apply(current()):
        print(line)  # noqa: T201


def cudart() -> None:
    """the toolkit's libcudart and the server's, side by side; act by kernels.yaml's policy"""
    from fitasks.ui.show import show_cudart

    show_cudart(current())


def patch_cudart(dry_run: bool) -> None:
    """replace the server's libcudart by the toolkit's newer one (--dry-run)"""
    from fitasks.runtime.cudart_policy import patch

    print(patch(current(), dry_run=dry_run))  # noqa: T201


def restore_cudart(dry_run: bool) -> None:
    """put the server's own libcudart back (--dry-run)"""
    from fitasks.runtime.cudart_policy import restore

    print(restore(current(), dry_run=dry_run))  # noqa: T201


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
