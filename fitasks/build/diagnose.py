"""From the log of a failed ninja to what a person needs: the first real error, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ERRORS = [
    re.compile(r"^(?P<file>[^\s:(]+)\((?P<line>\d+)\): (?:catastrophic )?error.*", re.MULTILINE),  # nvcc, cudafe
    re.compile(r"^(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: .*", re.MULTILINE),  # gcc
    re.compile(r"^(?:ptxas|nvlink|nvcc|cicc|cudafe\+\+|fatbinary)\s*(?:fatal|error)\s*: .*", re.MULTILINE),
    re.compile(r"^.*(?:cannot find -l\S+|undefined reference to|No space left on device).*", re.MULTILINE),
    re.compile(r"^\S*(?:cc1plus|g\+\+|c\+\+|gcc)\S*: (?:fatal )?error: .*", re.MULTILINE),
    re.compile(r"^(?:Killed|ninja: (?:error|fatal): .*|.*: not found|.*Permission denied.*)$", re.MULTILINE),
]

_COMPONENTS = {
    "cublas": ("cublas", "libcublas-dev"),
    "curand": ("curand", "libcurand-dev"),
    "nvrtc": ("nvrtc", "cuda-nvrtc-dev"),
    "cuda_runtime": ("cudart", "cuda-cudart-dev"),
}
_MEMORY = "the compiler was killed for want of memory"
_HINTS = [
    (r"Unsupported gpu architecture '(\S+)'", "this nvcc is too old for {0}: use a newer toolkit, or change targets"),
    (r"unsupported GNU version", "the host compiler is too new for this nvcc: set CXX and CC to an older g++ and gcc"),
    (r"cannot find -lcuda\b", "the toolkit has no libcuda stub: pip install 'fitasks[cuda13]', or cuda-driver-dev"),
    (r"cannot find -lcudart", "the toolkit's lib64 has no libcudart.so: pip install 'fitasks[cuda13]'"),
    (r"No space left on device", "the disk is full: free space in the cache and in TMPDIR, then run doit again"),
    (r"Python\.h: No such file", "the interpreter's headers are missing: apt-get install python3-dev"),
    (r"Killed|signal 9|Killed signal terminated|out of memory", _MEMORY),
    (r"Permission denied", "a file or directory can't be written: see its owner"),
]


@dataclass(frozen=True)
class Diagnosis:
    """The first real compiler error, on one line, and a hint where the cause is well known."""

    first_error: str
    hint: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether the compiler was killed, most likely by the kernel for want of memory."""
        return self.hint == _MEMORY


def diagnose(log: str, status: int) -> Diagnosis:
    """The cause of a failed build; `status` as of subprocess."""
    error = _first_error(log) or _last_line(log) or f"ninja ended with status {status}"
    return Diagnosis(error, _hint(error + "\n" + log, status))


def _first_error(log: str) -> str:
    found = [match for pattern in _ERRORS if (match := pattern.search(log))]
    return min(found, key=lambda match: match.start())[0].strip() if found else ""


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(("ninja: build stopped", "["))]
    return lines[-1].strip() if lines else ""


def _hint(text: str, status: int) -> str:
    if header := re.search(r"fatal error: (\w+)\.h: No such file", text):
        for stem, (extra, package) in _COMPONENTS.items():
            if header[1].startswith(stem):
                return f"{header[1]}.h is of the toolkit's {extra}: pip install 'cuda-toolkit[{extra}]', or {package}"
    for pattern, hint in _HINTS:
        if match := re.search(pattern, text):
            return hint.format(*match.groups())
    return _MEMORY if status in {-9, 137} else ""
