"""What is to be proven, and what is remembered; the proofs themselves need a GPU (tests/gpu)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fitasks.base.answers import Checked
from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda.architecture import capabilities
from fitasks.cuda.gpus import Gpu
from fitasks.plan.kernel import Kernel
from fitasks.ui.verify_table import line, summary
from fitasks.verify import proof as proofs
from fitasks.verify import verify as module
from fitasks.verify.exports import expected_exports
from fitasks.verify.proof import Proof
from fitasks.verify.verify import ProofResult, op_of
from tests.doit_project import PAGE, Planned

PROOF = Proof(
    sha256="ab",
    capability="9.0",
    gpu="H100",
    driver="580",
    torch="2.11",
    flashinfer="0.7.2",
    kind="numerical",
    checks=(Checked("paged", 0.001, 0.002, 0.02), Checked("ragged", 0.0019, 0.002, 0.04)),
    note="",
    proven="2026-01-01T00:00:00+00:00",
)


def test_a_proof_holds_for_its_library_and_architecture_only(tmp_path: Path) -> None:
    assert proofs.read(tmp_path, "ab") == {}
    proofs.add(tmp_path, PROOF)
    proofs.add(tmp_path, proofs.Proof(**vars(PROOF) | {"capability": "8.0"}))
    assert proofs.read(tmp_path, "ab")["9.0"] == PROOF
    assert sorted(proofs.read(tmp_path, "ab")) == ["8.0", "9.0"]
    assert proofs.read(tmp_path, "cd") == {}
    proofs.add(tmp_path, proofs.Proof(**vars(PROOF) | {"sha256": "cd"}))
    assert proofs.read(tmp_path, "ab") == {}, "proofs of another library are gone"


def test_proofs_of_two_architectures_at_once_are_both_kept(tmp_path: Path) -> None:
    both = [Proof(**vars(PROOF) | {"capability": one}) for one in ("8.0", "9.0")]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(200):
            (tmp_path / proofs.NAME).unlink(missing_ok=True)
            list(threads.map(lambda proof: proofs.add(tmp_path, proof), both))
            assert sorted(proofs.read(tmp_path, "ab")) == ["8.0", "9.0"]


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', '{"version": 1, "proofs": [{"x": 1}]}', "\0\0"])
def test_a_damaged_proof_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / proofs.NAME).write_text(text)
    assert proofs.read(tmp_path, "ab") == {}


def test_names_of_architectures_and_ops() -> None:
    assert capabilities("8.0 9.0a 10.0f") == ["8.0", "9.0", "10.0"]
    assert capabilities("8.0 9.0a 10.0f", ["sm_90a"]) == ["9.0"], "a module of Hopper's alone"
    assert capabilities("8.0 12.0a", ["sm_80", "sm_120a"]) == ["8.0", "12.0"]
    assert capabilities("12.1a", ["sm_120f"]) == ["12.1"], "of the same family"
    assert capabilities("8.9 9.0", ["sm_80"]) == ["8.9"]
    assert capabilities("8.9 9.0", ["ptx_80"]) == ["8.9", "9.0"]
    assert capabilities("9.0a", ["sm_80"]) == []
    ops = {
        "page": "page",
        "gen_page_module": "page",
        "flashinfer.jit.page:gen_page_module": "page",
        "flashinfer.jit.attention.modules:_gen_batch_prefill_primary_module": "batch_prefill",
        "mine.kernels:gen_norm_module": "mine.kernels:gen_norm_module",
    }
    assert {op: op_of(Kernel("x", "x", op, "9.0a", "", {})) for op in ops} == ops


def test_exports_are_expected_by_the_sources(tmp_path: Path) -> None:
    (tmp_path / "binding.cu").write_text(
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, Run);\n"
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(\n    plan,\n    Plan);\n"
        "#ifdef ENABLE_FP8\n  TVM_FFI_DLL_EXPORT_TYPED_FUNC(run_fp8, Run8);\n#endif\n"
        "// TVM_FFI_DLL_EXPORT_TYPED_FUNC(old, Old);\n"
        "TVM_FFI_DLL_EXPORT_TYPED_FUNC(last, Last);\n"
    )
    assert expected_exports([tmp_path / "binding.cu", tmp_path / "gone.cu"]) == ["last", "plan", "run"]


def test_what_is_said() -> None:
    verdicts = [
        ProofResult("page", "9.0", "numerical", PROOF, gpu="0"),
        ProofResult(
            "moe", "9.0", "loaded", Proof(**vars(PROOF) | {"kind": "loaded", "checks": (), "note": "no reference"})
        ),
        ProofResult("rope", "9.0", "failed", message="halves: error 1, tolerance 0.002"),
    ]
    assert [line(verdict) for verdict in verdicts] == [
        "page (9.0): numerical on GPU 0: 2 checks, 0.030 ms each, worst error 0.0019 of 0.002 allowed (ragged)",
        "moe (9.0): loaded before: no reference",
        "rope (9.0): failed : halves: error 1, tolerance 0.002",
    ]
    assert summary(verdicts) == "1 proven numerically, 1 only loaded (moe), 1 failed (rope)"


def test_without_a_gpu_it_says_what_check_can_tell(planned: Planned) -> None:
    project = planned.project(PAGE)
    project.doit()
    out = project.doit("verify", status=2, CUDA_VISIBLE_DEVICES="")
    assert "no usable GPU here" in out
    assert "`doit check` needs none" in out


class Session:
    """As much of one as `verify` asks: one finished kernel and one that is missing."""

    def __init__(self, base: Path) -> None:
        names = ("page", "rope")
        kernels = [Kernel(name, name, name, "8.0 9.0a", "", {}, name=name, build_dir=base / name) for name in names]
        self.kernels = [Kernel(**vars(one) | {"library": base / one.name / f"{one.name}.so"}) for one in kernels]
        self.plan: Any = self
        self.server: Any = self
        self.env: dict[str, str] = {}
        self.state = base

    def chosen(self, names: Any) -> list[Kernel]:
        return self.kernels


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session(tmp_path)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "page.so").write_text("library")
    monkeypatch.setattr(module, "ahead_of_time", lambda session, kernel: [])
    monkeypatch.setattr(module, "is_shared_object", lambda library: "")
    monkeypatch.setattr(module, "machine_code_architectures", lambda library: ())
    monkeypatch.setattr(module, "driver_version", lambda: "580")
    monkeypatch.setattr(module, "all_gpus", lambda: (Gpu(0, "GPU-0", "H100", "9.0", 80, 80 << 30),))
    asked: list[str] = []
    made.asked = asked  # type: ignore[attr-defined]

    class Worker:
        ready: ClassVar = {"torch": "2.11", "flashinfer": "0.7.2", "gpu": "H100"}

        def ask(self, request: Any, seconds: float) -> dict[str, Any]:
            asked.append(request["id"])
            return {"outcome": "numerical", "checks": [vars(check) for check in PROOF.checks], "message": ""}

        def close(self) -> None: ...

    monkeypatch.setattr(module, "_worker", lambda session, gpu, target: Worker())
    return made


def run(session: Any, *, force: bool = False) -> dict[tuple[str, str], str]:
    told: list[ProofResult] = []
    verdicts = module.verify(session, [], force=force, say=lambda text: None, told=told.append)
    assert told == verdicts
    return {(verdict.label, verdict.capability): verdict.outcome for verdict in verdicts}


def test_each_architecture_that_is_here_is_proven_once(session: Any, tmp_path: Path) -> None:
    expected = {("page", "9.0"): "numerical", ("page", "8.0"): "no GPU", ("rope", "8.0 9.0a"): "missing"}
    assert run(session) == expected
    assert run(session) == expected
    assert session.asked == ["page"], "the second time the proof holds"
    run(session, force=True)
    (tmp_path / "page" / "page.so").write_text("another")
    run(session)
    assert session.asked == ["page"] * 3


def test_a_file_for_another_gpu_is_a_failure(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_code_architectures", lambda library: ("sm_70",))
    verdicts = module.verify(session, [], force=False, say=print, told=lambda verdict: None)
    assert [(one.outcome, one.message) for one in verdicts if one.label == "page"] == [
        ("failed", "page.so has no code for 8.0 9.0a; it was built for sm_70")
    ]


def test_no_gpu_is_an_error_with_a_remedy(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "all_gpus", lambda: (Gpu(0, "GPU-0", "H100", "9.0", 80 << 30, 1 << 30),))
    said: list[str] = []
    with pytest.raises(EnvironmentProblem, match="no usable GPU here"):
        module.verify(session, [], force=False, say=said.append, told=lambda verdict: None)
    assert said == ["GPU 0 (H100) isn't used: 1.1 GB of 86 are free, 4.3 needed"]
