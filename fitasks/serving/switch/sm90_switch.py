"""Gives FLASHINFER_DISABLE_SM90 a meaning: where FlashInfer itself chooses between modules, it leaves out Hopper's.

Installed into a serving environment as fitasks_sm90_switch.py, with a .pth file that imports it when Python starts
(`doit install_sm90_switch`; `doit uninstall_sm90_switch` removes both). Without the variable, or with 0, false, no,
off or nothing in it, nothing is done. With it, in FlashInfer 0.6.7 to 0.7.2.post1:

- `flashinfer.utils.is_sm90a_supported` answers False: attention and MLA with backend "auto" take fa2, not fa3. (MLA
  from 0.7.1 on asks it also where a caller names fa3, and refuses.)
- `flashinfer.utils.determine_gemm_backend` answers "sm80" for "sm90": SegmentGEMMWrapper with backend "auto".
- `flashinfer.gdn_prefill`, which in 0.6.7 asks the former and has no kernels but Hopper's and later ones, gets the
  true answer.
- FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90, FlashInfer's own (from 0.7.2 on), is 1 unless it is set: paged prefill
  keeps to fa2 where speculative decoding is verified over an FP8 cache.

Not covered is what asks for the GPU's capability itself. Mostly FlashInfer has nothing generic for Hopper there: fused
MoE, GDN, FP8 block-scale GEMM, FP4 quantisation, and Mamba's selective_state_update, whose generic module later
versions compile for capability 8 alone. All these are loaded with the variable as without. Nor is a backend that an
engine names: an attention wrapper made for "fa3" remains one.

A failure here is never the server's.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing isn't imported into every Python
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OFF = ("", "0", "false", "no", "off")


class _Finder:
    """Stands first in sys.meta_path, and stays: an import that failed may be tried again."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        change = _CHANGES.get(name)
        if change is None:
            return None
        for finder in list(sys.meta_path):
            spec = finder.find_spec(name, path, target) if finder is not self and hasattr(finder, "find_spec") else None
            if spec is not None:
                _safely(_change_after, spec.loader, change)
                return spec
        return None


def _change_after(loader: Any, change: Callable[[Any], None]) -> None:
    original = loader.exec_module

    def exec_module(module: Any) -> None:
        original(module)
        _safely(change, module)

    loader.exec_module = exec_module


def _safely(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except Exception as error:
        print(f"fitasks: Hopper's modules stay on: {error}", file=sys.stderr)


def _choose_generic(utils: Any) -> None:
    for name, generic in (("is_sm90a_supported", _never), ("determine_gemm_backend", _before_hopper)):
        if hasattr(utils, name):
            setattr(utils, name, generic(getattr(utils, name)))
        else:
            print(f"fitasks: this FlashInfer has no {name}; what that decided may stay Hopper's", file=sys.stderr)


def _never(true_answer: Any) -> Any:
    def never(*_args: Any, **_kwargs: Any) -> bool:
        return False

    vars(never)["true_answer"] = true_answer
    return never


def _before_hopper(choose: Any) -> Any:
    return lambda device: "sm80" if choose(device) == "sm90" else choose(device)


def _hopper_only(module: Any) -> None:
    if hasattr(module, "is_sm90a_supported"):  # from 0.6.8 on it asks for the capability
        module.is_sm90a_supported = getattr(module.is_sm90a_supported, "true_answer", module.is_sm90a_supported)


_CHANGES = {"flashinfer.utils": _choose_generic, "flashinfer.gdn_prefill": _hopper_only}

if os.environ.get("FLASHINFER_DISABLE_SM90", "").strip().lower() not in _OFF:
    sys.meta_path.insert(0, _Finder())
    os.environ.setdefault("FLASHINFER_DISABLE_EAGLE_VERIFY_FP8KV_SM90", "1")
