"""Part of ahead_of_time.py: kernels that their engine is asked for itself, since it makes their keys.

CuTe-DSL objects in FlashInfer's cache, and modules that SGLang keeps by content (0.5.23). The planner's scripts ask, in
this environment, what a server would find; they lie in `plan/`, beside this file or beside its directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ahead_sglang
from ahead_files import UnusableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SCRIPTS = {"cute": "cute_plan.py", "sglang-keyed": "sglang_keyed_plan.py"}
KINDS = frozenset(_SCRIPTS)


@dataclass(frozen=True)
class Asked:
    """A kernel as it was built: the function that asks for it, its parameters as JSON, and its library's SHA-256."""

    kind: str
    name: str
    target: str
    op: str
    params: str
    sha256: str  # "" where it wasn't finished


@dataclass(frozen=True)
class Answer:
    """The file that a server would load, None where it would compile; a sentence on what is wrong, "" if nothing is."""

    library: Path | None = None
    problem: str = ""


def asked(kernel: dict[str, Any]) -> Asked:
    """What `doit check --json` says of one. Raises ValueError, KeyError."""
    words = [str(kernel[key]) for key in ("kind", "name", "target", "op", "sha256")]
    if not all(word.isprintable() for word in words) or not isinstance(kernel["params"], dict):
        raise ValueError(f"{kernel['name']!r:.200} is no kernel")
    kind, name, target, op, digest = words
    return Asked(kind, name, target, op, json.dumps(kernel["params"], sort_keys=True), digest)


def engine_of(one: Asked) -> str:
    """Whose it is."""
    return "FlashInfer" if one.kind == "cute" else "SGLang"


def answers(wanted: Iterable[Asked]) -> dict[Asked, Answer]:
    """What a server would find of each. Raises UnusableError where an engine can't be asked."""
    groups: dict[tuple[str, str], list[Asked]] = {}
    for one in wanted:
        groups.setdefault((one.kind, one.target), []).append(one)
    found: dict[Asked, Answer] = {}
    for (kind, target), those in groups.items():
        said = _ask(kind, target, those)
        found |= {one: _judged(one, said.get(index, {})) for index, one in enumerate(those)}
    modules = [one.library for asked, one in found.items() if one.library and not one.problem and asked.kind != "cute"]
    refused = ahead_sglang.refusals(modules) if modules else {}
    return {asked: Answer(one.library, one.problem or _told(one, refused)) for asked, one in found.items()}


def _told(one: Answer, refused: dict[Path, str]) -> str:
    problem = refused.get(one.library, "") if one.library else ""
    return f"{one.library} {problem}" if problem else ""


def _ask(kind: str, target: str, those: Sequence[Asked]) -> dict[int, dict[str, Any]]:
    """What a script answers, by number. Raises UnusableError."""
    kernels = [{"id": index, "op": one.op, "params": json.loads(one.params)} for index, one in enumerate(those)]
    request = {"version": 1, "architecture": target, "load": True, "kernels": kernels}
    with tempfile.TemporaryDirectory() as place:
        asking, answer = Path(place, "request.json"), Path(place, "response.json")
        asking.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, str(_script(_SCRIPTS[kind])), str(asking), str(answer)]
        env = {**os.environ, "FLASHINFER_CUDA_ARCH_LIST": target}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        said = _read(answer)
    if "kernels" not in said:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        why = said.get("fatal", {}).get("message", last[0])
        raise UnusableError(f"{sys.executable} can't say what a server finds for {those[0].name}: {why}")
    return {one["id"]: one for one in said["kernels"]}


def _script(name: str) -> Path:
    here = Path(__file__).resolve().parent
    beside = here / "plan" / name
    return beside if beside.is_file() else here.parent / "plan" / name


def _read(answer: Path) -> dict[str, Any]:
    try:
        said = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _judged(one: Asked, said: dict[str, Any]) -> Answer:
    if not one.sha256:
        why = "was not finished where the list was made; run doit, then doit check --json there"
        return Answer(None, f"{one.name}: {why}")
    if "error" in said:
        return Answer(None, f"{one.name}: {said['error']['message']}")
    library, why = (_object if one.kind == "cute" else _module)(said)
    if why:
        return Answer(None, f"{one.name}: {why}")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    altered = f"{library} is altered: {digest[:12]}, {one.sha256[:12]} as it was built"
    return Answer(library, "" if digest == one.sha256 else altered)


def _object(said: dict[str, Any]) -> tuple[Path, str]:
    """FlashInfer's word on an object, and why it wouldn't load it."""
    (found,) = said["objects"]
    path = Path(found["path"])
    if not found["there"]:
        return path, f"{path} is missing"
    if not found["valid"]:
        keys = ", ".join(f"{key} is {there!s:.60}, not {here!s:.60}" for key, (there, here) in found["differs"].items())
        return path, f"FlashInfer passes over {path}, which is of another key: {keys or 'it has no meta.json'}"
    return path, "" if found["loads"] else f"{path} can't be loaded: {found['why']}"


def _module(said: dict[str, Any]) -> tuple[Path, str]:
    """SGLang's word on a module, and why it wouldn't load it."""
    library = Path(said["library"])
    if said["found"] and not said["forced"]:
        return library, "" if said["whole"] else f"{library} is no whole library"
    if said["forced"]:
        return library, "SGLANG_JIT_FORCE_RECOMPILE is set"
    changed = f"; changed since: {', '.join(said['changed'][:3])}" if said["changed"] else ""
    others = f"; it is there for the key {', '.join(said['other_keys'][:3])}" if said["other_keys"] else ""
    return library, f"SGLang finds none in {said['directory']}{changed}{others}"
