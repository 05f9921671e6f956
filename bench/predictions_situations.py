"""The situations: what befell a compiled kernel or its server, each as a small change to one project.

`@situation("title")` adds one; `then_doit=True` adds a second one, in which doit has run between the change and the
question. Where a builder's shell isn't the server's, `stage.shell` has what only the builder's has.
"""

from __future__ import annotations

from bench.predictions_environment import ENVIRONMENT
from bench.predictions_kernel import KERNEL
from bench.predictions_places import PLACES

SITUATIONS = KERNEL | ENVIRONMENT | PLACES
