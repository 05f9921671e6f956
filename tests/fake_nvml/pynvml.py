# ruff: noqa: N801, N802 - NVML's own names
"""Stands in for NVML: FAKE_GPUS is a JSON list, an object for each GPU, which says how it differs from a sound H100.

`fails` is a function that raises for this GPU, `error` the error's name; `mig` the number of its instances.
"""

import json
import os
from types import SimpleNamespace


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


def _gpus():
    return json.loads(os.environ.get("FAKE_GPUS", "[]"))


def _asked(function, handle):
    gpu = _gpus()[handle[0]]
    if gpu.get("fails") == function and len(handle) == gpu.get("depth", len(handle)):
        raise globals()["NVMLError_" + gpu.get("error", "GpuIsLost")](gpu.get("says", "GPU is lost"))
    return gpu


def nvmlInit():
    if not _gpus():
        raise NVMLError("Driver Not Loaded")


def nvmlShutdown():
    pass


def nvmlSystemGetDriverVersion():
    return "580.65.06"


def nvmlDeviceGetCount():
    if os.environ.get("FAKE_COUNT") == "fails":
        raise NVMLError("Unknown Error")
    return len(_gpus())


def nvmlDeviceGetHandleByIndex(index):
    _asked("handle", (index,))
    return (index,)


def nvmlDeviceGetMigMode(handle):
    if "mig" not in _asked("mig", handle):
        raise NVMLError_NotSupported("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(handle):
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(handle, instance):
    if instance >= _asked("instance", handle)["mig"]:
        raise NVMLError("Not Found")
    return (*handle, instance)


def nvmlDeviceGetGpuInstanceId(handle):
    return 7 + handle[1]


def nvmlDeviceGetComputeInstanceId(handle):
    return 0


def nvmlDeviceGetCudaComputeCapability(handle):
    return tuple(map(int, _asked("capability", handle).get("capability", "9.0").split(".")))


def nvmlDeviceGetMemoryInfo(handle):
    free = _asked("memory", handle).get("free", 80)
    return SimpleNamespace(total=80 * 10**9, free=free * 10**9)


def nvmlDeviceGetUUID(handle):
    _asked("uuid", handle)
    return f"GPU-aa{handle[0]}" if len(handle) == 1 else f"MIG-{handle[0]}{handle[1]}"


def nvmlDeviceGetName(handle):
    _asked("name", handle)
    return "H100"
