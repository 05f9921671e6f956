"""What FlashInfer and SGLang offer: every op with its parameters, as `fitasks/serving/plan/ops.py` reads them.

Asked once and remembered in `.fitasks/ops.json`, until something that this rested on changes (reads.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from fitasks.base import memo
from fitasks.base.answers import Operation, Operations, Parameter
from fitasks.base.doing import doing
from fitasks.plan.planner import asked, basis, environment
from fitasks.plan.reads import Reads
from fitasks.processes.interpreter import SCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

    from fitasks.plan.server import Server

SCRIPT = SCRIPTS / "plan" / "ops.py"


@dataclass(frozen=True)
class Op:
    """`name` is what kernels.yaml writes: an op, or `module:function`."""

    name: str
    generator: str  # "flashinfer.jit.page:gen_page_module"
    parameters: tuple[Parameter, ...]
    doc: str
    note: str = ""  # what speaks against it: nothing calls its generator, or that can't be imported here
    kind: str = "flashinfer"  # or "sglang", "cute": then `name` is where its function is

    @property
    def unsayable(self) -> tuple[str, ...]:
        """Required parameters that kernels.yaml has no way to say."""
        return tuple(one.name for one in self.parameters if one.required and one.type == "list")


class _Memo(TypedDict):
    key: dict[str, Any]
    ops: list[Operation]
    reads: dict[str, Any]


def offers(server: Server, cuda_home: Path, target: str, state: Path) -> tuple[Op, ...]:
    """All ops, by name. Raises EnvironmentProblem where FlashInfer cannot be asked."""
    key, file = basis(server), state / "ops.json"
    answer = _remembered(file, key)
    if answer is None:
        since, what = time.time_ns(), f"FlashInfer {server.version('flashinfer-python')} of {server.python}"
        env = environment(server, cuda_home, target)
        with doing(f"asking {what} what it offers", after=0):
            asked_anew = asked(server, SCRIPT, Operations, env, "which ops its FlashInfer has")
        answer, reads = asked_anew["ops"], Reads.of([asked_anew["reads"]], since, server.python)
        memo.keep(file, {"key": key, "ops": answer, "reads": reads.as_record()})
    return tuple(_op(record) for record in answer)


def _remembered(file: Path, key: dict[str, Any]) -> list[dict[str, Any]] | None:
    said = memo.read(file, _Memo)
    return said["ops"] if said and said["key"] == key and Reads.holding(said["reads"]) else None


def _op(record: dict[str, Any]) -> Op:
    parameters = tuple(Parameter(**one | {"accepted": tuple(one["accepted"])}) for one in record["parameters"])
    return Op(record["op"], record["generator"], parameters, record["doc"], record["note"], record["kind"])
