"""As much of NVML as fitasks asks, for the GPUs that FAKE_GPUS lists: [{"capability": "9.0", "free": bytes}, …]."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


def _gpus() -> list[dict[str, Any]]:
    return json.loads(os.environ.get("FAKE_GPUS", "[]"))


def nvmlInit() -> None:
    if not _gpus():
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "580.1"


def nvmlDeviceGetCount() -> int:
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetMigMode(_handle: int) -> tuple[int, int]:
    raise NVMLError("Not Supported")


def nvmlDeviceGetCudaComputeCapability(handle: int) -> tuple[int, ...]:
    return tuple(map(int, _gpus()[handle].get("capability", "9.0").split(".")))


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    free = _gpus()[handle].get("free", 79 << 30)
    return SimpleNamespace(total=80 << 30, free=free, used=(80 << 30) - free)


def nvmlDeviceGetUUID(handle: int) -> str:
    return f"GPU-{handle}"


def nvmlDeviceGetName(_handle: int) -> str:
    return "Fake H100"
