"""Gives FLASHINFER_DISABLE_SM90 a meaning: FlashInfer's own choice of a backend then falls back to the generic one.

Installed into a serving environment as fitasks_sm90_switch.py, with a .pth file that imports it when Python starts
(`doit install_sm90_switch`; `doit uninstall_sm90_switch` removes both). Without the variable, or with 0, it does
nothing. With it, `flashinfer.utils.is_sm90a_supported`, by which every version from 0.6.7 to 0.7.2 decides for fa3 in
attention and MLA, answers False. Nothing else of FlashInfer is touched, and a failure here is never the server's.
"""

import os
import sys


class _Finder:
    """Stands first in sys.meta_path until flashinfer.utils is imported; then goes."""

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN202 - importlib's protocol
        if name != "flashinfer.utils":
            return None
        sys.meta_path.remove(self)
        spec = None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                break
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _patch_after(spec.loader)
        return spec


def _patch_after(loader):  # noqa: ANN001, ANN202 - importlib's protocol
    original = loader.exec_module

    def exec_module(module):  # noqa: ANN001, ANN202 - importlib's protocol
        original(module)
        if hasattr(module, "is_sm90a_supported"):
            module.is_sm90a_supported = lambda *_args, **_kwargs: False
        else:
            print("fitasks: this FlashInfer has no is_sm90a_supported; sm90 stays on", file=sys.stderr)

    loader.exec_module = exec_module


if os.environ.get("FLASHINFER_DISABLE_SM90", "0").lower() not in ("", "0", "false"):
    sys.meta_path.insert(0, _Finder())
