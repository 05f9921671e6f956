"""Which GPUs a server would see, by NVML: no CUDA context, no torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Gpu:
    """A physical GPU, or an instance of one that is divided (MIG); `uuid` is what CUDA_VISIBLE_DEVICES takes."""

    index: int
    uuid: str
    name: str
    capability: str  # "9.0", as FlashInfer's architecture lists write it
    memory: int  # bytes
    free: int = 0  # bytes, when it was asked
    instance: int | None = None  # of a divided GPU

    @property
    def label(self) -> str:
        """`0`, or `0.1` for an instance."""
        return str(self.index) if self.instance is None else f"{self.index}.{self.instance}"


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine in NVML's (PCI bus) order, a divided one as its instances; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _gpus(index))
    finally:
        pynvml.nvmlShutdown()


def driver_version() -> str:
    """The driver's version ("580.65.06"), "" where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""


def visible(gpus: Iterable[Gpu], env: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; like CUDA, stop at the first unknown entry.

    Entries are indexes (meant in NVML's order, CUDA_DEVICE_ORDER=PCI_BUS_ID) or UUIDs and their beginnings; the index
    of a divided GPU means its first instance.
    """
    gpus = tuple(gpus)
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        match = next((gpu for gpu in gpus if _is(gpu, entry)), None)
        if match is None:
            break
        chosen.append(match)
    return tuple(dict.fromkeys(chosen))


def usable(
    gpus: Iterable[Gpu], env: Mapping[str, str], memory: int
) -> tuple[tuple[Gpu, ...], tuple[tuple[Gpu, str], ...]]:
    """Visible GPUs with at least `memory` bytes free, and the others with the reason."""
    found, refused = [], []
    for gpu in visible(gpus, env):
        if gpu.free >= memory:
            found.append(gpu)
        else:
            refused.append(
                (gpu, f"{gpu.free / 1e9:.1f} GB of {gpu.memory / 1e9:.0f} are free, {memory / 1e9:.1f} needed")
            )
    return tuple(found), tuple(refused)


def architectures(env: Mapping[str, str]) -> str:
    """The visible GPUs' architecture set in FlashInfer's form ("8.0 9.0"), "" without a GPU."""
    capabilities = {gpu.capability for gpu in visible(all_gpus(), env)}
    return " ".join(sorted(capabilities, key=lambda text: tuple(int(part) for part in text.split("."))))


def _is(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry))


def _gpus(index: int) -> Iterator[Gpu]:
    """The GPU itself, or its instances."""
    import pynvml

    parent = pynvml.nvmlDeviceGetHandleByIndex(index)
    handles: list[tuple[int | None, Any]] = [(None, parent)]
    with contextlib.suppress(pynvml.NVMLError):  # most can't be divided
        if pynvml.nvmlDeviceGetMigMode(parent)[0]:
            handles = list(_instances(parent))
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(parent)
    for instance, handle in handles:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
        yield Gpu(index, uuid, name, f"{major}.{minor}", int(memory.total), int(memory.free), instance)


def _instances(parent: Any) -> Iterator[tuple[int, Any]]:
    import pynvml

    for instance in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
        with contextlib.suppress(pynvml.NVMLError):  # gaps are possible
            yield instance, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, instance)
