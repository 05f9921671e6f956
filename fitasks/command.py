"""`doit run` with one more option: `doit --no-sm90`. Found by doit through the entry point group doit.COMMAND.

It serves every dodo.py of this environment, ours or not, and so does only what DOIT_CONFIG asks for.
"""

from __future__ import annotations

import functools
import os
import sys
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

    @functools.wraps(DoitRun._execute)  # noqa: SLF001 - doit's own hook; doit reads the names of its parameters
    def _execute(self, *args: Any, **params: Any) -> Any:
        """Run the tasks. Kernels that nobody could plan are no tasks: whoever names one is told why there is none."""
        config = self.loader.load_doit_config()
        self.reporters |= config.get("reporters", {})
        asked = [name for name in self.sel_tasks or () if name.startswith("kernel:")]
        if asked and (problem := config.get("problem")):
            print(f"{asked[0]}: {problem}", file=sys.stderr)  # noqa: T201
            return 2
        return super()._execute(*args, **params)
