"""SGLang's own attention backend and sampler, recorded on a GPU, compared with what `models:` derives.

    python bench/engine.py [--first] [--kv-heads 8] [--kv-cache-dtype auto] [--keep DIR]     on a Hopper GPU

A process under `python -m fitasks.record` imports SGLang, lets it resolve a server's arguments for a model of
Llama-3-8B's shape, has its registry make the FlashInfer backend, and runs the engine's layer: a prompt, a prompt over
a cached prefix, one decoded token, one sampled token, each compared with float32. Only what PARTS names is used, and
all of it is SGLang's; stood in for are the model's runner (_runner) and kernels that were left out (_absent_kernels).

Then FlashInfer's modules that it asked for are put beside those that fitasks derives from the same config.json. With
--first these are compiled before, so that the engine must find all of them. Exit status 0 if every stage went well,
neither side has a module more, and with --first the engine compiled nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import exports  # noqa: E402

PROMPT, MORE, ROOM = 512, 128, 4096  # tokens: first prompt, the one over a prefix, the KV cache
COMPILED = {"compiled", "failed"}
LOADED = {"cached", "ahead-of-time", *COMPILED}

# What is SGLang's own here, and where it is in 0.5.23.
PARTS = {
    "publish": "sglang.srt.runtime_context",
    "SpawnRanks": "sglang.srt.runtime_context",
    "get_parallel": "sglang.srt.runtime_context",
    "get_exec": "sglang.srt.runtime_context",
    "ServerArgs": "sglang.srt.server_args",
    "resolution_result": "sglang.srt.arg_groups.overrides",
    "ModelConfig": "sglang.srt.configs.model_config",
    "ATTENTION_BACKENDS": "sglang.srt.layers.attention.attention_registry",
    "FlashInferAttnBackend": "sglang.srt.layers.attention.flashinfer_backend",
    "RadixAttention": "sglang.srt.layers.radix_attention",
    "ReqToTokenPool": "sglang.srt.mem_cache.memory_pool",
    "MHATokenToKVPool": "sglang.srt.mem_cache.memory_pool",
    "TokenToKVPoolAllocator": "sglang.srt.mem_cache.allocator.token",
    "KVIndexTranslator": "sglang.srt.mem_cache.kv_index_translator",
    "ForwardBatch": "sglang.srt.model_executor.forward_batch_info",
    "ForwardMode": "sglang.srt.model_executor.forward_batch_info",
    "ForwardContext": "sglang.srt.model_executor.forward_context",
    "forward_context": "sglang.srt.model_executor.forward_context",
    "Sampler": "sglang.srt.layers.sampler",
    "LogitsProcessorOutput": "sglang.srt.layers.logits_processor",
    "SamplingBatchInfo": "sglang.srt.sampling.sampling_batch_info",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", action="store_true", help="compile what fitasks derives before the engine runs")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--kv-cache-dtype", default="auto", choices=("auto", "fp8_e4m3", "fp8_e5m2"))
    parser.add_argument("--target", default="9.0a")
    parser.add_argument("--keep", type=Path, help="a directory for the project, the trace and SGLang's caches")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.inside:
        return _Engine(wanted.inside, wanted.kv_cache_dtype).run()
    if wanted.keep:
        wanted.keep.mkdir(parents=True, exist_ok=True)
        return _compare(wanted, wanted.keep.resolve())
    with tempfile.TemporaryDirectory() as name:
        return _compare(wanted, Path(name))


# Outside: fitasks' project, and the comparison.


def _compare(wanted: argparse.Namespace, root: Path) -> int:
    project = _project(wanted, root / "project")
    env = {name: value for name, value in os.environ.items() if name != "FLASHINFER_WORKSPACE_BASE"}
    env |= {"SGLANG_CACHE_DIR": str(root / "sglang"), "PYTHONUNBUFFERED": "1"}
    _doit(project, env, "explain_models")
    if wanted.first:
        _doit(project, env)
    needed = env | exports(_doit(project, env, "env", shown=False), env)
    needed.pop("FLASHINFER_WORKSPACE_BASE", None)  # SGLang says itself where FlashInfer's cache is
    trace = root / "trace.jsonl"
    trace.unlink(missing_ok=True)
    well = _record(wanted, project, trace, needed)
    asked = _asked(trace)
    _doit(project, env, "check", "--json", "check.json", "--trace", str(trace))
    derived = _derived(project / "check.json")
    same = _show(asked, derived)
    loaded = [name for name, record in asked.items() if record["how"] in LOADED]
    compiled = [name for name in loaded if asked[name]["how"] in COMPILED]
    if wanted.first:
        print(f"the engine compiled {len(compiled)} of {len(loaded)} modules")
    return int(not (well and same and loaded and not (wanted.first and compiled)))


def _project(wanted: argparse.Namespace, project: Path) -> Path:
    """A fitasks project with the model's config.json, from which SGLang takes the model's shape, too."""
    (project / "model").mkdir(parents=True, exist_ok=True)
    (project / "model" / "config.json").write_text(json.dumps(_llama(wanted.heads, wanted.kv_heads), indent=2))
    shutil.copy(ROOT / "dodo.py", project)
    (project / "kernels.yaml").write_text(
        f"serving: {{engine: sglang}}\ntargets: [{wanted.target!r}]\nmodels:\n  engine: {{config: model, "
        f"attention_backend: flashinfer, kv_cache_dtype: {wanted.kv_cache_dtype}}}\nkernels: {{}}\n"
    )
    return project


def _llama(heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": heads * 128,
        "head_dim": 128,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": 1,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


def _doit(project: Path, env: dict[str, str], *words: str, shown: bool = True) -> str:
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "doit", *words], cwd=project, env=env, stdout=subprocess.PIPE, text=True, check=False
    )
    if shown or done.returncode:
        took = f"{time.perf_counter() - begin:.1f} s, exit status {done.returncode}"
        print(f"$ doit {' '.join(words)}    # {took}\n{done.stdout}", flush=True)
    return done.stdout


def _record(wanted: argparse.Namespace, project: Path, trace: Path, env: dict[str, str]) -> bool:
    inside = [sys.executable, "-P", str(Path(__file__).resolve()), "--inside", str(project / "model")]
    command = [sys.executable, "-m", "fitasks.record", "-o", str(trace), "--", *inside]
    print(f"$ {shlex.join([*command, '--kv-cache-dtype', wanted.kv_cache_dtype])}", flush=True)
    return not subprocess.run([*command, "--kv-cache-dtype", wanted.kv_cache_dtype], env=env, check=False).returncode


def _asked(trace: Path) -> dict[str, dict[str, Any]]:
    """Of each module the record that says most: it had to be compiled, it was loaded, it was only generated."""
    records = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
    records.sort(key=lambda record: (record["how"] in LOADED, record["how"] in COMPILED))
    return {record["name"]: record for record in records}


def _derived(checked: Path) -> set[str]:
    """FlashInfer's: layers, whose modules of SGLang's own JIT are derived, too, are stood in for here."""
    kernels = json.loads(checked.read_text())["kernels"] if checked.exists() else []
    return {kernel["name"] for kernel in kernels if kernel["kind"] == "flashinfer"}


def _show(asked: dict[str, dict[str, Any]], derived: set[str]) -> bool:
    print("\n| module | the engine | s | fitasks |\n|---|---|--:|---|")
    for name in sorted({*asked, *derived}):
        record = asked.get(name, {"how": "", "seconds": 0.0})
        print(f"| {name} | {record['how'] or 'not asked'} | {record['seconds']:.1f} | {_given(name in derived)} |")
    for name, record in sorted(asked.items()):
        print(f"{name}: {record['kind']}, {record['generator']} {json.dumps(record['arguments'])}")
    loaded = {name for name, record in asked.items() if record["how"] in LOADED and record["kind"] == "nvcc"}
    print(f"\nasked but not derived: {', '.join(sorted(loaded - derived)) or 'none'}")
    print(f"derived but not asked: {', '.join(sorted(derived - loaded)) or 'none'}", flush=True)
    return loaded == derived


def _given(derived: bool) -> str:
    return "derived" if derived else "not derived"


# Inside: the recorded process.


class _Engine:
    """Stages that each report for themselves; without a backend there is no attention, and without SGLang nothing."""

    def __init__(self, model: Path, kv_cache_dtype: str) -> None:
        self.model, self.kv_cache_dtype = model, kv_cache_dtype
        self.bad: list[str] = []
        self.sg: Any = None
        self.runner: Any = None
        self.backend: Any = None
        self.layer: Any = None
        self.cached: list[tuple[Any, Any]] = []  # keys and values so far

    def run(self) -> int:
        _absent_kernels()
        if self._stage("import", self._import) and self._stage("resolve", self._resolve):
            if self._stage("construct", self._construct):
                self._stage("extend", lambda: self._extend(PROMPT))
                self._stage("extend over a prefix", lambda: self._extend(MORE))
                self._stage("decode", self._decode)
            self._stage("sampling", self._sample)
        print(f"inside: {'all stages went well' if not self.bad else 'failed: ' + ', '.join(self.bad)}", flush=True)
        return int(bool(self.bad))

    def _stage(self, name: str, work: Callable[[], str]) -> bool:
        begin = time.perf_counter()
        try:
            told = work()
        except BaseException:  # noqa: BLE001 - a stage's trouble is its report
            self.bad.append(name)
            print(f"{name}: failed after {time.perf_counter() - begin:.1f} s\n{traceback.format_exc()}", flush=True)
            return False
        print(f"{name}: {time.perf_counter() - begin:.1f} s; {told}", flush=True)
        return True

    def _import(self) -> str:
        """`import sglang` comes first: it moves FlashInfer's base directory, before FlashInfer is imported."""
        sglang = importlib.import_module("sglang")
        self.sg = SimpleNamespace(**{name: getattr(importlib.import_module(at), name) for name, at in PARTS.items()})
        flashinfer = importlib.import_module("flashinfer")
        env = importlib.import_module("flashinfer.jit.env")
        return f"sglang of {sglang.__path__[0]}, FlashInfer {flashinfer.__version__}, {env.FLASHINFER_WORKSPACE_DIR}"

    def _resolve(self) -> str:
        """What the engine chooses by itself, and then the arguments of this server, as its scheduler publishes them."""
        plain = self.sg.ServerArgs(model_path=str(self.model))
        plain.resolve_once()
        default = self.sg.resolution_result(plain, "attention_backend")
        self.args = self.sg.ServerArgs(
            model_path=str(self.model), attention_backend="flashinfer", kv_cache_dtype=self.kv_cache_dtype
        )
        self.sg.publish(self.args, role="scheduler", ranks=self.sg.SpawnRanks(world_rank=0, gpu_id=0))
        page = self.sg.resolution_result(self.args, "page_size")
        sampling = self.sg.get_exec().kernel.sampling_backend
        return f"by default attention {default}; here flashinfer, page_size {page}, sampling {sampling}"

    def _construct(self) -> str:
        self.runner = _runner(self.sg, self.args, self.kv_cache_dtype)
        self.backend = self.sg.ATTENTION_BACKENDS["flashinfer"](self.runner)
        self.runner.kv_index_translator.bind_and_verify_backends([self.backend])
        config = self.runner.model_config
        heads, kv_heads = config.num_attention_heads, config.get_num_kv_heads(1)
        self.layer = self.sg.RadixAttention(heads, config.head_dim, config.head_dim**-0.5, kv_heads, layer_id=0)
        made = self.backend
        return (
            f"{type(made).__name__}: prefill {made.prefill_backend}, ragged {made.prefill_wrapper_ragged._backend}, "  # noqa: SLF001
            f"decode {made.decode_backend}, tensor cores {made.decode_use_tensor_cores}, "
            f"KV {made.flashinfer_kv_cache_dtype}"
        )

    def _extend(self, new: int) -> str:
        import torch

        prefix = sum(len(keys) for keys, _ in self.cached)

        def number(value: int) -> Any:
            return torch.tensor([value], dtype=torch.int32, device=self.runner.device)

        return self._forward(
            self.sg.ForwardMode.EXTEND,
            new,
            extend_num_tokens=new,
            extend_seq_lens=number(new),
            extend_prefix_lens=number(prefix),
            extend_start_loc=number(0),
            extend_prefix_lens_cpu=[prefix],
            extend_seq_lens_cpu=[new],
        )

    def _decode(self) -> str:
        return self._forward(self.sg.ForwardMode.DECODE, 1)

    def _forward(self, mode: Any, new: int, **more: Any) -> str:
        """One request's next tokens, through the engine's layer, as its models call it."""
        import torch

        config, device = self.runner.model_config, self.runner.device
        q, k, v = (
            torch.randn(new, heads * config.head_dim, device=device, dtype=torch.bfloat16)
            for heads in (config.num_attention_heads, *[config.get_num_kv_heads(1)] * 2)
        )
        batch = self._batch(mode, new, more)
        kept = k.clone(), v.clone()
        with torch.inference_mode(), self.sg.forward_context(self.sg.ForwardContext(attn_backend=self.backend)):
            self.backend.init_forward_metadata(batch)
            out = self.layer(q, k, v, batch)
        torch.cuda.synchronize()
        self.cached.append(kept)
        error = _error(out, q, self.cached, config.head_dim)
        limit = 0.05 if self.kv_cache_dtype == "auto" else 0.2  # bfloat16 outputs of up to 5; fp8 keys and values
        if not error < limit:
            raise AssertionError(f"largest error {error:.4f}, more than {limit}")
        return f"{new} tokens over {sum(len(keys) for keys, _ in self.cached) - new}, largest error {error:.4f}"

    def _batch(self, mode: Any, new: int, more: dict[str, Any]) -> Any:
        import torch

        prefix = sum(len(keys) for keys, _ in self.cached)
        total, device = prefix + new, self.runner.device
        loc = self.runner.token_to_kv_pool_allocator.alloc(new)
        self.runner.req_to_token_pool.write((1, slice(prefix, total)), loc.to(torch.int32))
        batch = self.sg.ForwardBatch(
            forward_mode=mode,
            batch_size=1,
            input_ids=torch.zeros(new, dtype=torch.int64, device=device),
            req_pool_indices=torch.tensor([1], dtype=torch.int64, device=device),
            seq_lens=torch.tensor([total], dtype=torch.int64, device=device),
            out_cache_loc=loc,
            seq_lens_sum=total,
            seq_lens_cpu=torch.tensor([total], dtype=torch.int64, device="cpu"),
            positions=torch.arange(prefix, total, dtype=torch.int64, device=device),
            **more,
        )
        self.runner.kv_index_translator.bind_own_plan(batch)
        return batch

    def _sample(self) -> str:
        """Its only process group is one that a single GPU never uses."""
        import torch

        self.sg.get_parallel().override_permanently(tp_group=SimpleNamespace(device_group=None))
        size, vocabulary = 4, 128256

        def column(value: float, dtype: Any = torch.float32) -> Any:
            return torch.full((size,), value, dtype=dtype, device="cuda")

        info = self.sg.SamplingBatchInfo(
            temperatures=column(0.8).view(-1, 1),
            top_ps=column(0.9),
            top_ks=column(20, torch.int32),
            min_ps=column(0.0),
            is_all_greedy=False,
            is_any_greedy=False,
            need_top_p_sampling=True,
            need_top_k_sampling=True,
            need_min_p_sampling=False,
            vocab_size=vocabulary,
        )
        logits = torch.randn(size, vocabulary, device="cuda")
        allowed = logits.topk(20).indices
        positions = torch.zeros(size, dtype=torch.int64, device="cuda")
        output = self.sg.LogitsProcessorOutput(next_token_logits=logits)
        tokens = self.sg.Sampler()(output, info, False, [0] * size, [None] * size, positions)
        if not bool((allowed == tokens.view(-1, 1)).any(dim=1).all()):
            raise AssertionError(f"tokens outside of the top 20: {tokens.tolist()}")
        return f"top-k 20, top-p 0.9 of {vocabulary}: {tokens.tolist()}, all among the top 20"


def _runner(sg: Any, args: Any, kv_cache_dtype: str) -> Any:
    """ModelRunner would load a model's layers, which need SGLang's kernels: this has what the backend reads of it."""
    import torch

    config = sg.ModelConfig.from_server_args(args)
    dtype = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}.get(kv_cache_dtype, config.dtype)
    device = "cuda"
    pool = sg.MHATokenToKVPool(
        ROOM,
        page_size=1,
        dtype=dtype,
        head_num=config.get_num_kv_heads(1),
        head_dim=config.head_dim,
        layer_num=1,
        device=device,
        enable_memory_saver=False,
    )
    allocator = sg.TokenToKVPoolAllocator(ROOM, dtype=dtype, device=device, kvcache=pool, need_sort=False)
    requests = sg.ReqToTokenPool(8, config.context_len, device=device, enable_memory_saver=False)
    return SimpleNamespace(
        device=device,
        dtype=config.dtype,
        kv_cache_dtype=dtype,
        model_config=config,
        server_args=args,
        page_size=1,
        sliding_window_size=None,
        is_draft_worker=False,
        use_mla_backend=False,
        init_new_workspace=False,
        prefill_attention_backend_str="flashinfer",
        decode_attention_backend_str="flashinfer",
        req_to_token_pool=requests,
        token_to_kv_pool=pool,
        token_to_kv_pool_allocator=allocator,
        kv_index_translator=sg.KVIndexTranslator(
            req_to_token=requests.req_to_token,
            token_to_kv_pool_allocator=allocator,
            token_to_kv_pool=pool,
            page_size=1,
            device=device,
        ),
    )


def _error(out: Any, q: Any, cached: list[tuple[Any, Any]], dim: int) -> float:
    """Against torch's own attention in float32; the queries are the last tokens of what is cached."""
    import torch

    keys, values = (torch.cat(parts).view(-1, parts[0].shape[-1] // dim, dim) for parts in zip(*cached, strict=True))
    queries = q.view(len(q), -1, dim).transpose(0, 1).float()
    k, v = (x.transpose(0, 1).float().repeat_interleave(len(queries) // x.shape[1], 0) for x in (keys, values))
    mask = torch.ones(len(q), len(keys), dtype=torch.bool, device=q.device).tril(len(keys) - len(q))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, k, v, attn_mask=mask)
    return float((out.view(len(q), -1, dim).float() - expected.transpose(0, 1)).abs().max())


def _absent_kernels() -> None:
    """Lets SGLang be imported without its compiled kernels, and without IPython.

    sgl_kernel (sglang-kernel, hundreds of MB) is imported by modules of quantization and sampling that the backend's
    imports touch; IPython by sglang.utils, to show things in notebooks. Nothing of either is called on the way that is
    taken here: what would be, raises. No FlashInfer module can come from them, and none is hidden by their absence,
    except through layers that don't run here at all (norms, rotary embedding, activation, experts).
    """
    absent = [name for name in _ABSENT if _missing(name)]
    sys.meta_path.append(_Absent(absent))
    print(f"stood in for: {', '.join(absent) or 'nothing'}", flush=True)


_ABSENT = ("sgl_kernel", "sgl_kernel.quantization", "IPython", "IPython.display")


def _missing(name: str) -> bool:
    return importlib.machinery.PathFinder.find_spec(name.partition(".")[0]) is None


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives modules whose every name is a function that raises."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name in self.names else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        def named(name: str) -> Callable[..., Any]:
            if name.startswith("__"):
                raise AttributeError(name)

            def absent(*_: object, **__: object) -> Any:
                raise NotImplementedError(f"{module.__name__}.{name} isn't here")

            return absent

        module.__getattr__ = named  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
