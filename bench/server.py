"""What a real server makes its users wait for, and how many compilers it starts: cold, warm, after doit, delivered.

    python bench/server.py --engine sglang --out /tmp/bench          on a GPU, with the engine installed

A real engine with a two-layer Llama of random weights (head_dim 128, 32 heads on 8) answers 100 requests of eight kinds
in each way (bench/server_engines.py), and every compiler's process below it is counted (bench/server_processes.py):

    cold       with empty caches
    warm       once more, with what the engine itself left in its caches
    doit       with caches that `doit` filled, from `models:` or from --kernels FILE; --import adds what `cold` recorded
    delivered  the same, and `doit install`: FlashInfer's cache empty, FLASHINFER_DISABLE_JIT=1, and no nvcc, ninja or
               host compiler on PATH (the other toolchains' caches are those of `doit`)

Each way has a HOME, and thus caches, of its own; `warm` has that of `cold`, `delivered` that of `doit`. What no way is
about can be shared with --keep (triton, inductor, cuda, vllm). Everything is below --out and stays there: logs, traces,
predictions, and in `work` caches and the project, so that further ways may be run later, by themselves. Results are
JSON lines, by default in the same place; the tables show the last of each way. Exit status 0 if each way came to its
end, and neither `doit` nor `delivered` started a compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import site
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.environment import bare_path, exports  # noqa: E402
from bench.server_engines import ENGINES, value  # noqa: E402
from bench.server_processes import Ran, run  # noqa: E402
from bench.server_tables import compiled, compilers, foretold, heard, latest, modules, tables  # noqa: E402
from fitasks.record import variables  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

WAYS = ("cold", "warm", "doit", "delivered")
OURS = ("doit", "delivered")  # ways in which no compiler may start
HOMES = {"cold": "engine", "warm": "engine", "doit": "doit", "delivered": "doit"}
KEPT = {
    "triton": "TRITON_CACHE_DIR",
    "inductor": "TORCHINDUCTOR_CACHE_DIR",
    "cuda": "CUDA_CACHE_PATH",
    "vllm": "VLLM_CACHE_ROOT",  # torch.compile's and autotuning's results
}
# Places that would be another than HOME's, and what would change what is compiled.
_CACHES = (
    *KEPT.values(), "FLASHINFER_WORKSPACE_BASE", "TVM_FFI_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "XDG_DATA_HOME", "SGLANG_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TRITON_HOME", "CUTE_DSL_CACHE_DIR",
    "DG_JIT_CACHE_DIR",
)  # fmt: skip
_TOOLS = ("CUDA_HOME", "CUDA_PATH", "CUDACXX", "CC", "CXX")  # where compilers are, if not on PATH
_ASKED = ("nvidia-smi", "lscpu", "numactl")  # that the engines run when they start
_OUTSIDE = ("FLASHINFER_", "FITASKS_")
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 4096,
    "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 2,
    "intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all ways share. Directories are absolute."""

    engine: str
    out: Path
    flags: dict[str, str]
    kernels: Path | None
    imports: bool
    target: str
    keep: tuple[str, ...]
    limit: float
    requests: int

    @property
    def work(self) -> Path:
        return self.out / "work"

    @property
    def project(self) -> Path:
        return self.work / "project"

    def file(self, what: str, way: str, ending: str) -> Path:
        """Of this way's, newly made by whoever writes it."""
        return self.out / f"{what}-{self.engine}-{way}.{ending}"

    def env(self, way: str) -> dict[str, str]:
        """This environment with the way's own HOME and caches."""
        home = self.work / "homes" / HOMES[way]
        home.mkdir(parents=True, exist_ok=True)
        clean = {name: text for name, text in os.environ.items() if not name.startswith(_OUTSIDE)}
        env = {name: text for name, text in clean.items() if name not in _CACHES}
        env |= {"HOME": str(home), "PYTHONUSERBASE": site.getuserbase(), "PYTHONUNBUFFERED": "1"}
        env |= {"TORCHINDUCTOR_CACHE_DIR": str(home / ".cache" / "inductor")}  # by default in /tmp, for all
        env |= ENGINES[self.engine].variables
        return env | {KEPT[name]: str(self.work / "kept" / name) for name in self.keep}


def main() -> int:
    wanted = _arguments()
    bench = _bench(wanted)
    if why := _impossible(bench, wanted.ways) if not wanted.show else "":
        sys.exit(why)
    bench.out.mkdir(parents=True, exist_ok=True)
    results = wanted.json or bench.out / "results.jsonl"
    status = 0
    for way in WAYS if not wanted.show else ():
        if way in wanted.ways:
            row = _one(bench, way)
            with results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            status |= not is_good(row)
    print(tables(latest(results, WAYS)), flush=True)
    return int(status)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="logs, results, and what is kept")
    parser.add_argument("--ways", type=_ways, default=WAYS, metavar=",".join(WAYS))
    parser.add_argument("--kernels", type=Path, metavar="FILE", help="a kernels.yaml; by default models: alone")
    parser.add_argument(
        "--import", dest="imports", action="store_true", help="add what `cold` recorded to kernels.yaml"
    )
    parser.add_argument("--flag", action="append", default=[], metavar="NAME=VALUE", help="an argument of the engine's")
    parser.add_argument("--target", default="9.0a")
    parser.add_argument("--keep", type=_kept, default=(), metavar=",".join(KEPT), help="caches that all ways share")
    parser.add_argument("--limit", type=float, default=400, metavar="SECONDS", help="of each server and each doit")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="one line per way is appended")
    parser.add_argument("--show", action="store_true", help="only the tables of what is there")
    return parser.parse_args()


def _ways(text: str) -> tuple[str, ...]:
    return _among(text, WAYS)


def _kept(text: str) -> tuple[str, ...]:
    return _among(text, KEPT)


def _among(text: str, known: Mapping[str, str] | tuple[str, ...]) -> tuple[str, ...]:
    words = tuple(filter(None, text.split(",")))
    if bad := [word for word in words if word not in known]:
        raise argparse.ArgumentTypeError(f"{bad[0]!r} is none of {', '.join(known)}")
    return words


def _bench(wanted: argparse.Namespace) -> Bench:
    if bad := [flag for flag in wanted.flag if not flag.partition("=")[1]]:
        sys.exit(f"--flag {bad[0]}: write NAME=VALUE")
    return Bench(
        engine=wanted.engine,
        out=wanted.out.resolve(),
        flags=dict(flag.split("=", 1) for flag in wanted.flag),
        kernels=wanted.kernels and wanted.kernels.resolve(),
        imports=wanted.imports,
        target=wanted.target,
        keep=wanted.keep,
        limit=wanted.limit,
        requests=wanted.requests,
    )


def _impossible(bench: Bench, ways: tuple[str, ...]) -> str:
    """Why a way hasn't what it begins with, "" if all have."""
    cold = bench.file("trace", "cold", "jsonl")
    if "cold" in ways or cold.exists():
        return ""
    if "warm" in ways:
        return f"warm: no cold server has left its caches in {bench.work}; add cold to --ways"
    return f"--import: no {cold}; add cold to --ways" if bench.imports else ""


def is_good(row: Mapping[str, Any]) -> bool:
    """The server came to its end and, where that is what the way is for, started no compiler."""
    return row["status"] == 0 and not (row["way"] in OURS and compiled(row))


# The ways.


def _one(bench: Bench, way: str) -> dict[str, Any]:
    print(f"== {bench.engine}, {way}", flush=True)
    write_model(bench.project / "model")
    if way == "delivered":
        return _delivered(bench)
    if way == "cold":
        shutil.rmtree(bench.work / "homes" / HOMES["cold"], ignore_errors=True)
    elif way == "doit":
        return _after_doit(bench)
    return _serve(bench, way, bench.env(way), {})


def _after_doit(bench: Bench) -> dict[str, Any]:
    env = bench.env("doit")
    write_project(bench)
    before = {}
    if bench.imports:
        trace = bench.file("trace", "cold", "jsonl")
        before["import_trace"] = _doit(bench, "doit", env, "import_trace", "--write", str(trace)).seconds
    before["doit"] = _doit(bench, "doit", env).seconds
    served = env | _exported(bench, "doit", env)
    return _predicted(bench, "doit", env, served, before)


def _delivered(bench: Bench) -> dict[str, Any]:
    env = bench.env("delivered")
    if not (bench.project / "kernels.yaml").exists():
        write_project(bench)
    installed = _doit(bench, "delivered", env, "install")
    empty = bench.work / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    own = {"FLASHINFER_DISABLE_JIT": "1", "FLASHINFER_WORKSPACE_BASE": str(empty)} if installed.status == 0 else {}
    try:
        served = env | _exported(bench, "delivered", env | own) | own | {"PATH": _bare(bench)}
        served = {name: text for name, text in served.items() if name not in _TOOLS}
        return _predicted(bench, "delivered", env | own, served, {"doit install": installed.seconds})
    finally:
        _doit(bench, "delivered", env, "uninstall")


def _bare(bench: Bench) -> str:
    directory = bench.work / "bin"
    shutil.rmtree(directory, ignore_errors=True)
    return bare_path(directory, *_ASKED)


def _predicted(
    bench: Bench, way: str, env: dict[str, str], served: dict[str, str], before: dict[str, float]
) -> dict[str, Any]:
    """What check says before the server, in its own environment if it can, and, of the server's trace, after it."""
    checked, trace = bench.file("check", way, "json"), bench.file("trace", way, "jsonl")
    checked.unlink(missing_ok=True)
    asked = served
    _doit(bench, way, asked, "check", "--json", str(checked))
    if not checked.exists():
        asked = env
        _doit(bench, way, asked, "check", "--json", str(checked))
    row = _serve(bench, way, served, before)
    _doit(bench, way, asked, "check", "--trace", str(trace))
    return row | {"foretold": foretold(checked, trace), "asked": "as the server" if asked is served else "as doit"}


# What they do.


def _serve(bench: Bench, way: str, env: dict[str, str], before: dict[str, float]) -> dict[str, Any]:
    """A row: the engine in a process of its own, recorded."""
    log, steps, trace = (
        bench.file(*one) for one in (("log", way, "txt"), ("steps", way, "jsonl"), ("trace", way, "jsonl"))
    )
    for file in (log, steps, trace):
        file.unlink(missing_ok=True)
    script = [sys.executable, "-P", str(ROOT / "bench" / "server_engines.py"), "--requests", str(bench.requests)]
    flags = [f"{name}={text}" for name, text in bench.flags.items()]
    command = [*script, bench.engine, str(bench.project / "model"), str(steps), *flags]
    ran = run(command, env | variables(trace, env), bench.work, log, bench.limit)
    print(f"{way}: {_ended(ran, bench.limit)} after {ran.seconds:.1f} s; {log}", flush=True)
    return _row(bench, way, ran, before)


def _ended(ran: Ran, limit: float) -> str:
    return f"ended at the limit of {limit:g} s" if ran.status is None else f"exit status {ran.status}"


def _row(bench: Bench, way: str, ran: Ran, before: dict[str, float]) -> dict[str, Any]:
    steps = _lines(bench.file("steps", way, "jsonl"))
    trace = bench.file("trace", way, "jsonl")
    done = {step["step"]: step["seconds"] for step in steps if step["step"] != "later"}
    up = next((step["at"] for step in steps if step["step"] == "engine up"), float("inf"))
    later: dict[str, Any] = next((step for step in steps if step["step"] == "later"), {})
    return {
        "engine": bench.engine,
        "version": next((step["version"] for step in steps if "version" in step), ""),
        "way": way,
        "time": round(time.time()),
        "flags": {name: value(text) for name, text in bench.flags.items()},
        "keep": list(bench.keep),
        "status": ran.status,
        "seconds": round(ran.seconds, 2),
        "before": {name: round(seconds, 2) for name, seconds in before.items()},
        "steps": done,
        "later": {name: later[name] for name in ("requests", "median", "longest", "by_kind") if name in later},
        "answers": {step["step"]: step["answer"] for step in steps if "answer" in step},
        "compilers": compilers(ran.compilers, up, heard(_lines(trace))),
        "questions": sum(one.question for one in ran.compilers),
        "modules": modules(_lines(trace)),
        "left": list(ran.left),
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of it: what a killed process wrote last may be torn."""
    text = file.read_text(errors="replace") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def _doit(bench: Bench, way: str, env: dict[str, str], *words: str) -> Ran:
    log = bench.file("-".join(["doit", *(word.lstrip("-") for word in words[:2])]), way, "txt")
    log.unlink(missing_ok=True)
    paths = [str(ROOT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env = env | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    ran = run([sys.executable, "-m", "doit", *words], env, bench.project, log, bench.limit)
    said = " ".join(["doit", *words])
    print(f"$ {said}    # {_ended(ran, bench.limit)} after {ran.seconds:.1f} s; {log}", flush=True)
    return ran


def _exported(bench: Bench, way: str, env: dict[str, str]) -> dict[str, str]:
    _doit(bench, way, env, "env")
    return exports(bench.file("doit-env", way, "txt").read_text(errors="replace"), env)


def write_model(directory: Path) -> None:
    """A model's config.json: no weights, since the engines make random ones."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n")


def write_project(bench: Bench) -> None:
    """fitasks' project: the given kernels.yaml, or what `models:` derives from the model and the engine's flags."""
    shutil.copy(ROOT / "dodo.py", bench.project)
    text = bench.kernels.read_text() if bench.kernels else _kernels(bench)
    (bench.project / "kernels.yaml").write_text(text)


def _kernels(bench: Bench) -> str:
    model = {"config": "model"} | ENGINES[bench.engine].models
    said = ", ".join(f"{name}: {word}" for name, word in model.items())
    return (
        f"serving: {{engine: {bench.engine}}}\ntargets: [{json.dumps(bench.target)}]\n"
        f"models:\n  served: {{{said}}}\nkernels: {{}}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
