"""From the plan to proofs: which kernels are to be proven, on which GPUs, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fitasks.cuda.elf import exported
from fitasks.cuda.gpus import all_gpus, driver_version, usable
from fitasks.errors import EnvironmentProblem
from fitasks.files import sha256_file
from fitasks.plan import planner
from fitasks.runtime.check import ahead_of_time
from fitasks.runtime.verify import proof as proofs
from fitasks.runtime.verify.pool import Job, Pool, Result
from fitasks.runtime.verify.proof import Check, Proof
from fitasks.runtime.verify.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fitasks.cuda.gpus import Gpu
    from fitasks.plan.kernel import Kernel
    from fitasks.session import Session

_MEMORY = 4 << 30  # bytes that must be free on a GPU; a worker takes about 1.5 GB
_TVM_FFI = "__tvm_ffi_"  # the prefix of what a module exports (tvm-ffi's TVM_FFI_DLL_EXPORT_TYPED_FUNC)


@dataclass(frozen=True)
class Verdict:
    """What is known of one kernel on one architecture; `proof` is set where it was proven, now or before."""

    label: str
    capability: str
    outcome: str  # "numerical", "loaded", "failed", "gpu", "missing", "no GPU"
    proof: Proof | None = None
    message: str = ""
    gpu: str = ""  # that proved it in this run

    @property
    def good(self) -> bool:
        return self.outcome in {"numerical", "loaded"}


def verify(
    session: Session, names: Sequence[str], *, force: bool, say: Callable[[str], None], told: Callable[[Verdict], None]
) -> list[Verdict]:
    """Prove the named kernels (all without names), but those whose proof holds unless `force`.

    `told` hears each verdict as it is found. Raises EnvironmentProblem where there is no GPU to ask.
    """
    gpus = _gpus(session, say)
    verdicts: list[Verdict] = []

    def found(verdict: Verdict) -> None:
        verdicts.append(verdict)
        told(verdict)

    jobs: list[Job] = []
    hashes: dict[str, tuple[Path, str]] = {}
    for kernel in session.plan.chosen(names):
        library = next(iter(ahead_of_time(session, kernel)), kernel.library)
        if not library.exists():
            found(Verdict(kernel.label, kernel.target, "missing", message=f"{library.name} is missing; run doit"))
            continue
        hashes[kernel.label] = (kernel.build_dir, sha256_file(library))
        jobs += _jobs(kernel, library, gpus, hashes[kernel.label], found, force=force)
    driver = driver_version()

    def ended(result: Result) -> None:
        directory, digest = hashes[result.job.label]
        found(_verdict(result, directory, digest, driver))

    Pool(gpus, lambda gpu, target: _worker(session, gpu, target), say=say, done=ended).run(jobs)
    return verdicts


def _gpus(session: Session, say: Callable[[str], None]) -> tuple[Gpu, ...]:
    """Those that can be used. Raises EnvironmentProblem where there is none."""
    found, refused = usable(all_gpus(), session.plan.server.env, _MEMORY)
    for gpu, why in refused:
        say(f"GPU {gpu.label} ({gpu.name}) isn't used: {why}")
    if not found:
        raise EnvironmentProblem(
            "no GPU that could be used is visible here, so that nothing can be run",
            remedy="`doit check` tells, without a GPU, what a server will do with each kernel and whether it will load",
        )
    return found


def _jobs(
    kernel: Kernel,
    library: Path,
    gpus: Sequence[Gpu],
    identity: tuple[Path, str],
    found: Callable[[Verdict], None],
    *,
    force: bool,
) -> list[Job]:
    """One job for each architecture of the kernel that is here and isn't proven."""
    jobs = []
    known = {} if force else proofs.read(*identity)
    for capability in capabilities(kernel.target):
        if capability in known:
            found(Verdict(kernel.label, capability, known[capability].kind, known[capability]))
        elif not any(gpu.capability == capability for gpu in gpus):
            found(Verdict(kernel.label, capability, "no GPU", message=f"no GPU of {capability} here"))
        else:
            jobs.append(_job(kernel, library, capability))
    return jobs


def _job(kernel: Kernel, library: Path, capability: str) -> Job:
    names = (symbol.name for symbol in exported(library))
    functions = sorted(name.removeprefix(_TVM_FFI) for name in names if name.startswith(_TVM_FFI))
    request = {
        "id": kernel.label,
        "op": op_of(kernel),
        "name": kernel.name,
        "params": kernel.params,
        "library": str(library),
        "exports": [name for name in functions if not name.startswith("_")],
    }
    return Job(kernel.label, kernel.target, capability, float(library.stat().st_size), request)


def op_of(kernel: Kernel) -> str:
    """`page` also for an entry that names its generator as `flashinfer.jit.page:gen_page_module`."""
    if ":" not in kernel.op:
        return kernel.op
    return kernel.op.rpartition(":")[2].strip("_").removeprefix("gen_").removesuffix("_module")


def capabilities(target: str) -> list[str]:
    """The architectures of a target as GPUs say them: 8.0 and 9.0 for "8.0 9.0a"."""
    return [word.rstrip("af") for word in target.split()]


def _worker(session: Session, gpu: Gpu, target: str) -> Worker:
    plan = session.plan
    env = planner.environment(plan.server, plan.toolkit.home, target)
    # The nvcc module of norm is what is built; without this FlashInfer might prefer CuTe-DSL's.
    env |= {"CUDA_VISIBLE_DEVICES": gpu.uuid, "FLASHINFER_USE_CUDA_NORM": "1"}
    return Worker(plan.server.python, env, plan.state / "logs" / f"verify-gpu{gpu.label}.log")


def _verdict(result: Result, directory: Path, digest: str, driver: str) -> Verdict:
    """With the proof, written before it is told."""
    job, gpu = result.job, result.gpu
    if gpu is None or result.outcome not in {"numerical", "loaded"}:
        return Verdict(job.label, job.capability, result.outcome, message=result.message, gpu=gpu.label if gpu else "")
    proof = Proof(
        sha256=digest,
        capability=job.capability,
        gpu=gpu.name,
        driver=driver,
        torch=result.ready["torch"],
        flashinfer=result.ready["flashinfer"],
        kind="numerical" if result.outcome == "numerical" else "loaded",
        checks=tuple(Check(**check) for check in result.answer["checks"]),
        note=result.message,
        proven=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    directory.mkdir(parents=True, exist_ok=True)
    proofs.add(directory, proof)
    return Verdict(job.label, job.capability, result.outcome, proof, gpu=gpu.label)
