"""`doit unbundle --wheel`: the kernels of a bundle as the package that `doit wheel` makes of this machine's own.

FlashInfer loads such a package whatever the paths, compilers and headers are here. So none of them is asked for: there
may be no plan, because there is no toolkit. Everything in the bundle is proven as if it were to be unbundled.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.base.errors import EnvironmentProblem
from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.freshness import Judge
from fitasks.compile.judge.reasons import Judgement
from fitasks.compile.judge.roots import Roots
from fitasks.cuda.elf import is_shared_object
from fitasks.cuda.toolkit import Toolkit
from fitasks.delivery.bundle.bundle import NINJA_FILE
from fitasks.delivery.bundle.manifest import Origin, Refused
from fitasks.delivery.bundle.reading import opened
from fitasks.delivery.bundle.staging import staging
from fitasks.delivery.bundle.unbundle import refusals
from fitasks.delivery.bundle.usable import proven, refuse_foreign, refuse_too_large
from fitasks.delivery.tvmffi import headers_abi
from fitasks.delivery.wheel.install import obstacle
from fitasks.delivery.wheel.wheel import Wheel, build_wheel
from fitasks.graph.session import Session
from fitasks.plan.kernel import Kernel
from fitasks.plan.plan import Plan, configuration
from fitasks.plan.server import find_server
from fitasks.plan.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.delivery.bundle.manifest import Manifest
    from fitasks.delivery.bundle.usable import Module
    from fitasks.plan.server import Server


@dataclass(frozen=True)
class Repacked:
    """A wheel of a bundle's kernels, for all its architecture sets; `obstacle` as of ship/install.py."""

    wheel: Wheel
    python: Path  # the interpreter that it is for
    obstacle: str


def repack(session: Session, path: Path, directory: Path) -> Repacked:
    """Write the wheel into `directory`. Raises Refused as `unbundle` does, KernelFailure as `build_wheel` does.

    A bundle for architectures that kernels.yaml doesn't name is taken: FlashInfer chooses among those of a package.
    """
    with refusals(path), staging(session.root / ".fitasks") as unpacked:
        server = find_server(configuration(session.root), session.probe)
        with opened(path) as archive:
            manifest = archive.manifest()
            abi = headers_abi(server.site_packages)
            refuse_foreign(manifest, _flashinfer(server, manifest), sysconfig.get_platform(), abi)
            refuse_too_large(manifest, unpacked)
            archive.unpack(manifest, unpacked, manifest.workspaces)
        plan = _plan(session, server, manifest, [_kernel(one, manifest) for one in proven(manifest, unpacked)])
        return Repacked(build_wheel(_session(plan, session.root), directory), server.python, obstacle(plan))


def _flashinfer(server: Server, manifest: Manifest) -> str:
    """Its version there. Raises EnvironmentProblem where there is none."""
    if found := server.version("flashinfer-python"):
        return found
    raise EnvironmentProblem(
        f"the serving environment of {server.python} has no flashinfer-python, for which the package would be; "
        "nothing was changed",
        remedy=f"install flashinfer-python {manifest.flashinfer} there, or name the server's interpreter in "
        "kernels.yaml: serving.python",
    )


class _Proven(Judge):
    """Of kernels that were compared with their receipts, and of which nothing else can be known here."""

    def judge(self, kernel: Kernel) -> Judgement:  # noqa: ARG002 - each of them
        return Judgement("fresh")

    def anew(self) -> Judge:
        return self


def _session(plan: Plan, root: Path) -> Session:
    session = Session(root, _plan=plan)
    session.judges = {target: _Proven(Roots({}), Contents(root), {}, "", "") for target in plan.targets}
    return session


def _plan(session: Session, server: Server, manifest: Manifest, kernels: Sequence[Kernel]) -> Plan:
    """What a wheel is made from, of a place where nothing could be planned."""
    home = Path(manifest.cuda_home)
    toolkit = Toolkit(home, "bundle", home, "", "", home)
    flashinfer, root = manifest.flashinfer, Path(server.imported_from("flashinfer-python"))
    targets = {
        arch: Target(arch, Path(place), root, home, flashinfer, "", manifest.tvm_ffi, tvm_ffi_abi=manifest.tvm_ffi_abi)
        for arch, place in manifest.workspaces.items()
    }
    config = configuration(session.root)
    return Plan(config, server, toolkit, (), tuple(kernels), targets, session.root / ".fitasks")


def _kernel(module: Module, manifest: Manifest) -> Kernel:
    """Raises Refused for a library that is none."""
    library = module.staged / f"{module.name}.so"
    if is_shared_object(library):
        raise Refused(f"{library.name!r} in it can't be loaded on this machine")
    origin = manifest.kernels.get(f"{module.architecture}/{module.name}") or _guessed(module)
    return Kernel(
        label=f"{module.name}@{module.architecture}",
        entry="",
        op=origin.op,
        target=module.architecture,
        place="",
        given={},
        params=origin.params,
        name=module.name,
        generator=module.receipt.generator,
        build_dir=module.staged,
        library=library,
        ninja_file=module.staged / NINJA_FILE,
        ninja=(module.staged / NINJA_FILE).read_text(errors="replace"),
    )


def _guessed(module: Module) -> Origin:
    """For a bundle of an older fitasks."""
    return Origin(module.receipt.generator.rpartition(":gen_")[2].removesuffix("_module") or module.name, {})
