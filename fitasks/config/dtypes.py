"""The data types that FlashInfer's generators take, by torch's names, and the names that people give them.

Known are the keys of `dtype_map`, `dtype_map_kv` and `_dtype_map` in flashinfer/jit (utils.py, mamba/*.py) of
0.6.7 to 0.7.2; which of them an op takes is its generator's affair.
"""

from __future__ import annotations

from fitasks.config.problem import did_you_mean

# torch's name → the short name in labels, as FlashInfer's own `filename_safe_dtype_map` has it
SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "float4_e2m1fn_x2": "e2m1",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "int32": "i32",
    "uint32": "u32",
    "int64": "i64",
    "uint64": "u64",
}

_ALIASES = {
    "half": "float16",
    "fp16": "float16",
    "bf16": "bfloat16",
    "float": "float32",
    "fp32": "float32",
    "fp8": "float8_e4m3fn",
    "float8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3": "float8_e4m3fn",
    "e4m3fn": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp4": "float4_e2m1fn_x2",
    "nvfp4": "float4_e2m1fn_x2",
    "int": "int32",
    "long": "int64",
} | {short: name for name, short in SHORT.items()}


def suggestion(word: str) -> str:
    """` (did you mean bfloat16?)` for `bf16`, `torch.bfloat16`, `BFloat16`, …; "" where nothing is near."""
    plain = word.strip().lower().removeprefix("torch.")
    known = _ALIASES.get(plain)
    return f" (did you mean {known}?)" if known else did_you_mean(plain, SHORT)
