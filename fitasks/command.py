"""`doit run` with one more option: `doit --no-sm90`. Found by doit through the entry point group doit.COMMAND."""

from __future__ import annotations

import os
from typing import Any

from doit.cmd_run import Run as DoitRun

_NO_SM90 = {
    "name": "no_sm90",
    "short": "",
    "long": "no-sm90",
    "type": bool,
    "default": False,
    "help": "plan generic modules in place of Hopper's, as `sm90: false` in kernels.yaml does (fitasks)",
}


class Run(DoitRun):  # type: ignore[misc]  # doit has no types
    """doit's own command; the option becomes FITASKS_SM90=0 before dodo.py is loaded."""

    name = "run"
    cmd_options = (*DoitRun.cmd_options, _NO_SM90)

    def execute(self, params: Any, args: list[str]) -> Any:
        if params["no_sm90"]:
            os.environ["FITASKS_SM90"] = "0"
        return super().execute(params, args)
