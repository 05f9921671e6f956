"""Asking for CuTe-DSL objects: what the script can't say is kept, what nobody answered is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fitasks.config.generators import may_be_called, may_make_object
from fitasks.config.model import KernelConfig, Position
from fitasks.plan import cute
from fitasks.plan.cute import ask_objects
from fitasks.processes.interpreter import NoAnswer

_GATE = "flashinfer.norm.kernels.gate:_get_compiled"
_KERNELS = {3: KernelConfig("gate", _GATE, "gate", {}, Position("kernels.yaml", 1, 1), {})}


def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, target: str = "9.0a") -> str:
    """The mistake of the one kernel."""
    file = tmp_path / "script.py"
    file.write_text(script)
    monkeypatch.setattr(cute, "_SCRIPT", file)
    (record,), reads = ask_objects(Path(sys.executable), {}, target, _KERNELS, recorded=False)
    assert record["id"] == 3
    assert reads == []
    return str(record["error"]["message"])


def test_what_the_script_cannot_say_is_a_mistake_of_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = 'import sys, json; json.dump({"fatal": {"message": "no CuTe-DSL"}}, open(sys.argv[2], "w"))'
    assert asked(monkeypatch, tmp_path, script) == "no CuTe-DSL"


def test_a_killed_script_is_no_answer_to_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoAnswer, match="ended without an answer"):
        asked(monkeypatch, tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_target_of_several_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = asked(monkeypatch, tmp_path, "raise SystemExit", "8.0 9.0a")
    assert said == "CuTe-DSL compiles for one GPU at a time, and the target is '8.0 9.0a'; write a target for each"


@pytest.mark.parametrize(
    ("op", "module", "an_object"),
    [
        (_GATE, False, True),
        ("flashinfer.jit.page:gen_page_module", True, False),
        ("flashinfer.norm:gen_x_module", True, False),
        ("flashinfer.jit.core:clear_cache_dir", False, False),
        ("flashinfer:x", False, False),
        ("flashinfer.norm:a.b", False, False),
        ("flashinfer_x.norm:f", False, False),
        ("sglang.jit_kernel.rope:_jit_rope_module", True, False),
        ("sglang.jit_kernel.all_reduce:get_all_reduce_module", True, False),
        ("sglang.kernels.ops.communication.all_reduce:_init_communicator", True, False),
        ("sglang.kernels:a.b", False, False),
        ("sglang.srt.utils:x", False, False),
        ("sglang.multimodal_gen.a:_jit_a", True, False),
        ("sglang.jit_kernelx.rope:rope", False, False),
        ("sglangx.rope:_jit_rope_module", False, False),
        ("os:system", False, False),
    ],
)
def test_what_words_may_name(op: str, module: bool, an_object: bool) -> None:
    assert (may_be_called(op), may_make_object(op)) == (module, an_object)
