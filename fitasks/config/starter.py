"""The text of a first kernels.yaml."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMA = Path(__file__).with_name("kernels.schema.json")
_EXAMPLES = """\
# name: parameters of FlashInfer's generator gen_<op>_module; a list is a matrix. `doit ops` shows what there is.
kernels:
  decode:                         # → kernel:decode-bf16-d128
    op: batch_decode
    dtype_q: bfloat16
    head_dim: 128
  prefill:                        # → kernel:prefill-fa2-bf16-d128
    op: batch_prefill
    backend: fa2                  # [fa2, fa3] on Hopper
    dtype_q: bfloat16
    head_dim: 128
  sampling:
  page:
"""


@dataclass(frozen=True)
class Start:
    """What is known of a project when its kernels.yaml is begun."""

    targets: Sequence[str]
    schema: str = ""  # path of the JSON Schema, as an editor finds it from kernels.yaml
    python: str = ""
    engine: str = "none"
    models: Mapping[str, str] | None = None  # name → path
    traced: bool = False  # whether entries are to come from a trace


def starter(start: Start) -> str:
    """Return a kernels.yaml with what is known, and with examples where nothing says which kernels there are."""
    return "\n".join([*_lines(start), _kernels(start)])


def model_name(path: str) -> str:
    """Return what a model is called after its directory: `Llama-3.1-8B` for /models/Llama-3.1-8B/config.json."""
    words = [word for word in path.split("/") if word not in {"", ".", "..", "config.json"}]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", words[-1] if words else "").strip("-_")
    return name if name[:1].isalpha() else f"model-{name}".rstrip("-")


def _quoted(value: object) -> str:
    """As YAML reads it: not with the two halves that JSON makes of a rare letter."""
    return json.dumps(value, ensure_ascii=False)


def _lines(start: Start) -> Iterator[str]:
    if start.schema:
        yield f"# yaml-language-server: $schema={start.schema}"
        yield "#"
    yield "# The kernels to compile before a server needs them. `doit` compiles, `doit check` says what it will do."
    yield ""
    yield "serving:"
    yield f"  engine: {start.engine:<22}  # sglang, vllm or none: decides which cache directory is filled"
    if start.python:
        yield f"  python: {_quoted(start.python)}"
    yield ""
    yield "# GPU architectures, one cache each; exactly those that the server sees."
    yield f"targets: {_quoted(list(start.targets))}"
    yield ""
    if start.models:
        yield "models:"
        for name, path in start.models.items():
            yield f"  {name}: {{config: {_quoted(path)}}}"
        yield ""


def _kernels(start: Start) -> str:
    if start.models:
        return "kernels: {}                       # what nothing above names; `doit ops` shows what there is\n"
    return "kernels: {}\n" if start.traced else _EXAMPLES
