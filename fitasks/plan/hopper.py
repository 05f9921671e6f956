"""Whether Hopper's modules are planned, or the generic ones in their place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fitasks.base.environment import switch
from fitasks.cuda.architecture import capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitasks.config.model import Config

VARIABLE = "FITASKS_SM90"  # 0: as `sm90: false` in kernels.yaml; what `doit --no-sm90` and `make SM90=0` set


def wanted(config: Config) -> bool:
    """By kernels.yaml, unless the environment says no. Raises EnvironmentProblem."""
    return switch(os.environ, VARIABLE, default=True) and config.sm90


def left_out(config: Config, targets: Iterable[str]) -> bool:
    """Whether a target has Hopper's modules and the plan does without: its servers need to be told the same."""
    return any("9.0" in capabilities(target) for target in targets) and not wanted(config)
