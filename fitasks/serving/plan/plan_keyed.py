"""Plans modules that SGLang keeps by content (0.5.23): the directory that a server looks into, by SGLang's own key.

What lies there changes without a plan: the doit process follows SGLang's rule (cache.find_prebuilt) itself, with what
`meta` says, so that a warm run starts no process. That the rule is the one that is known is tried here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import plan_sglang
import sglang_keyed
from plan_errors import PlanError
from plan_parameters import as_json
from plan_spec import confined
from sglang_keyed import Asked, part

_SAMPLE = ("kernels", "include/it's.cuh", "0" * 64)


def planned(op: str, params: dict[str, Any], *, recorded: bool) -> dict[str, Any]:
    """One module as a record of plan.py's response. Raises PlanError, FatalError."""
    target = plan_sglang.target()
    capability = plan_sglang.capability_of(target)
    environment = sglang_keyed.environment(capability)
    if message := sglang_keyed.unlike(environment, target):
        raise PlanError("generator", message)
    _refuse_another_rule()
    with sglang_keyed.standing_in(capability), confined() if recorded else contextlib.nullcontext():
        function, arguments, asked = sglang_keyed.asked_for(op, params, recorded)
    return {
        **_files(asked),
        "generator": op,
        "params": as_json(function, arguments),
        "meta": json.dumps({"roots": environment["needs"]["roots"], "leaves": part("cache")._MAX_LEAVES_SCANNED}),
    }


def _refuse_another_rule() -> None:
    """Raise PlanError where SGLang takes directories of other names than fitasks does (compile/judge/keyed.py)."""
    cache = part("cache")
    known = hashlib.sha256(repr(_SAMPLE).encode() + b"\0").hexdigest()[:16]
    words = (cache._DEPS_KEY_PREFIX, cache._DEPS_FILE, part("loader")._LOCK_FILE)
    if cache._deps_key([cache._DepEntry(*_SAMPLE)]) != known or words != ("deps-", "sgl_deps.json", ".lock"):
        raise PlanError("generator", "this SGLang keeps its modules in a way that isn't known")


def _files(asked: Asked) -> dict[str, Any]:
    """`library` is none of SGLang's: doit makes it a link to what was built."""
    name, directory = asked.spec.module_name, str(asked.scope)
    return {
        "kind": "sglang-keyed",
        "name": name,
        "build_dir": directory,
        "library": f"{directory}/{name}.so",
        "ninja_file": f"{directory}/build.ninja",
        "ninja": part("ninja").generate(asked.spec),
        "lock": f"{directory}/.lock",
        "sources": list(map(str, asked.spec.sources)),
        "generated": [],
        "aot": [],
    }
