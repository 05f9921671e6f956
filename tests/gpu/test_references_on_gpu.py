"""Every reference that `doit verify` has meets the real kernels, with the variants that a wrapper can be asked for.

About 2,000 CPU seconds of compiling: three minutes on 16 cores. The shipped kernels.yaml, which `doit verify` proves in
the project (sampling, page, cascade, quantization, decode, fa2 and fa3 prefill), isn't repeated here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doit_project import Project

pytestmark = pytest.mark.real

KERNELS = """\
  norm:
  rope:
  act: {op: act_and_mul, act_func_name: [silu, gelu, gelu_tanh]}
  mla: {op: batch_mla, backend: [fa2, fa3], dtype_q: bfloat16, head_dim_ckv: 512, head_dim_kpe: 64}
  window: {op: batch_decode, dtype_q: float16, head_dim: 64, use_sliding_window: true, use_logits_soft_cap: true}
  fp8: {op: batch_decode, dtype_q: bfloat16, dtype_kv: float8_e4m3fn, head_dim: 128}
  wide: {op: batch_decode, dtype_q: bfloat16, head_dim: 256}
  mixed: {op: batch_decode, dtype_q: float16, dtype_o: bfloat16, head_dim: 128}
  capped: {op: batch_prefill, backend: fa2, dtype_q: float16, head_dim: 64, use_logits_soft_cap: true}
  sliding: {op: batch_prefill, backend: fa2, dtype_q: bfloat16, head_dim: 64, use_sliding_window: true}
  wide_prefill: {op: batch_prefill, backend: fa2, dtype_q: bfloat16, head_dim: 256}
  deepseek: {op: batch_prefill, backend: fa2, dtype_q: bfloat16, head_dim_qk: 192, head_dim_vo: 128}
  fp8_prefill: {op: batch_prefill, backend: fa2, dtype_q: bfloat16, dtype_kv: float8_e4m3fn, head_dim: 128}
"""


def test_every_reference_holds(hopper: Callable[[str], Project]) -> None:
    out = hopper(KERNELS).doit("verify")
    assert "\n16 proven numerically\n" in out, out


def test_top_k(hopper: Callable[[str], Project]) -> None:
    """By itself: its longest file takes ten minutes, on any number of cores."""
    out = hopper("  topk:\n").doit("verify")
    assert "\n1 proven numerically\n" in out, out
