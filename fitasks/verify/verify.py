"""From the plan to proofs: which kernels are to be proven, on which GPUs, and what was found."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fitasks.base.answers import Checked
from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import sha256_file
from fitasks.compile import receipt as receipts
from fitasks.cuda.architecture import capabilities
from fitasks.cuda.elf import is_shared_object, machine_code_architectures
from fitasks.cuda.gpus import all_gpus, driver_version, usable
from fitasks.plan import planner
from fitasks.plan.kernel import WHOLE
from fitasks.server import sm90_switch
from fitasks.server.ahead import ahead_of_time
from fitasks.verify import proof as proofs
from fitasks.verify.exports import expected_exports
from fitasks.verify.pool import GpuPool, Job, Result
from fitasks.verify.proof import Proof
from fitasks.verify.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fitasks.cuda.gpus import Gpu
    from fitasks.plan.kernel import Kernel
    from fitasks.plan.plan import Plan

_MEMORY = 4 << 30  # bytes that must be free on a GPU; a worker takes about 1.5 GB


@dataclass(frozen=True)
class ProofResult:
    """What is known of one kernel on one architecture; `proof` is set where it was proven, now or before."""

    label: str
    capability: str
    outcome: str  # "numerical", "loaded", "failed", "busy", "gpu", "missing", "unplanned", "not tried", "no GPU"
    proof: Proof | None = None
    message: str = ""
    gpu: str = ""  # that proved it in this run

    @property
    def good(self) -> bool:
        return self.outcome in {"numerical", "loaded", "not tried"}


@dataclass(frozen=True)
class Subject:
    """What is proven of a kernel: the file that a server would load, its hash, and where its proofs are kept."""

    kernel: Kernel
    library: Path
    sha256: str
    proofs: Path  # a directory
    ahead: bool  # loaded ahead of time: without ninja, cache or receipt

    @classmethod
    def of(cls, plan: Plan, kernel: Kernel, library: Path, *, ahead: bool) -> Subject:
        """Somebody else's package is no place to leave proofs in. Raises OSError where there is no such file."""
        kept = plan.state / "proofs" / kernel.name if ahead else kernel.build_dir
        return cls(kernel, library, sha256_file(library), kept, ahead)


def verify(
    plan: Plan, names: Sequence[str], *, force: bool, say: Callable[[str], None], told: Callable[[ProofResult], None]
) -> list[ProofResult]:
    """Prove the named kernels (all without names), but those whose proof holds unless `force`.

    `told` hears each verdict as it is found. Raises EnvironmentProblem where there is no GPU to ask.
    """
    gpus = _gpus(plan, say)
    verdicts: list[ProofResult] = []
    one_at_a_time = threading.Lock()

    def found(verdict: ProofResult) -> None:
        with one_at_a_time:
            verdicts.append(verdict)
            told(verdict)

    jobs: list[Job] = []
    subjects: dict[str, Subject] = {}
    for kernel in plan.chosen(names):
        ahead = [] if kernel.problem else ahead_of_time(plan, kernel)
        library = next(iter(ahead), kernel.library)
        if verdict := _hopeless(kernel, library):
            found(verdict)
            continue
        subject = subjects[kernel.label] = Subject.of(plan, kernel, library, ahead=bool(ahead))
        jobs += _jobs(subject, gpus, found, force=force)
    driver = driver_version()

    def ended(result: Result) -> None:
        found(_verdict(result, subjects[result.job.label], driver))

    for log in _logs(plan).glob("verify-gpu*.log"):
        log.unlink(missing_ok=True)
    GpuPool(gpus, lambda gpu, target: _worker(plan, gpu, target), say=say, done=ended).run(jobs)
    return verdicts


def _hopeless(kernel: Kernel, library: Path) -> ProofResult | None:
    """The verdict on a kernel that no GPU need be asked about."""
    if kernel.problem:
        return ProofResult(kernel.label, kernel.target, "unplanned", message=kernel.problem)
    if kernel.built_whole:
        message = f"{WHOLE[kernel.kind]}, which nothing here computes with yet"
        return ProofResult(kernel.label, kernel.target, "not tried", message=message)
    if not library.exists():
        return ProofResult(kernel.label, kernel.target, "missing", message=f"{library.name} is missing; run doit")
    if problem := is_shared_object(library):
        return ProofResult(kernel.label, kernel.target, "failed", message=problem)
    return None


def _gpus(plan: Plan, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """Those that can be used. Raises EnvironmentProblem where there is none."""
    found, refused = usable(all_gpus(), plan.server.env, _MEMORY)
    for gpu, why in refused:
        say(f"GPU {gpu.label} ({gpu.name}) isn't used: {why}")
    if not found:
        raise EnvironmentProblem(
            "no usable GPU here, and kernels are proven by running them on one",
            remedy="run it on a machine with a GPU; `doit check` needs none",
        )
    return found


def _jobs(subject: Subject, gpus: Sequence[Gpu], found: Callable[[ProofResult], None], *, force: bool) -> list[Job]:
    """One job for each architecture of the kernel that is here and isn't proven."""
    jobs = []
    label, target = subject.kernel.label, subject.kernel.target
    known = {} if force else proofs.read(subject.proofs, subject.sha256)
    built = machine_code_architectures(subject.library)
    wanted = capabilities(target, built)
    if not wanted:
        message = f"{subject.library.name} has no code for {target}; it was built for {', '.join(built)}"
        found(ProofResult(label, target, "failed", message=message))
    for capability in wanted:
        if capability in known:
            found(ProofResult(label, capability, known[capability].kind, known[capability]))
        elif not any(gpu.capability == capability for gpu in gpus):
            found(ProofResult(label, capability, "no GPU", message=f"no GPU of {capability} here"))
        else:
            jobs.append(_job(subject, capability))
    return jobs


def _job(subject: Subject, capability: str) -> Job:
    kernel = subject.kernel
    request = {
        "id": kernel.label,
        "op": op_of(kernel),
        "name": kernel.name,
        "params": kernel.params,
        "library": str(subject.library.resolve()),  # as it will be mapped
        "ninja": "" if subject.ahead else kernel.ninja,
        "exports": expected_exports(kernel.sources),
    }
    return Job(kernel.label, kernel.target, capability, float(subject.library.stat().st_size), request)


def op_of(kernel: Kernel) -> str:
    """`page` also for an entry that names FlashInfer's generator: `gen_page_module`, `flashinfer.jit.page:gen_…`."""
    where, _, function = kernel.op.rpartition(":")
    if where.partition(".")[0] not in {"", "flashinfer"}:  # somebody's own, whatever it is called
        return kernel.op
    if function.isidentifier() and not where and not function.startswith("gen_"):
        return kernel.op
    name = function.strip("_").removeprefix("gen_").removesuffix("_module")
    return name.removesuffix("_primary")  # what the runtime's wrapper loads, see plan_generators.py


def _worker(plan: Plan, gpu: Gpu, target: str) -> Worker:
    env = planner.environment(plan.server, plan.toolkit.home, target)
    # The nvcc module of norm is what is built; without this FlashInfer might prefer CuTe-DSL's.
    env |= {"CUDA_VISIBLE_DEVICES": gpu.uuid, "FLASHINFER_USE_CUDA_NORM": "1"}
    for variable in (sm90_switch.VARIABLE, *sm90_switch.IMPLIED):  # each kernel is asked for by name, Hopper's too
        env.pop(variable, None)
    return Worker(plan.server.python, env, _logs(plan) / f"verify-gpu{gpu.label}.log")


def _logs(plan: Plan) -> Path:
    return plan.state / "logs"


def _verdict(result: Result, subject: Subject, driver: str) -> ProofResult:
    """With the proof, written before it is told; where it can't be written, it is told all the same."""
    job, gpu, outcome, message = result.job, result.gpu, result.outcome, result.message
    if outcome == "loaded" and (problem := _stranger(subject)):
        outcome, message = "failed", problem
    if gpu is None or outcome not in {"numerical", "loaded"}:
        if gpu and outcome != "busy":  # refuted, or trouble wherever it was tried
            with contextlib.suppress(OSError):
                proofs.remove(subject.proofs, subject.sha256, job.capability)
        return ProofResult(job.label, job.capability, outcome, message=message, gpu=gpu.label if gpu else "")
    proof = _proof(result, gpu, subject.sha256, driver)
    try:
        proofs.add(subject.proofs, proof)
    except OSError as error:
        message = f"the proof can't be kept: {subject.proofs}: {error.strerror or error}"
        return ProofResult(job.label, job.capability, outcome, proof, message, gpu.label)
    return ProofResult(job.label, job.capability, outcome, proof, gpu=gpu.label)


def _stranger(subject: Subject) -> str:
    """Why a file that only loads isn't what was compiled; "" if it is, or nobody knows. Numbers need no witness."""
    receipt = None if subject.ahead else receipts.read(subject.kernel)
    output = receipt.outputs.get(subject.library.name) if receipt else None
    if output is None or output.sha256 == subject.sha256:
        return ""
    return f"{subject.library.name} isn't the file that was compiled; doit builds it again"


def _proof(result: Result, gpu: Gpu, sha256: str, driver: str) -> Proof:
    return Proof(
        sha256=sha256,
        capability=result.job.capability,
        gpu=gpu.name,
        driver=driver,
        torch=result.ready["torch"],
        flashinfer=result.ready["flashinfer"],
        kind="numerical" if result.outcome == "numerical" else "loaded",
        checks=tuple(Checked(**check) for check in result.answer["checks"]),
        note=result.message,
        proven=datetime.now(UTC).isoformat(timespec="seconds"),
    )
