"""Whole files that are right: what becomes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fitasks.config.load import load_config
from fitasks.config.model import Config, KernelConfig, Position, Serving

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes) -> Config:
    data = text.encode() if isinstance(text, str) else text
    Path("kernels.yaml").write_bytes(data)
    return load_config(Path("kernels.yaml"))


def labels(text: str) -> list[str]:
    return [kernel.label for kernel in load(text).kernels]


def test_generators_of_other_packages() -> None:
    assert load("kernels: {page: }").generators == ()
    config = load(
        "generators: my_fork\nkernels: {a: {op: 'my_fork.jit:gen_a'}, b: {op: 'flashinfer.jit.page:gen_page_module'}}"
    )
    assert config.generators == ("my_fork",)
    assert [kernel.op for kernel in config.kernels] == ["my_fork.jit:gen_a", "flashinfer.jit.page:gen_page_module"]


def test_the_whole_record() -> None:
    config = load(
        "targets: 8.0 9.0a\n"
        "sm90: false\n"
        "cudart: check\n"
        "kernels:\n"
        "  prefill:\n"
        "    op: batch_prefill\n"
        "    backend: [fa2, fa3]\n"
        "    head_dim: 128\n"
        "  page:\n"
    )
    place = Position("kernels.yaml", 5, 3)
    places = {"backend": Position("kernels.yaml", 7, 5), "head_dim": Position("kernels.yaml", 8, 5)}
    assert config == Config(
        file="kernels.yaml",
        serving=Serving("", "none", {}),
        targets=("8.0 9.0a",),
        sm90=False,
        cudart="check",
        kernels=(
            KernelConfig(
                "prefill",
                "batch_prefill",
                "prefill-fa2-d128",
                {"backend": "fa2", "head_dim": 128},
                place,
                places,
            ),
            KernelConfig(
                "prefill",
                "batch_prefill",
                "prefill-fa3-d128",
                {"backend": "fa3", "head_dim": 128},
                place,
                places,
            ),
            KernelConfig("page", "page", "page", {}, Position("kernels.yaml", 9, 3), {}),
        ),
    )


def test_defaults() -> None:
    config = load("serving:\nkernels: {sampling: {}}\n")
    assert (config.serving, config.targets, config.sm90, config.cudart) == (
        Serving(),
        ("auto",),
        True,
        "patch",
    )


def test_bom_and_windows_line_ends_are_fine() -> None:
    config = load(b"\xef\xbb\xbfkernels:\r\n  page:\r\n")
    assert [(kernel.label, str(kernel.place)) for kernel in config.kernels] == [("page", "kernels.yaml:2:3")]


def test_serving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    kernels = "kernels: {page: {}}\n"
    pythons = {
        "~/venv/bin/python": "/home/ada/venv/bin/python",
        "venv/bin/python": f"{tmp_path}/venv/bin/python",
    }
    pythons |= {"python3": "python3", "/opt/python": "/opt/python", "''": ""}
    for written, meant in pythons.items():
        config = load(f"serving: {{python: {written}, engine: vllm, env: {{A: '1', B: x}}}}\n{kernels}")
        assert config.serving == Serving(meant, "vllm", {"A": "1", "B": "x"})


def test_a_relative_interpreter_is_beside_the_file_not_beside_us(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "kernels.yaml"
    path.write_text("serving: {python: ./bin/python}\nkernels: {page: {}}\n")
    config = load_config(path)
    assert config.serving.python == f"{tmp_path}/sub/bin/python"
    assert config.file == "sub/kernels.yaml"  # absolute, but below the working directory


def test_module_and_function_as_op() -> None:
    assert load("kernels: {x-1: {op: 'flashinfer.jit.page:gen_page_module'}}").kernels[0].op == (
        "flashinfer.jit.page:gen_page_module"
    )


def test_scalars_keep_their_type() -> None:
    """1e-5, too, as in Python; YAML 1.1 would have it be a text."""
    small = load("kernels: {a: {x: [1e-5, -1E+5, 1.5e3, .5e-1, 1.e-6], y: '1e-5', z: 1e}}").kernels
    assert [kernel.params["x"] for kernel in small] == [1e-5, -1e5, 1.5e3, 0.05, 1e-6]
    assert (small[0].params["y"], small[0].params["z"]) == ("1e-5", "1e")
    params = load("kernels: {a: {b: true, i: 1, f: 1.5, s: x, n: null, q: '1'}}").kernels[0].params
    expected = {"b": True, "i": 1, "f": 1.5, "s": "x", "n": None, "q": "1"}
    assert {key: (type(value), value) for key, value in params.items()} == {
        key: (type(value), value) for key, value in expected.items()
    }


def test_merges_and_aliases() -> None:
    config = load(
        "kernels:\n"
        "  decode: &d {op: batch_decode, dtype_q: &t bfloat16, head_dim: 128}\n"
        "  wide: {<<: *d, head_dim: 256}\n"
        "  both: {<<: [{x: 1}, *d], x: 2, dtype_kv: *t}\n"
    )
    assert [(kernel.op, kernel.params) for kernel in config.kernels] == [
        ("batch_decode", {"dtype_q": "bfloat16", "head_dim": 128}),
        ("batch_decode", {"dtype_q": "bfloat16", "head_dim": 256}),
        ("batch_decode", {"dtype_q": "bfloat16", "head_dim": 128, "x": 2, "dtype_kv": "bfloat16"}),
    ]
    assert str(config.kernels[1].param_places["dtype_q"]) == "kernels.yaml:2:33"
    assert str(config.kernels[1].param_places["head_dim"]) == "kernels.yaml:3:18"


@pytest.mark.parametrize(
    ("params", "label"),
    [
        ("backend: fa3, dtype_q: bfloat16, head_dim: 128", "x-fa3-bf16-d128"),
        ("dtype_q: bfloat16, dtype_kv: float8_e4m3fn, head_dim: 128", "x-bf16-kv_e4m3-d128"),
        ("dtype_q: float16, dtype_kv: float16, dtype_o: float16", "x-f16"),
        ("dtype_q: float8_e5m2, dtype_o: float16, dtype_idx: int32", "x-e5m2-o_f16"),
        ("dtype_kv: float16", "x-kv_f16"),
        ("dtype_idx: int64", "x-idx_i64"),
        ("input_dtype: bfloat16, out_dtype: float32, dtype: int8", "x-input_bf16-out_f32-i8"),
        ("head_dim_qk: 192, dtype_q: bfloat16, head_dim_vo: 128", "x-d192x128-bf16"),
        ("head_dim_qk: 128, head_dim_vo: 128", "x-d128"),
        ("head_dim_ckv: 512, head_dim_kpe: 64", "x-ckv512-kpe64"),
        ("use_sliding_window: true, use_logits_soft_cap: true", "x-swa-cap"),
        ("use_fp16_qk_reduction: true, use_profiler: true", "x-f16qk-profiler"),
        ("use_sliding_window: false, has_sink: true, nothing: null", "x-has-sink"),
        ("pos_encoding_mode: 1, page_size: 16, group: 0", "x-pos1-page_size16"),
        ("scale: 0.5", "x-scale0.5"),
        ("name: 'a=b: *c/'", "x-a-b-c"),
    ],
)
def test_label(params: str, label: str) -> None:
    assert labels(f"kernels: {{x: {{{params}}}}}") == [label]


def test_a_label_says_nothing_twice() -> None:
    text = "kernels: {fa3: {op: x, backend: [fa2, fa3], dtype_q: bfloat16}, x-bf16: {op: x, dtype_q: bfloat16}}"
    assert labels(text) == ["fa3-fa2-bf16", "fa3-bf16", "x-bf16"]


def test_another_value_renames_nothing() -> None:
    few = labels("kernels: {x: {dtype_q: bfloat16, dtype_kv: bfloat16, use_profiler: false}}")
    many = labels(
        "kernels: {x: {dtype_q: [bfloat16, float16], dtype_kv: [bfloat16, float8_e5m2], use_profiler: [false, true]}}"
    )
    assert few == ["x-bf16"]
    assert many == [
        *["x-bf16", "x-bf16-profiler", "x-bf16-kv_e5m2", "x-bf16-kv_e5m2-profiler"],
        *["x-f16-kv_bf16", "x-f16-kv_bf16-profiler", "x-f16-kv_e5m2", "x-f16-kv_e5m2-profiler"],
    ]


def test_the_shipped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    config = load_config(Path("kernels.yaml"))
    assert config.targets == ("9.0a",)
    assert [(kernel.label, kernel.op) for kernel in config.kernels] == [
        ("decode-bf16-d128", "batch_decode"),
        ("prefill-fa2-bf16-d128", "batch_prefill"),
        ("prefill-fa3-bf16-d128", "batch_prefill"),
        *[(name, name) for name in ("sampling", "cascade", "quantization", "page")],
    ]


def test_the_shipped_file_with_its_examples_uncommented() -> None:
    """What the comments teach is true: each commented line of YAML, taken in, is accepted."""
    lines = (REPOSITORY / "kernels.yaml").read_text().splitlines()
    start = lines.index("kernels:")
    head = [line.removeprefix("# ") if ":  " in line or line.startswith("#   ") else line for line in lines[:start]]
    body = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in lines[start:]]
    config = load("\n".join([*head, *body]) + "\n")
    assert config.serving == Serving("/opt/venv/bin/python", "sglang", {"CUDA_HOME": "/usr/local/cuda"})
    assert [kernel.label for kernel in config.kernels][:5] == [
        *["decode-bf16-d128", "decode-bf16-kv_e4m3-d128", "prefill-fa2-bf16-d128", "prefill-fa3-bf16-d128"],
        "mla-fa3-bf16-ckv512-kpe64",
    ]


def test_the_records_stay_light() -> None:
    code = "import sys, fitasks.config.model; print({'yaml', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_none_yet_is_allowed_where_it_is_said() -> None:
    """To be filled by `doit import_trace`."""
    assert load("targets: 9.0a\nkernels: {}\n").kernels == ()
