"""A real engine with random weights, asked until it is warm: the process that bench/server.py measures.

    python -P bench/server_engines.py ENGINE MODEL_DIR STEPS_FILE [flag=value …]

Writes one JSON line per step to STEPS_FILE: the import, the engine, each first request by kind, then the requests up
to --requests, all in one. Flags are the engine's own arguments. One function per engine: how to make it, how to ask it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import statistics
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Prompts = list[list[int]]
    Ask = Callable[[Prompts, dict[str, Any]], list[int]]  # prompts, sampling → the first one's new tokens
    Made = tuple[Ask, Callable[[], None]]  # and how to stop it

NEW_TOKENS = 8
_PREFIX = 600  # tokens
_TOKENS = 31000  # below the model's vocabulary

# Each kind is a way through the engine that may need a kernel of its own: sampling, number and length of prompts.
KINDS: dict[str, tuple[dict[str, Any], int, int]] = {
    "greedy": ({"temperature": 0.0}, 4, 700),
    "top-p": ({"temperature": 0.8, "top_p": 0.9}, 4, 700),
    "top-k": ({"temperature": 0.8, "top_k": 40}, 4, 700),
    "top-k top-p": ({"temperature": 0.8, "top_k": 40, "top_p": 0.9}, 4, 700),
    "min-p": ({"temperature": 0.8, "min_p": 0.05}, 4, 700),
    "cached prefix": ({"temperature": 0.0}, 4, 700),
    "one short": ({"temperature": 0.0}, 1, 5),
    "long": ({"temperature": 0.0}, 1, 3000),
}


class Steps:
    """What took how long, as it happens: a server that is killed has told what it had done."""

    def __init__(self, file: Path) -> None:
        self.file, self.begin = file, time.perf_counter()

    def done(self, step: str, **more: Any) -> None:
        """Since the last step, which this one follows at once."""
        now = time.perf_counter()
        said = {"step": step, "seconds": round(now - self.begin, 4), "at": time.time()} | more
        with self.file.open("a") as stream:
            stream.write(json.dumps(said) + "\n")
        self.begin = time.perf_counter()


def sglang(model: str, flags: dict[str, Any], steps: Steps) -> Made:
    theirs = importlib.import_module("sglang.srt.entrypoints.engine")
    steps.done("import", version=version("sglang"))
    engine = theirs.Engine(model_path=model, **flags)
    steps.done("engine up")

    def ask(prompts: Prompts, sampling: dict[str, Any]) -> list[int]:
        told = engine.generate(input_ids=prompts, sampling_params={"max_new_tokens": NEW_TOKENS} | sampling)
        return list(told[0]["output_ids"])

    return ask, engine.shutdown


def vllm(model: str, flags: dict[str, Any], steps: Steps) -> Made:
    theirs = importlib.import_module("vllm")
    make, sampling_params = theirs.LLM, theirs.SamplingParams  # imported when they are first named
    steps.done("import", version=version("vllm"))
    engine = make(model=model, **flags)
    steps.done("engine up")

    def ask(prompts: Prompts, sampling: dict[str, Any]) -> list[int]:
        asked: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        wanted = sampling_params(max_tokens=NEW_TOKENS, detokenize=False, **sampling)
        return list(engine.generate(asked, wanted, use_tqdm=False)[0].outputs[0].token_ids)

    return ask, lambda: None


@dataclass(frozen=True)
class Known:
    """An engine: how to make and ask it, the flags that let it run with random weights, and kernels.yaml's words."""

    start: Callable[[str, dict[str, Any], Steps], Made]
    flags: dict[str, Any]
    models: dict[str, str]  # what `models:` says of the same flags
    variables: dict[str, str] = field(default_factory=dict)  # that decide which kernels it takes


ENGINES = {
    "sglang": Known(
        sglang,
        {
            "load_format": "dummy", "skip_tokenizer_init": True, "mem_fraction_static": 0.3, "dtype": "bfloat16",
            "context_length": 4096, "grammar_backend": "none", "attention_backend": "flashinfer",
            "sampling_backend": "flashinfer", "disable_cuda_graph": True,
        },
        {"attention_backend": "flashinfer"},
    ),
    "vllm": Known(
        vllm,
        {
            "load_format": "dummy", "skip_tokenizer_init": True, "enforce_eager": True, "gpu_memory_utilization": 0.2,
            "max_model_len": 4096, "dtype": "bfloat16", "attention_backend": "FLASHINFER",
        },
        {"attention_backend": "flashinfer"},
        # Without it vLLM asks NVIDIA's server whether there are cubins, and decodes with XQA only where it answers.
        {"VLLM_HAS_FLASHINFER_CUBIN": "1"},
    ),
}  # fmt: skip


def value(text: str) -> Any:
    """What a flag's text says, as Python writes it; a word is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def prompts(kind: str, number: int) -> Prompts:
    """Other tokens for each request, so that only the kind that is to be is answered from a cached prefix."""
    _, many, length = KINDS[kind]
    made = [[(7 * i + 131 * number + j * (i + 1)) % _TOKENS + 5 for j in range(length)] for i in range(many)]
    if kind != "cached prefix":
        return made
    first = prompts("greedy", 0)  # the very first request
    return [old[:_PREFIX] + new[_PREFIX:] for old, new in zip(first, made, strict=True)]


def requests(number: int) -> Iterator[tuple[int, str]]:
    """The kinds in turn."""
    kinds = list(KINDS)
    return ((at, kinds[at % len(kinds)]) for at in range(number))


def serve(ask: Ask, steps: Steps, number: int) -> None:
    """Each first request by kind, then the rest: their seconds by kind, and the median of all."""
    seconds: dict[str, list[float]] = {}
    for at, kind in requests(number):
        asked, begin = prompts(kind, at), time.perf_counter()
        answer = ask(asked, KINDS[kind][0])
        if kind not in seconds:
            steps.done(kind, answer=answer)
        seconds.setdefault(kind, []).append(round(time.perf_counter() - begin, 4))
    later = [took for each in seconds.values() for took in each[1:]]
    if later:
        by_kind = {kind: statistics.median(each[1:]) for kind, each in seconds.items() if each[1:]}
        steps.done("later", requests=number, median=statistics.median(later), longest=max(later), by_kind=by_kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("steps", type=Path)
    parser.add_argument("flags", nargs="*", help="name=value")
    parser.add_argument("--requests", type=int, default=100)
    wanted = parser.parse_args()
    steps, known = Steps(wanted.steps), ENGINES[wanted.engine]
    flags = {name: value(text) for name, _, text in (word.partition("=") for word in wanted.flags)}
    ask, stop = known.start(wanted.model, known.flags | flags, steps)
    serve(ask, steps, wanted.requests)
    stop()
    steps.done("stopped")


if __name__ == "__main__":
    main()
