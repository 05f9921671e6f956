"""Which GPUs a server would see, by NVML: no CUDA context, no torch."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@dataclass(frozen=True)
class Gpu:
    """A physical GPU, or an instance of one that is divided (MIG); `uuid` is what CUDA_VISIBLE_DEVICES takes.

    One that doesn't answer has a `trouble`, and little else.
    """

    index: int
    uuid: str
    name: str
    capability: str  # "9.0", as FlashInfer's architecture lists write it
    memory: int  # bytes; 0 where the driver doesn't tell
    free: int | None = None  # bytes, when it was asked; None where the driver doesn't tell
    instance: int | None = None  # of a divided GPU
    parent: str = ""  # UUID of the GPU that was divided
    part: str = ""  # "7/0": the GPU instance's and the compute instance's number, of a divided GPU
    trouble: str = ""  # why it can't be used

    @property
    def label(self) -> str:
        """`0`, or `0.1` for an instance."""
        return str(self.index) if self.instance is None else f"{self.index}.{self.instance}"

    @property
    def names(self) -> tuple[str, ...]:
        """What CUDA_VISIBLE_DEVICES may call it; the last is an instance's name up to driver R460."""
        old = f"MIG-{self.parent}/{self.part}" if self.part else ""
        return tuple(filter(None, (str(self.index), self.parent, self.uuid, old)))


def all_gpus() -> tuple[Gpu, ...]:
    """Every GPU of the machine in NVML's (PCI bus) order, a divided one as its instances; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _gpus(index))
    except pynvml.NVMLError:  # of the count: a driver that answers nothing
        return ()
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
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; like CUDA, stop at the first invalid entry.

    Entries are indexes (meant in NVML's order, CUDA_DEVICE_ORDER=PCI_BUS_ID) or UUIDs and their beginnings, all of the
    first one's kind; a divided GPU, by index or UUID, means its first instance. A GPU named twice leaves none at all
    (so torch.cuda._parse_visible_devices, which follows CUDA).
    """
    gpus = tuple(gpus)
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return gpus
    kind = next((kind for kind in ("GPU-", "MIG-") if listed.strip().startswith(kind)), "")
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in listed.split(",")):
        match = _meant(gpus, entry if kind else _number(entry)) if entry.startswith(kind) else None
        if match is None:
            break
        chosen.append(match)
    return tuple(chosen) if len(set(chosen)) == len(chosen) else ()


def _number(entry: str) -> str:
    """As strtoul reads an index: `01` is 1, and `1;2` too."""
    found = re.match(r"\+?(\d+)", entry)
    return str(int(found[1])) if found else ""


def usable(
    gpus: Iterable[Gpu], env: Mapping[str, str], memory: int
) -> tuple[tuple[Gpu, ...], tuple[tuple[Gpu, str], ...]]:
    """Visible GPUs that answer and have at least `memory` bytes free, and the others with the reason.

    One whose driver doesn't tell how much is free (GPUs that share the host's memory) is used.
    """
    judged = [(gpu, _obstacle(gpu, memory)) for gpu in visible(gpus, env)]
    return tuple(gpu for gpu, why in judged if not why), tuple((gpu, why) for gpu, why in judged if why)


def architectures(env: Mapping[str, str]) -> str:
    """The visible GPUs' architecture set in FlashInfer's form ("8.0 9.0"), "" without a GPU."""
    capabilities = {gpu.capability for gpu in visible(all_gpus(), env) if not gpu.trouble}
    return " ".join(sorted(capabilities, key=lambda text: tuple(int(part) for part in text.split("."))))


def _meant(gpus: tuple[Gpu, ...], entry: str) -> Gpu | None:
    """The GPU of one entry of CUDA_VISIBLE_DEVICES; a UUID's beginning counts only where it is one device's alone."""
    first = dict(reversed([(name, gpu) for gpu in gpus for name in gpu.names]))
    if entry in first or not entry.startswith(("GPU-", "MIG-")):
        return first.get(entry)
    begun = {gpu for name, gpu in first.items() if name.startswith(entry)}
    return begun.pop() if len(begun) == 1 else None


def _obstacle(gpu: Gpu, memory: int) -> str:
    """What keeps a GPU from being used, "" if nothing does."""
    if gpu.trouble or gpu.free is None or gpu.free >= memory:
        return gpu.trouble
    return f"{gpu.free / 1e9:.1f} GB of {gpu.memory / 1e9:.0f} are free, {memory / 1e9:.1f} needed"


def _gpus(index: int) -> Iterator[Gpu]:
    """The GPU itself, or its instances; what doesn't answer (fallen off the bus, say) keeps no other one away."""
    import pynvml

    try:
        parent = pynvml.nvmlDeviceGetHandleByIndex(index)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(parent)
        handles = _handles(parent)
    except pynvml.NVMLError as error:
        yield _silent(index, None, error)
        return
    if not handles:
        yield Gpu(index, "", "empty", f"{major}.{minor}", 0, trouble="it is divided (MIG), and has no instances")
    for instance, handle in handles:
        try:
            gpu = _described(index, f"{major}.{minor}", handle)
            yield gpu if instance is None else _instance(gpu, instance, parent, handle)
        except pynvml.NVMLError as error:
            yield _silent(index, instance, error)


def _silent(index: int, instance: int | None, error: Exception) -> Gpu:
    return Gpu(index, "", "no answer", "", 0, instance=instance, trouble=f"NVML says: {error}")


def _described(index: int, capability: str, handle: Any) -> Gpu:
    import pynvml

    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission):
        return Gpu(index, uuid, name, capability, 0)
    return Gpu(index, uuid, name, capability, int(memory.total), int(memory.free))


def _instance(gpu: Gpu, instance: int, parent: Any, handle: Any) -> Gpu:
    import pynvml

    part = ""
    with contextlib.suppress(pynvml.NVMLError):  # only an older name is made of them
        numbers = pynvml.nvmlDeviceGetGpuInstanceId(handle), pynvml.nvmlDeviceGetComputeInstanceId(handle)
        part = "/".join(map(str, numbers))
    return replace(gpu, instance=instance, parent=pynvml.nvmlDeviceGetUUID(parent), part=part)


def _handles(parent: Any) -> list[tuple[int | None, Any]]:
    """Of the GPU, or of the instances that it is divided into; their numbers may have gaps."""
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):  # most can't be divided
        if pynvml.nvmlDeviceGetMigMode(parent)[0]:
            return list(_instances(parent))
    return [(None, parent)]


def _instances(parent: Any) -> Iterator[tuple[int, Any]]:
    import pynvml

    for instance in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
        with contextlib.suppress(pynvml.NVMLError):
            yield instance, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, instance)
