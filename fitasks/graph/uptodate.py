"""doit's question "is it up to date?", answered from receipts.

doit keeps its own record of each `file_dep`, in a database that any crash may lose. Where the receipt vouches for a
kernel under the present stamp, that record is made again from it, so that `doit list --status` tells the truth even
in a project whose database was deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from doit.dependency import UptodateCalculator

if TYPE_CHECKING:
    from fitasks.graph.session import Session
    from fitasks.plan.kernel import Kernel


class Fresh(UptodateCalculator):  # type: ignore[misc]
    """An `uptodate` item for one kernel."""

    def __init__(self, session: Session, kernel: Kernel) -> None:
        super().__init__()
        self._session = session
        self._kernel = kernel

    def __call__(self, task: Any) -> bool:
        """Whether nothing at all is to be done. Never raises: doit would end the whole run."""
        try:
            fresh = self._session.judge(self._kernel).verdict == "fresh"
        except Exception:  # noqa: BLE001 - the action will meet the same trouble and report it for this kernel alone
            return False
        if fresh:
            self._dep_manager.save_success(task)
        return fresh

    def setup(self, dep_manager: Any, tasks_dict: Any) -> None:
        """Called by doit before the question."""
        super().setup(dep_manager, tasks_dict)
        self._dep_manager = dep_manager
