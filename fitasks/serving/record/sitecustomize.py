"""Stands in for the environment's own sitecustomize while a server is recorded: installs the hook, then runs that one.

Python imports `sitecustomize` when it starts, in every process, spawned workers included (site.py). Nothing that goes
wrong here may reach the server.
"""

import os
import sys

if os.environ.get("FITASKS_RECORD"):
    try:
        import fitasks_record

        fitasks_record.install(os.environ["FITASKS_RECORD"])
    except Exception as error:
        print(f"fitasks: not recording: {error!r}", file=sys.stderr)

# What the environment would have run without us; its own mistakes are its own. Another copy of us is passed over, too.
_elsewhere = [entry for entry in sys.path if not os.path.exists(os.path.join(entry, "fitasks_record.py"))]
_finder = next((finder for finder in sys.meta_path if getattr(finder, "__name__", "") == "PathFinder"), None)
_spec = _finder.find_spec("sitecustomize", _elsewhere) if _finder is not None else None
if _spec is not None and _spec.loader is not None:
    import importlib.util

    _module = importlib.util.module_from_spec(_spec)
    sys.modules["sitecustomize"] = _module
    _spec.loader.exec_module(_module)
