"""The tasks of the group `build`: after the kernels: what kernels.yaml says of libcudart."""

from __future__ import annotations

from fitasks.base.streams import show_lines
from fitasks.graph.session import current

NONE_YET = (
    "kernels.yaml names no kernels yet: write them below `kernels:` (`doit ops`) or `models:`, or import a trace",
)


def apply_cudart_policy() -> None:
    """after the kernels: what `cudart:` in kernels.yaml asks for"""
    from fitasks.server.cudart_policy import apply

    session = current()
    show_lines(NONE_YET if not session.plan.kernels else ())
    show_lines(apply(session.plan, session.runtime))
