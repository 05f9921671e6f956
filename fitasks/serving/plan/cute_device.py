"""Answers torch's questions about a GPU as one of an architecture would, so that CuTe-DSL kernels are made without one.

The architecture tells the compute capability. What it doesn't tell (multiprocessors, memory, a name) has to be given;
asked for something else, the stand-in refuses: a kernel that was made for a guess would be found, and be wrong.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from plan_errors import FatalError, one_line
from plan_spec import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARCHITECTURE = re.compile(r"(\d+)\.(\d)[a-z]?")
_ARCH = "CUTE_DSL_ARCH"
_PROPERTIES = {  # the driver's names of what torch calls so
    "COMPUTE_CAPABILITY_MAJOR": "major",
    "COMPUTE_CAPABILITY_MINOR": "minor",
    "MULTIPROCESSOR_COUNT": "multi_processor_count",
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": "shared_memory_per_block_optin",
    "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": "shared_memory_per_multiprocessor",
}
_RESERVED = 1024  # bytes of shared memory that CUDA takes of each block since 8.0 (CUDA C++ Programming Guide)


class Untold(BaseException):
    """A function asks for more of the GPU than is known. BaseException, so that nothing between makes a guess of it."""


class Device:
    """A GPU of an architecture ("9.0a"), with what is known of it beside that: {"multi_processor_count": 132}."""

    def __init__(self, architecture: str, known: dict[str, Any]) -> None:
        found = _ARCHITECTURE.fullmatch(architecture)
        if not found:
            remedy = 'write it like "9.0a"'
            raise FatalError("request", f"{architecture!r} is no GPU architecture", remedy)
        self.major, self.minor = int(found.group(1)), int(found.group(2))
        self.known = {"major": self.major, "minor": self.minor, **known}

    def __getattr__(self, name: str) -> Any:
        """One of the device's properties, as torch.cuda.get_device_properties has them."""
        if name.startswith("__") or name == "known":
            raise AttributeError(name)
        if name in self.known:
            return self.known[name]
        raise Untold(f"it depends on the GPU's {name}, which compute capability {self.major}.{self.minor} doesn't tell")

    def attribute(self, attribute: Any, _device: int = 0) -> Any:
        """One of the device's attributes, as CuTe-DSL asks the driver for them."""
        name = attribute.name.replace("CU_DEVICE_ATTRIBUTE_", "")
        return getattr(self, _PROPERTIES.get(name, name.lower()))

    @property
    def capability(self) -> tuple[int, int]:
        return self.major, self.minor


def name_architecture(device: Device) -> None:
    """Name the architecture to CuTe-DSL, which reads it when it is imported and would else ask the driver.

    What the environment says itself holds, as it does in a server.
    """
    suffix = "a" if device.major >= 9 else ""
    os.environ.setdefault(_ARCH, f"sm_{device.major}{device.minor}{suffix}")


def check_architecture(device: Device, named: bool) -> None:
    """Raise FatalError unless FlashInfer, asked on this device, names the architecture that we named."""
    from flashinfer.jit import cute_dsl_core

    if named:
        return
    ours = os.environ.pop(_ARCH)
    try:
        with standing_in(device):
            theirs = cute_dsl_core._get_compile_arch()
    finally:
        os.environ[_ARCH] = ours
    if theirs != cute_dsl_core._get_compile_arch():
        message = f"this FlashInfer compiles CuTe-DSL kernels for {theirs} on a GPU of {device.capability}, not {ours}"
        raise FatalError("unsupported", message, f"set {_ARCH} in serving.env, for doit and the server alike")


@contextlib.contextmanager
def standing_in(device: Device) -> Iterator[None]:
    """Let torch.cuda and CuTe-DSL speak of this device, and of no other."""
    import torch

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_args, **_kwargs: device.capability,
        "get_device_properties": lambda *_args, **_kwargs: device,
        "get_device_name": lambda *_args, **_kwargs: device.name,
        "is_current_stream_capturing": lambda: False,
        "device": lambda *_args, **_kwargs: contextlib.nullcontext(),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(replaced(torch.cuda, name, answer))
        stack.enter_context(replaced(_driver(), "get_device_attribute", device.attribute))
        yield


def _driver() -> Any:
    """CuTe-DSL's module that asks the driver. Raises FatalError where it has none."""
    try:
        from cutlass.base_dsl.runtime import cuda

        cuda.get_device_attribute  # noqa: B018
    except (ImportError, AttributeError) as error:
        message = f"this nvidia-cutlass-dsl asks the driver in another way than is known: {one_line(error)}"
        raise FatalError("unsupported", message, "compile its kernels on a machine with the GPU") from error
    return cuda


def know_shared_memory(device: Device) -> None:
    """Let the device tell how much shared memory it has, which CuTe-DSL knows of each architecture."""
    with contextlib.suppress(Exception):  # a CuTe-DSL that doesn't know this one
        block = _capacity(f"sm_{device.major}{device.minor}")
        device.known.setdefault("shared_memory_per_block_optin", block)
        device.known.setdefault("shared_memory_per_multiprocessor", block + _RESERVED)


def _capacity(architecture: str) -> int:
    try:
        from cutlass.memory import get_smem_capacity_in_bytes
    except ImportError:  # before 4.8
        from cutlass.utils import get_smem_capacity_in_bytes
    return int(get_smem_capacity_in_bytes(architecture))
