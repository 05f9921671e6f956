"""What would the server load? Calls the getters that FlashInfer's own wrappers call, with build_and_load stubbed.

    python ask_wrappers.py PLANNED.json ANSWER.json

PLANNED.json is a planner's response with the op of each kernel; ANSWER.json has, for each id, the first module that
the getter asked for, and the build.ninja and lock that FlashInfer itself makes for it.
"""

import importlib
import json
import sys
from pathlib import Path
from unittest import mock

import torch

GETTERS = {
    "batch_prefill": ["flashinfer.prefill:get_batch_prefill_module"],
    "batch_decode": ["flashinfer.decode:get_batch_decode_module"],
    "batch_attention": [
        "flashinfer.attention._core:get_holistic_attention_module",
        "flashinfer.attention:get_holistic_attention_module",
    ],
    "batch_mla": [
        "flashinfer.mla._batch_mla._backends._fa_common:get_batch_mla_module",
        "flashinfer.mla._core:get_batch_mla_module",
        "flashinfer.mla:get_batch_mla_module",
    ],
    "page": ["flashinfer.page:get_page_module"],
    "norm": ["flashinfer.norm:get_norm_module"],
    "rope": ["flashinfer.rope:get_rope_module"],
    "sampling": ["flashinfer.sampling:get_sampling_module"],
    "cascade": ["flashinfer.cascade:get_cascade_module"],
    "quantization": ["flashinfer.quantization.packbits:get_quantization_module"],
    "topk": ["flashinfer.topk:get_topk_module"],
    "act_and_mul": ["flashinfer.activation:get_act_and_mul_module"],
}


class Loaded(Exception):
    """The getter has asked for this module; what it does with a loaded one is of no interest."""

    def __init__(self, spec):
        self.spec = spec


def load(spec):
    raise Loaded(spec)


def no_device(*_args):
    raise RuntimeError("no GPU")


def getter_of(op):
    for place in GETTERS[op]:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise LookupError(op)


def argument(name, value):
    return getattr(torch, value) if name.startswith("dtype") else value


def answer(kernel):
    arguments = [argument(name, value) for name, value in kernel["params"].items()]
    try:
        getter_of(kernel["op"])(*arguments)
    except Loaded as loaded:
        spec = loaded.spec
    spec.write_ninja()
    return {"name": spec.name, "ninja": spec.ninja_path.read_text(), "lock": str(spec.lock_path)}


def main(planned, answers):
    with mock.patch("torch.cuda.get_device_properties", no_device):
        core = importlib.import_module("flashinfer.jit.core")
    with mock.patch.object(core.JitSpec, "build_and_load", load):
        kernels = json.loads(Path(planned).read_text())["kernels"]
        found = {kernel["id"]: answer(kernel) for kernel in kernels}
    Path(answers).write_text(json.dumps(found))


main(*sys.argv[1:])
