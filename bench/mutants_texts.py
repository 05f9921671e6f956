"""The borders of what people and servers wrote: kernels.yaml, a model's config.json, logs, traces."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from bench.mutants_mutate import VICTIM, mutate, of_json
from bench.mutants_worlds import NAMED, ROOT, Border, fitasks_errors, workshop_place

# kernels.yaml


_YAML = """\
serving: {python: bin/python, engine: sglang, env: {CUDA_HOME: /usr/local/cuda, A: "b"}, user: "1000:1000"}
targets: ["8.0 9.0a", "9.0a"]
sm90: true
jobs: 4
timeout: 100
models:
  llama: {config: models/llama.json, engine: vllm, version: 0.9.1, tensor_parallel: 2, kv_cache_dtype: fp8_e4m3}
kernels:
  prefill: &prefill
    op: batch_prefill
    backend: [fa2, fa3]
    dtype_q: bfloat16
    head_dim: [64, 128]
  decode: {<<: *prefill, op: batch_decode, dtype_kv: [bfloat16, float8_e4m3fn]}
  own: {op: "flashinfer.jit.page:gen_page_module"}
  sampling:
  page: {}
"""
_YAML_JUNK = (
    "!!python/object/apply:os.system [id]",
    "!!python/name:os.system",
    "!!binary aGk=",
    "!!timestamp 2020-01-01",
    "&a [*a, *a]",
    "*nobody",
    "<<: [{}, 1]",
    "? {a: b}\n: c",
    "--- x\n--- y\n",
    "%YAML 9.9\n---\n",
    "\t",
    "0o17",
    "1_0:30",
    ".inf",
    "1e400",
    "2020-01-01",
    "|\n  x\n",
    "[" * 3000,
    "{a: " * 2000,
    "- " * 2000,
    "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(9)),
    "[" + "a, " * 60_000 + "a]",
    "[" + "{op: x}, " * 20_000 + "]",
    "{" + ", ".join(f"k{n}: 1" for n in range(20_000)) + "}",
    "\n".join(f"  k{n}:" for n in range(20_000)),
    "9" * 5000,
    '"\\0\\e[2J"',
    '"\\ud800"',
)


def _yaml_mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """Values of every shape at the places of the sample's, and what means something in YAML alone."""
    import yaml

    match rng.randrange(4):
        case 0:
            return mutate(data, others, rng, outside)
        case 1 | 2:
            said = json.dumps(yaml.safe_load(data)).encode()
            return of_json(said, rng, outside)
    lines = data.decode().splitlines()
    at, junk = rng.randrange(len(lines)), rng.choice(_YAML_JUNK)
    head, colon, _ = lines[at].partition(": ")
    lines[at] = f"{head}: {junk}" if colon and rng.random() < 0.7 else junk
    return "\n".join(lines).encode(errors="surrogatepass")


def kernels_yaml(world: Path) -> Border:
    """As `doit list` reads it."""
    from fitasks.config.load import load_config

    samples = [_YAML.encode(), (ROOT / "kernels.yaml").read_bytes()]
    return Border(samples, world / "kernels.yaml", load_config, _yaml_mutant)


# models


def models(world: Path) -> Border:
    """config.json, as planning and `doit explain_models` read it, for both engines."""
    from fitasks.config.model import ModelRequest, Position
    from fitasks.models.kernels import answers, digests, kernels_of_models
    from fitasks.ui.models_table import lines

    def use(path: Path) -> None:
        for engine, more in (("sglang", {}), ("vllm", {"kv_cache_dtype": "fp8_e4m3", "tensor_parallel": 8})):
            request = ModelRequest("m", str(path), engine, Position("kernels.yaml", 1, 1), **more)  # type: ignore[arg-type]
            digests([request])
            kernels_of_models([request], ("8.0 9.0a", "10.0"))
            for target, told in answers(request, ("9.0a",)).items():
                print([*(line for answer in told for line in lines(request, target, answer))])

    samples = [path.read_bytes() for path in sorted((ROOT / "tests" / "models" / "configs").glob("*.json"))]
    return Border(samples, world / "config.json", use)


# logs

_LOG = """\
2026-11-23 14:43:10,539 - INFO - core.py:594 - flashinfer.jit: Building JIT module sampling; this can take minutes
ninja: Entering directory `/root/.cache/flashinfer/0.7.2/90a/cached_ops/rope'
[1/3] /usr/local/cuda/bin/nvcc -c x.cu -o /root/.cache/flashinfer/0.7.2/90a/cached_ops/rope/x.o
ninja: no work to do.
2026-11-23 14:43:11,539 - INFO - core.py:594 - flashinfer.jit: Compiling CuTe-DSL kernel gdn_sm90a_cute_dsl/norm_128
flashinfer.jit.core.MissingJITCacheError: JIT cache is missing
"""
_BUILDS = [
    {"toolchain": "nvcc", "name": "page", "seconds": 25.113, "pid": 4711, "time": 1795901000.25},
    {"toolchain": "cute_dsl", "name": "gdn_sm90a/norm", "seconds": 0.5, "pid": 4711, "time": 1795901001.0},
    {"toolchain": "nvcc", "name": "prebuild[8 modules]", "seconds": 125, "pid": 4712, "time": 1795901002},
]


def _log(world: Path, name: str, text: bytes) -> Border:
    place = workshop_place(world)

    def use(path: Path) -> None:
        from fitasks.graph.actions.ask import covers
        from fitasks.server.jitlog import read_logs
        from fitasks.ui.jitlog_table import lines

        with fitasks_errors():
            print(*lines(read_logs([path], place.kernels), [path]))
        with fitasks_errors():
            covers(place.session, path)

    return Border([text], world / name, use, others=NAMED)


def jitlog(world: Path) -> Border:
    """flashinfer_jit.log, and a server's own output, as `doit jitlog` and `doit check --trace` read them."""
    return _log(world, "flashinfer_jit.log", _LOG.encode())


def buildlog(world: Path) -> Border:
    """FLASHINFER_JIT_BUILD_LOG, in the same two ways."""
    return _log(world, "flashinfer_jit_build.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in _BUILDS))


# traces


def trace(world: Path) -> Border:
    """As `doit import_trace` reads it, with the installed FlashInfer's planner in this process."""
    from fitasks.graph.actions.ask import covers
    from fitasks.graph.actions.know import import_files
    from fitasks.plan import planner as asking
    from fitasks.trace import importing

    place, planner = workshop_place(world), real_planner(world)
    (world / "kernels.yaml").write_text("targets: ['9.0a']\nkernels:\n  norm:\n")
    wanted = [("page", {}), ("batch_decode", {"dtype_q": "bfloat16", "head_dim": 128}), ("sampling", {})]
    records = planner([{"op": op, "params": params} for op, params in wanted])
    sample = b"".join(_trace_line(record) for record in records if "error" not in record)
    if sample.count(b"\n") < len(wanted):
        raise SystemExit(f"FlashInfer can't be planned here: {records}")

    def ask(_server: object, _home: object, targets: Any, kernels: Any, *, sm90: bool, **_: Any) -> Any:
        kernels = json.loads(json.dumps([{"op": kernel.op, "params": kernel.params} for kernel in kernels]))
        return {target: {"arch": "90a", "kernels": planner(kernels, sm90=sm90)} for target in targets}

    def use(path: Path) -> None:
        with patch.object(asking, "ask", ask), patch.object(importing, "offers", lambda *_: ()):
            with fitasks_errors():
                import_files(place.session, [path], to_write=True)
            covers(place.session, path)

    before = (world / "kernels.yaml").read_bytes()

    def renew() -> None:
        (world / "kernels.yaml").write_bytes(before)

    return Border([sample], world / "trace.jsonl", use, _trace_mutant, renew, others=NAMED)


# What a line could name that is no generator, with the arguments that it would do harm with.
_CODE: tuple[tuple[str, dict[str, str]], ...] = (
    ("subprocess:getoutput", {"cmd": "touch {}"}),
    ("subprocess:run", {"args": "/usr/bin/id"}),
    ("os:system", {"command": "touch {}"}),
    ("os:mkdir", {"path": "{}.d"}),
    ("os:remove", {"path": "{}"}),
    ("shutil:rmtree", {"path": "{}"}),
    ("shutil:copyfile", {"src": "/etc/hostname", "dst": "{}"}),
    ("runpy:run_module", {"mod_name": "antigravity"}),
    ("importlib:import_module", {"name": "antigravity"}),
    ("antigravity:fly", {}),
    ("this:gen_page_module", {}),
    ("webbrowser:open", {"url": "http://192.0.2.1/"}),
    ("flashinfer.__main__:cli", {}),
    ("flashinfer.jit.env:os.system", {"command": "touch {}"}),
    ("flashinfer.jit.core:write_if_different", {"path": "{}", "content": "x"}),
    ("flashinfer.jit.cpp_ext:run_ninja", {"workdir": "{}", "ninja_file": "{}", "verbose": ""}),
    ("flashinfer.jit.cubin_loader:download_file", {"source": "/etc/hostname", "local_path": "{}"}),
    ("flashinfer.artifacts:clear_cubin", {}),
    ("torch.utils.cpp_extension:load", {"name": "x", "sources": "{}"}),
    ("tests.serving.odd_generators:leaves", {}),
)


def _trace_mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """Mostly a mutant like any; else a line whose generator is some other code, with arguments for it."""
    if rng.random() < 0.7:
        return mutate(data, others, rng, outside)
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    generator, arguments = rng.choice(_CODE)
    said = json.loads(lines[at]) | {"generator": generator}
    said["arguments"] = {key: value.format(f"{outside}/{VICTIM}") for key, value in arguments.items()}
    if rng.random() < 0.3:
        said["arguments"] |= {"backend": "fa2"}
    if rng.random() < 0.3:
        said["name"] = rng.choice(("x", "../../x", "norm", "\x1b[2J"))
    lines[at] = json.dumps(said).encode()
    return b"\n".join(lines) + b"\n"


def _trace_line(record: dict[str, Any]) -> bytes:
    said = {"version": 1, "name": record["name"], "generator": record["generator"], "arguments": record["params"]}
    more = {"unsaid": "", "kind": "nvcc", "how": "compiled", "seconds": 30.5, "time": 1.7e9, "pid": 7, "rank": "0"}
    return json.dumps(said | more | {"flashinfer": "", "architectures": "90a"}).encode() + b"\n"


def real_planner(world: Path) -> Callable[..., list[dict[str, Any]]]:
    """serving/plan/plan.py, imported as in the serving interpreter. What it does in FlashInfer is watched, too."""
    nvcc = world / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    os.environ |= {"CUDA_HOME": str(nvcc.parents[1]), "FLASHINFER_WORKSPACE_BASE": str(world / "base")}
    os.environ |= {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    sys.path.insert(0, str(ROOT / "fitasks" / "serving" / "plan"))
    import plan
    from load_flashinfer import load
    from plan_requests import VERSION
    from plan_spec import install_network_guard

    load()
    install_network_guard()  # before the watch's hook: what the planner stops itself isn't done

    def planner(kernels: list[dict[str, Any]], *, sm90: bool = True) -> list[dict[str, Any]]:
        request = {"version": VERSION, "sm90": sm90}
        kernels = [{"id": number, **kernel} for number, kernel in enumerate(kernels)]
        checked = plan._checked(request | {"recorded": True, "kernels": kernels})  # noqa: SLF001
        allowed = plan.Allowed(checked["sm90"], checked["generators"], checked["recorded"])
        answers = [plan.plan(kernel, allowed) for kernel in checked["kernels"]]
        said: list[dict[str, Any]] = json.loads(json.dumps(answers))
        return said

    return planner
