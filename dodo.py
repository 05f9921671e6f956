"""fitasks' tasks for the kernels of kernels.yaml: `doit list`."""

from fitasks.dodo import *  # noqa: F403
