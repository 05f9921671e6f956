"""What is computed to prove a module, by op: through FlashInfer's public API, compared with float32 in torch.

A case takes the module's parameters (as the planner reports them) and yields checks: what is computed, and a function
that computes it and returns (error, tolerance, function to time). A module whose op has no case is only loaded. Each
check calls functions of the one module only that its op names, with arguments under which every FlashInfer from 0.6.7
on loads that module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verify_attention import batch_decode, batch_prefill
from verify_cascade import cascade
from verify_elementwise import activation, norm, rope
from verify_exact import page, quantization, topk
from verify_inputs import UnsupportedError
from verify_mla import batch_mla
from verify_sampling import sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from verify_inputs import Check

__all__ = ["CASES", "UnsupportedError", "checks_for"]

CASES: dict[str, Callable[[dict[str, Any]], Iterator[Check]]] = {
    "batch_decode": batch_decode,
    "batch_prefill": batch_prefill,
    "batch_mla": batch_mla,
    "cascade": cascade,
    "page": page,
    "quantization": quantization,
    "sampling": sampling,
    "norm": norm,
    "rope": rope,
    "act_and_mul": activation,
    "topk": topk,
}


def checks_for(op: str, params: dict[str, Any]) -> Iterator[Check]:
    """The checks of an op. Raises UnsupportedError where there are none."""
    if op not in CASES:
        raise UnsupportedError(f"no reference for {op}")
    yield from CASES[op](params)
