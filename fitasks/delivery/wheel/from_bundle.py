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
from fitasks.cuda.elf import is_shared_object
from fitasks.delivery.bundle.bundle import NINJA_FILE
from fitasks.delivery.bundle.manifest import BundleRefused, Origin
from fitasks.delivery.bundle.reading import opened
from fitasks.delivery.bundle.staging import staging
from fitasks.delivery.bundle.unbundle import refusals
from fitasks.delivery.bundle.usable import proven, refuse_foreign, refuse_too_large
from fitasks.delivery.bundle.whole import proven as proven_whole
from fitasks.delivery.collect import collected, complete
from fitasks.delivery.tvmffi import headers_abi
from fitasks.delivery.wheel.install import obstacle
from fitasks.delivery.wheel.wheel import Wheel, build_wheel
from fitasks.plan.caches import CACHED_OPS
from fitasks.plan.kernel import Kernel
from fitasks.plan.target import Target

if TYPE_CHECKING:
    from fitasks.delivery.bundle.manifest import Manifest
    from fitasks.delivery.bundle.usable import PackedModule
    from fitasks.plan.server import Server


@dataclass(frozen=True)
class Repacked:
    """A wheel of a bundle's kernels, for all its architecture sets; `obstacle` as of install.py.

    `left` is the number of kernels in the bundle that no package can hold.
    """

    wheel: Wheel
    python: Path  # the interpreter that it is for
    obstacle: str
    left: int = 0


def repack(server: Server, path: Path, directory: Path, state: Path, *, called: str = "") -> Repacked:
    """Write the wheel into `directory`; the bundle, which errors call `called`, is unpacked in `state`.

    Raises BundleRefused as `unbundle` does, KernelFailure as `complete` does. A bundle for architectures that
    kernels.yaml doesn't name is taken: FlashInfer chooses among those of a package.
    """
    with refusals(path, called), staging(state) as unpacked:
        with opened(path) as archive:
            manifest = archive.manifest()
            abi = headers_abi(server.site_packages)
            refuse_foreign(manifest, _flashinfer(server, manifest), sysconfig.get_platform(), abi)
            refuse_too_large(manifest, unpacked)
            archive.unpack(manifest, unpacked, manifest.workspaces)
        built = proven(manifest, unpacked)
        proven_whole(manifest, unpacked)
        modules = {f"{one.name}@{one.held.architecture}": one for one in built if one.held.part == CACHED_OPS}
        if not modules:
            raise BundleRefused("it holds no kernel that a package can hold", remedy="doit unbundle takes it")
        targets = {name: _target(name, manifest, server) for name in manifest.workspaces}
        kernels = collected(
            [_kernel(one, manifest) for one in modules.values()],
            lambda kernel: complete(kernel, modules[kernel.label].receipt, targets[kernel.target]),
        )
        why = obstacle(server, next(iter(targets.values())))
        wheel = build_wheel(kernels, server, directory)
        return Repacked(wheel, server.python, why, len(manifest.modules()) - len(modules))


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


def _target(architecture: str, manifest: Manifest, server: Server) -> Target:
    """What a package says of an architecture set, in a place where nothing could be planned."""
    root, home = Path(server.imported_from("flashinfer-python")), Path(manifest.cuda_home)
    abi = manifest.tvm_ffi_abi
    workspace = Path(manifest.workspaces[architecture])
    return Target(architecture, workspace, root, home, manifest.flashinfer, "", manifest.tvm_ffi, tvm_ffi_abi=abi)


def _kernel(module: PackedModule, manifest: Manifest) -> Kernel:
    """Raises BundleRefused for a library that is none."""
    library = module.staged / f"{module.name}.so"
    if is_shared_object(library):
        raise BundleRefused(f"{library.name!r} in it can't be loaded on this machine")
    origin = manifest.kernels.get(f"{module.held.architecture}/{module.name}") or _guessed(module)
    return Kernel(
        label=f"{module.name}@{module.held.architecture}",
        entry="",
        op=origin.op,
        target=module.held.architecture,
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


def _guessed(module: PackedModule) -> Origin:
    """For a bundle of an older fitasks."""
    return Origin(module.receipt.generator.rpartition(":gen_")[2].removesuffix("_module") or module.name, {})
