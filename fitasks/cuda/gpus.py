"""Which GPUs a server would see, by NVML: no CUDA context, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class Gpu:
    """One physical GPU. `capability` is the compute capability as FlashInfer's architecture lists write it."""

    index: int
    uuid: str
    name: str
    capability: str  # "9.0"
    memory: int  # bytes


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine in NVML's (PCI bus) order; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
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

    Entries are indexes (meant in NVML's order, CUDA_DEVICE_ORDER=PCI_BUS_ID) or UUIDs and their beginnings.
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
    return tuple(chosen)


def architectures(env: Mapping[str, str]) -> str:
    """The visible GPUs' architecture set in FlashInfer's form ("8.0 9.0"), "" without a GPU."""
    capabilities = {gpu.capability for gpu in visible(all_gpus(), env)}
    return " ".join(sorted(capabilities, key=lambda text: tuple(int(part) for part in text.split("."))))


def _is(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _gpu(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(index, pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle), f"{major}.{minor}", memory)
