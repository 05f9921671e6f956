"""Whatever a model's config.json holds: facts and answers, or our error that names the file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import BadInput, ConfigError
from fitasks.config.load import load_config
from fitasks.config.model import ModelRequest, Position
from fitasks.config.schema import ModelModel
from fitasks.models.derive import derive
from fitasks.models.facts import Facts, read_facts
from fitasks.models.kernels import answers, digests, kernels_of_models
from tests.mutants import PLAIN, json_of

LLAMA: dict[str, Any] = json.loads((Path(__file__).parent / "configs" / "llama-3.1-8b.json").read_text())
FIELDS = (
    *("model_type", "torch_dtype", "dtype", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"),
    *("v_head_dim", "kv_lora_rank", "layer_types", "sliding_window", "use_sliding_window", "attn_logit_softcapping"),
    *("num_experts", "quantization_config", "text_config", "intermediate_size"),
    *("n_routed_experts", "n_group", "topk_group", "num_experts_per_tok", "topk_method"),
)
SCALARS = st.integers(min_value=1, max_value=512) | st.sampled_from(
    ["abc", "bfloat16", "torch.float16", "llama", "\u202e", 10**400]
)
VALUES = json_of(PLAIN | SCALARS)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)

once = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def request(file: Path, **more: Any) -> ModelRequest:
    return replace(ModelRequest("l", str(file), "sglang", Position("kernels.yaml", 3, 3)), **more)


def read(file: Path) -> Facts | None:
    """The facts; None where they are refused, in a sentence that names the file and can be shown."""
    said = ""
    try:
        return read_facts(file)
    except BadInput as error:
        said = str(error)
    assert str(file) in said
    assert said.isprintable()
    return None


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    return file


@once
@given(changes=CHANGES, nested=st.booleans(), engine=st.sampled_from(["sglang", "vllm"]))
def test_any_value_in_any_field(tmp_path: Path, changes: dict[str, Any], nested: bool, engine: str) -> None:
    whole = LLAMA | changes
    file = written(tmp_path, json.dumps({"text_config": whole} if nested else whole))
    facts = read(file)
    if facts is None:
        return
    for architecture in ("8.0", "9.0", "10.0"):
        assert derive(facts, request(file, engine=engine, tensor_parallel=1024), architecture)
    assert facts.model_type.isprintable()
    assert all(0 < one < 1 << 31 for one in (facts.heads, facts.kv_heads, facts.head_dim, facts.v_head_dim))


@once
@given(data=st.binary(max_size=40), at=st.integers(0, 2000))
def test_any_bytes_anywhere(tmp_path: Path, data: bytes, at: int) -> None:
    text = json.dumps(LLAMA).encode()
    file = written(tmp_path, text[:at] + data + text[at + len(data) :])
    read(file)


BAD: dict[str, tuple[str | bytes, str]] = {
    "text": ('{"head_dim": "abc"}', "head_dim is 'abc', not a whole number of at least 1"),
    "a list": ('{"head_dim": [1]}', "head_dim is [1], not a whole number"),
    "Infinity": ('{"head_dim": Infinity}', "head_dim is inf, not a whole number"),
    "a real number": ('{"v_head_dim": 1e400}', "v_head_dim is inf, not a whole number"),
    "true": ('{"num_key_value_heads": true}', "num_key_value_heads is True, not a whole number"),
    "huge": ('{"head_dim": 123456789012345678901234567890}', "head_dim is 123456789012345678901234567890, not"),
    "of many digits": (f'{{"head_dim": {"1" * 5000}}}', "Exceeds the limit (4300 digits)"),
    "negative": ('{"v_head_dim": -5}', "v_head_dim is -5, not a whole number"),
    "no dimension": ('{"hidden_size": 3, "head_dim": null}', "hidden_size is 3, less than num_attention_heads"),
    "escapes": ('{"model_type": "\\u001b[2J"}', r"model_type is '\x1b[2J', not a name"),
    "turned around": ('{"model_type": "a\\u202eb"}', r"model_type is 'a\u202eb', not a name"),
    "half a character": ('{"model_type": "\\ud800"}', "the escape \\ud800 is no character"),
    "a type of data": ('{"torch_dtype": "float99"}', "torch_dtype is 'float99'; known are float16, bfloat16"),
    "deep": ('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}", "is nested deeper than 100 levels"),
    "not so deep": ('{"a": ' + "[" * 101 + "]" * 101 + "}", "is nested deeper than 100 levels"),
    "no UTF-8": (b'{\n"model_type": "\xff"}', "line 2: byte 0xff is no UTF-8"),
    "a number": ("7", "is no model's config.json: found 7, not an object"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    text, said = BAD[case]
    if isinstance(text, str) and case not in {"deep", "not so deep", "of many digits", "a number"}:
        text = json.dumps(LLAMA)[:-1] + ", " + text[1:]
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        answers(request(file), ["9.0a"])
    assert str(caught.value).startswith(f"kernels.yaml:3:3: models.l.config: {file}")
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_infinity_where_nobody_looks_is_a_models_own_affair(tmp_path: Path) -> None:
    """Mamba's kind writes `"time_step_limit": [0.0, Infinity]`."""
    file = written(tmp_path, json.dumps(LLAMA | {"time_step_limit": [0.0, float("inf")]}))
    assert read_facts(file) == read_facts(written(tmp_path, json.dumps(LLAMA)))


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    (path / "config.json").mkdir(parents=True)
    return path


def sparse(path: Path) -> Path:
    with path.open("wb") as stream:
        stream.truncate(10 << 30)
    return path


KINDS = {
    "pipe": (pipe, "is a pipe"),
    "device": (lambda _path: Path("/dev/zero"), "is a device"),
    "directory": (directory, "Is a directory"),
    "10 GB": (sparse, "has more than 16,777,216 bytes"),
    "missing": (lambda path: path, "No such file or directory"),
    "zero byte": (lambda path: path / "a\0b", "embedded null byte"),
    "link round in circles": (lambda path: path.symlink_to(path) or path, "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    make, said = KINDS[kind]
    asked = request(make(tmp_path / "model"))
    assert digests([asked]) == [""]
    with pytest.raises(ConfigError, match=said):
        kernels_of_models([asked], ["9.0a"])


WRONG = {
    "engine": ("sglan", "found 'sglan'; accepted: sglang, vllm (did you mean sglang?)"),
    "kv_cache_dtype": ("fp8", "found 'fp8'; accepted: auto, fp8_e4m3, fp8_e5m2"),
    "attention_backend": ("fa2", "found 'fa2'; accepted: auto, flashinfer, fa3, triton, other (did you mean fa3?)"),
    "tensor_parallel": ("two", "found 'two'; expected a whole number of GPUs, 1 to 1024"),
    "speculative": ("maybe", "found 'maybe'; expected true or false"),
    "version": ("0.5", 'found the number 0.5; expected text, quote it: "0.5"'),
    "config": ("[m]", "found a list; expected text"),
    "engin": ("x", "unknown key; models.l takes config, engine, version, tensor_parallel, kv_cache_dtype, "),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_key_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    value, said = WRONG[key]
    monkeypatch.chdir(tmp_path)
    entry = {"config": "m", "engine": "vllm"} | {key: value}
    said_so = ", ".join(f"{name}: {text}" for name, text in entry.items())
    Path("kernels.yaml").write_text(f"kernels: {{}}\nmodels:\n  l: {{{said_so}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Path("kernels.yaml"))
    assert f"models.l.{key}: {said}" in str(caught.value)


@once
@given(
    changes=st.dictionaries(st.sampled_from([*ModelModel.model_fields, "other"]), VALUES, max_size=4),
    name=st.sampled_from(["l", "", "a b", "../x", "l.1"]),
)
def test_any_value_of_any_key_of_a_model(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    file = written(tmp_path, json.dumps({"models": {name: {"config": "m", "engine": "vllm"} | changes}}))
    problems: tuple[str, ...] = ()
    try:
        load_config(file)
    except ConfigError as error:
        problems = error.problems
    assert all(line.startswith(str(file)) for line in problems)
