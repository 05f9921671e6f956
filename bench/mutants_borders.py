"""The borders over which data from elsewhere comes in: for each a real sample, and what fitasks does with the file.

Each is made in a world of its own: `world/` may be written to, what lies beside it may not. A border's `use` calls what
the commands call, in this process, and prints what they print.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from bench.mutants_mutate import VICTIM, mutate, of_json, unsealed

ROOT = Path(__file__).parent.parent
Mutator = Callable[[bytes, list[bytes], Random, str], bytes]
NAMED = ("nothing", "directory", "circle")  # of a file that somebody names: a pipe is waited for, as `cat` does


@dataclass
class Border:
    """`file` gets the mutant and is used; `renew` makes the world what it was, after every use."""

    samples: list[bytes]
    file: Path
    use: Callable[[Path], object]
    mutate: Mutator = mutate
    renew: Callable[[], object] = lambda: None
    programs: frozenset[str] = frozenset()  # that may be asked anew
    asks: frozenset[str] = frozenset()  # those that are asked for the sample, too
    world: tuple[Path, ...] = ()  # what may be written to besides the temporary directory
    files: list[Path] = field(default_factory=list)  # where one border has several files: that of each sample
    others: tuple[str, ...] = ("nothing", "directory", "circle", "pipe", "device")  # that a mutant may be instead


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
    from fitasks.config.model import ModelRequest, Place
    from fitasks.models.kernels import answers, digests, kernels_of_models
    from fitasks.ui.models_table import lines

    def use(path: Path) -> None:
        for engine, more in (("sglang", {}), ("vllm", {"kv_cache_dtype": "fp8_e4m3", "tensor_parallel": 8})):
            request = ModelRequest("m", str(path), engine, Place("kernels.yaml", 1, 1), **more)  # type: ignore[arg-type]
            digests([request])
            kernels_of_models([request], ("8.0 9.0a", "10.0"))
            for target, told in answers(request, ("9.0a",)).items():
                print([*(line for answer in told for line in lines(request, target, answer))])

    samples = [path.read_bytes() for path in sorted((ROOT / "tests" / "models" / "configs").glob("*.json"))]
    return Border(samples, world / "config.json", use)


# logs

_LOG = """\
2025-06-01 10:00:00,001 - INFO - flashinfer.jit: Loading JIT ops: page
2025-06-01 10:00:20,001 - INFO - flashinfer.jit: Finished loading JIT ops: page
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
        from fitasks.graph.actions import covers
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
    from fitasks.graph.actions import covers, import_files
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
    """fitasks/serving/plan.py, imported as in the serving interpreter. What it does in FlashInfer is watched, too."""
    nvcc = world / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    os.environ |= {"CUDA_HOME": str(nvcc.parents[1]), "FLASHINFER_WORKSPACE_BASE": str(world / "base")}
    os.environ |= {"FLASHINFER_CUDA_ARCH_LIST": "9.0a"}
    sys.path.insert(0, str(ROOT / "fitasks" / "serving"))
    import plan
    from load_flashinfer import load

    load()
    if guard := getattr(plan, "install_network_guard", None):
        guard()  # before the watch's hook: what the planner stops itself isn't done

    def planner(kernels: list[dict[str, Any]], *, sm90: bool = True) -> list[dict[str, Any]]:
        request = {"version": plan.VERSION, "sm90": sm90}
        kernels = [{"id": number, **kernel} for number, kernel in enumerate(kernels)]
        checked = plan._checked(request | {"recorded": True, "kernels": kernels})  # noqa: SLF001
        allowed = plan.Allowed(checked["sm90"], checked["generators"], checked["recorded"])
        answers = [plan.plan(kernel, allowed) for kernel in checked["kernels"]]
        said: list[dict[str, Any]] = json.loads(json.dumps(answers))
        return said

    return planner


# receipts and the store


def receipt(world: Path) -> Border:
    """The receipt beside a library, as `doit list --status`, `why` and `check` read it."""
    from fitasks.compile import receipt as receipts

    place = workshop_place(world)
    kernel = place.kernels[0]

    def use(_: Path) -> None:
        judged = place.workshop.verdict(kernel)
        print(judged, *judged.reasons)
        if found := receipts.read(kernel):
            from fitasks.compile import begun

            print(receipts.parse_inputs(found.inputs)[:3], begun.edited(found, place.workshop.judge(), 0))
            with contextlib.suppress(Declined):
                _bundled(place, world / "bundle")

    file = receipts.path_of(kernel)
    return Border([file.read_bytes()], file, use, renew=lambda: _as_it_was(world), programs=_programs(place))


def store(world: Path) -> Border:
    """An entry of the store, as an adopting run takes it: its receipt, with files of the names that it says."""
    from fitasks.compile import receipt as receipts

    place = workshop_place(world)
    kernel, files = place.kernels[0], place.session.store
    (entry,) = (files.root / kernel.name).iterdir()

    def use(_: Path) -> None:
        judge = place.workshop.judge()
        print(files.told(kernel, judge, place.workshop.verdict(kernel)))
        if found := files.find(kernel, judge):
            with contextlib.suppress(OSError):
                files.take(*found, kernel.build_dir)
        if whole := receipts.read(kernel):
            files.put(kernel.name, kernel.build_dir, whole)
        files.contents()
        files.gc(10**9)

    def mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
        """A receipt whose hashes are right for whatever its names lead to: who plants one can compute them."""
        if rng.random() < 0.4:
            return mutate(data, others, rng, outside)
        said, seal = unsealed(data)
        names = ["../" * 4 + VICTIM, "../" * rng.randrange(9) + VICTIM, f"{outside}/{VICTIM}", "..", ".", "sub/x.o"]
        name = rng.choice([*names, "/etc/hostname", "../../x", "a\0b", "link.o", "x" * 300, "\x1b[2J.o"])
        _plant(entry, name, outside)
        output = {"sha256": _digest(entry, name), "size": 5, "mtime_ns": 1}
        said["outputs"] |= {name: output}
        if rng.random() < 0.3:
            del said["outputs"][rng.choice(list(said["outputs"]))]
        return seal(said)

    file = entry / receipts.NAME
    return Border([file.read_bytes()], file, use, mutant, lambda: _as_it_was(world), _programs(place))


def _plant(entry: Path, name: str, outside: str) -> None:
    if name == "link.o":
        (entry / name).symlink_to(f"{outside}/{VICTIM}")
    if name == "sub/x.o":
        (entry / "sub").mkdir()
        (entry / name).write_bytes(b"x")


def _digest(entry: Path, name: str) -> str:
    try:
        return hashlib.sha256((entry / name).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return "0" * 64


# bundles


class Declined(Exception):
    """One of fitasks' own errors."""


def bundle(world: Path) -> Border:
    """A bundle, as `doit unbundle` takes it into the cache."""
    from fitasks.compile import receipt as receipts
    from fitasks.delivery.bundle.unbundle import unbundle

    place = workshop_place(world)
    sample = _bundled(place, world / "good")
    receipts.path_of(place.kernels[0]).unlink()  # so that the one here isn't kept
    keep_as_it_is(world)

    def use(path: Path) -> None:
        print(unbundle(place.machine, path))

    def renew() -> None:
        _as_it_was(world)

    asks = frozenset({"ninja"})  # whether the kernel that came is fresh
    return Border([sample], world / "bundle", use, _bundle_mutant, renew, _programs(place), asks, others=NAMED)


def _bundled(place: Any, path: Path) -> bytes:
    from fitasks.base.errors import FitasksError
    from fitasks.delivery.bundle.bundle import bundle as make

    try:
        make(place.machine, path)
    except FitasksError as error:
        raise Declined(str(error)) from None
    return path.read_bytes()


def _bundle_mutant(data: bytes, others: list[bytes], rng: Random, outside: str) -> bytes:
    """Bytes of the file, or of the tar in it; header fields; the manifest; a file that the manifest then fits."""
    import gzip

    plain = gzip.decompress(data)
    match rng.randrange(6):
        case 0:
            return mutate(data, others, rng, outside)
        case 1:
            return gzip.compress(mutate(plain, [plain], rng, outside)[: 1 << 22], 1)
        case 2:
            return gzip.compress(_header_mutant(plain, rng, outside), 1)
        case _:
            return gzip.compress(_members_mutant(plain, rng, outside), 1)


_FIELDS = (
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (156, 1),
    (157, 100),
    (257, 8),
    (329, 16),
    (345, 155),
)


def _header_mutant(plain: bytes, rng: Random, outside: str) -> bytes:
    """One field of one header, mostly with the checksum that fits."""
    headers = [at for at in range(0, len(plain) - 512, 512) if plain[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(headers)
    header = bytearray(plain[at : at + 512])
    start, length = rng.choice(_FIELDS)
    value = rng.choice(
        [
            b"../" * 4 + VICTIM.encode(),
            f"{outside}/{VICTIM}".encode(),
            b"\0" * length,
            b"7" * length,
            b"\x80" + b"\xff" * (length - 1),
            b"-1",
            rng.choice(b"0123456789gxLKSDVM").to_bytes(1, "big"),
            rng.randbytes(length),
        ]
    )
    header[start : start + length] = value[:length].ljust(length, b"\0")
    if rng.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
    return plain[:at] + bytes(header) + plain[at + 512 :]


def _members_mutant(plain: bytes, rng: Random, outside: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = [(one, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]
    said = json.loads(members[0][1])
    index = rng.randrange(len(members))
    member, content = members[index]
    if index and rng.random() < 0.7:
        content = mutate(content, [one for _, one in members], rng, outside)[: 1 << 22] if content else b"x"
        said["files"][member.name] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = json.dumps(said).encode()
    else:
        manifest = of_json(members[0][1], rng, outside)
    members[index] = (member, content)
    members[0] = (members[0][0], manifest)
    if rng.random() < 0.1:
        members.insert(rng.randrange(1, len(members)), rng.choice(members))
    return _packed(members)


def _packed(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member, content in members:
            copied = tarfile.TarInfo(member.name)
            copied.mtime, copied.mode, copied.size = member.mtime, member.mode, len(content)
            archive.addfile(copied, io.BytesIO(content))
    return stream.getvalue()


# packages


def wheel(world: Path) -> Border:
    """manifest.json and receipts.json of an installed package, as `check`, `list` and `doctor` read them."""
    from fitasks.delivery.wheel import install
    from fitasks.delivery.wheel import installed as package
    from fitasks.plan.server import Package
    from fitasks.trace.coverage import packaged_names
    from tests.delivery.wheelwright import Shop, module, unpacked

    place = workshop_place(world)
    made = Shop().add(place.workshop, module(place.workshop, "norm", ("sm_90a",)))
    site = unpacked(made.wheel(world / "wheels").path, world / "site-packages")
    root = site / package.PACKAGE
    (library,) = root.rglob("norm.so")
    official = root.parent / "flashinfer_jit_cache_sm90a" / "manifest.json"
    official.parent.mkdir()
    official.write_text('{"cuda_architectures": ["sm90a"], "modules": ["page", "sampling"], "version": "0.7.4"}')
    plan = made.stocked(site, Path(world / "flashinfer")).plan
    has = tuple(Package(name, "0.7.4", "") for name in ("flashinfer-jit-cache", "flashinfer-python"))
    server = replace(plan.server, site_packages=(site,), packages=has)
    (world / "flashinfer" / "jit").mkdir(parents=True)
    (world / "flashinfer" / "jit" / "env.py").write_text("get_jit_cache_providers\n")
    plan = replace(plan, server=server)

    def use(_: Path) -> None:
        # Their memos go by path and mtime, which a file system may give twice within its clock's tick.
        for cached in (getattr(package, name, None) for name in ("_read", "_built_with", "_by_key")):
            getattr(cached, "cache_clear", lambda: None)()
        said = package.packaged(library)
        print(package.altered(library, said), package.built_with(library), install.notice(plan))
        print(packaged_names(server))

    files = [root / "manifest.json", root / "receipts.json", official]
    before = [file.read_bytes() for file in files]

    def renew() -> None:
        for file, data in zip(files, before, strict=True):
            _remove(file)
            file.write_bytes(data)

    return Border(before, files[0], use, renew=renew, files=files, programs=_programs(place))


# the plan, and other memos


def _project(world: Path) -> Any:
    """A planned and built project; what its commands remember is made by running them."""
    from tests.doit_project import Project

    project = Project.make(world, "targets: ['9.0a']\nkernels:\n  page:\n  quantization:\n")
    project.doit()
    project.doit("check")
    project.doit("ops")
    return project


def _memos(world: Path, chosen: Callable[[str], bool]) -> Border:
    project = _project(world)
    os.environ.clear()
    os.environ.update(project.env)
    os.chdir(project.root)
    state = project.root / ".fitasks"
    found = [*state.glob("*.json*"), *(world / "xdg" / "fitasks").glob("*.json"), *_beside_libraries(project)]
    files = sorted({path.resolve() for path in found if path.is_file() and chosen(path.name)})
    before = [file.read_bytes() for file in files]

    def renew() -> None:
        for file, data in zip(files, before, strict=True):
            _remove(file)
            file.write_bytes(data)

    programs = {str(project.tools / "nvcc"), sys.executable, str(Path(sys.executable).resolve()), *_tools(project.env)}
    asks = frozenset({"ninja"})  # what remains of a build that was begun
    return Border(before, files[0], _run_like_check, renew=renew, programs=frozenset(programs), asks=asks, files=files)


def _beside_libraries(project: Any) -> list[Path]:
    """What lies beside a library besides its receipt: what was begun, what failed, what is proven."""
    from fitasks.compile import begun
    from fitasks.compile.failure import failed
    from fitasks.graph.session import Session
    from fitasks.verify import proof

    session = Session.load(project.root)
    page, begins = session.plan.buildable()
    judge = session.judges[page.target]
    failed.remember(page, judge, "nvcc fatal: made up")
    checks = (proof.Check("made up", 0.1, 0.2, None),)
    proof.add(page.build_dir, proof.Proof("0" * 64, "9.0", "gpu", "1", "2", "3", "numerical", checks, "", "2026"))
    begun.begin(begins, judge, session.ninja, ())
    return [*page.build_dir.glob("fitasks-*.json"), *begins.build_dir.glob("fitasks-*.json")]


def _run_like_check(_: Path) -> None:
    """As much of list, why, check, ops and report as happens in one process."""
    from fitasks.compile import begun
    from fitasks.compile.failure import failed
    from fitasks.graph.session import Session
    from fitasks.plan import offers
    from fitasks.verify import proof

    session = Session.load(Path.cwd())
    if session.problem:
        raise session.problem
    print(session.runtime, session.loader, session.jobs)
    for kernel in session.plan.buildable():
        judged, judge = session.judge(kernel), session.judges[kernel.target]
        print(judged, *judged.reasons, session.costs.of(kernel), session.costs.files(kernel))
        print(begun.most_threads(kernel), failed.remembered(kernel, judge), proof.read(kernel.build_dir, "0" * 64))
    plan = session.plan
    session.contents.save()
    for target in [*plan.targets][:1]:  # none where the remembered kernels.yaml says none
        print(offers.offers(plan.server, plan.toolkit.home, target, plan.state))
    with fitasks_errors():
        _checked(session)
    _reported(session)
    print(*(begun.remaining(kernel, session.judges[kernel.target], session.ninja, ()) for kernel in session.kernels))


def _checked(session: Any) -> None:
    from fitasks.server.loadable import provisos, refused_by

    print(provisos(session), *(refused_by(session, kernel.library) for kernel in session.plan.buildable()))


def _reported(session: Any) -> None:
    from fitasks.ui.report.model import last_run

    print(last_run(session.root / ".fitasks" / "journal.jsonl"))


def plan(world: Path) -> Border:
    """.fitasks/plan.json, as every command begins."""
    return _memos(world, lambda name: name == "plan.json")


def memos(world: Path) -> Border:
    """Everything else that is remembered: below .fitasks, in the user's cache, beside a library."""
    return _memos(world, lambda name: name not in {"plan.json", "fitasks-receipt.json"})


def _tools(env: dict[str, str]) -> set[str]:
    from fitasks.cuda.survey import host_compiler

    found = {shutil.which(name, path=env["PATH"]) or "" for name in ("ninja", "c++", "g++", "cc", "nvcc", "ld")}
    found.add(str(host_compiler(env)))  # which CXX may name
    found |= set(map(str, Path("/usr/local").glob("cuda*/bin/nvcc")))  # every toolkit that planning may look at
    return {name for path in found if path for name in (path, os.path.realpath(path))}


# worlds


@contextlib.contextmanager
def fitasks_errors() -> Any:
    """What a command would print and end with."""
    from fitasks.base.errors import FitasksError

    try:
        yield
    except FitasksError as error:
        print(error)


def workshop_place(world: Path) -> Any:
    """Two kernels of FlashInfer's shape, compiled by the host's compiler, in a cache and in a store."""
    from fitasks.compile.ninja.ninja import find_ninja
    from fitasks.compile.pool.pool import Pool
    from fitasks.cuda.probe import ProbeMemo
    from tests.delivery.conftest import Place
    from tests.workshop import Workshop

    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    place = Place(Workshop(world, find_ninja(env, ProbeMemo(world / "probe.json")), Pool(2)), ("page",))
    place.build()
    keep_as_it_is(world)
    return place


def keep_as_it_is(world: Path) -> None:
    """The state to which `_as_it_was` returns: kept beside the world, which nothing may write to."""
    kept = world.parent / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(world, kept, symlinks=True)


def _as_it_was(world: Path) -> None:
    """Only what differs is copied back, with its times."""
    kept = world.parent / "kept"
    there = {path.relative_to(world) for path in world.rglob("*")}
    good = {path.relative_to(kept) for path in kept.rglob("*")}
    for name in sorted(there - good, reverse=True):
        _remove(world / name)
    for name in sorted(good):
        source, target = kept / name, world / name
        if source.is_dir():
            if not target.is_dir() or target.is_symlink():
                _remove(target)
                target.mkdir()
        elif not _equal(source, target):
            _remove(target)
            shutil.copy2(source, target)


def _equal(source: Path, target: Path) -> bool:
    if not target.is_file() or target.is_symlink():
        return False
    one, other = source.stat(), target.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _programs(place: Any) -> frozenset[str]:
    return frozenset({str(place.workshop.ninja.executable), *_tools({"PATH": os.environ["PATH"]})})


BORDERS: dict[str, Callable[[Path], Border]] = {
    "kernels": kernels_yaml,
    "models": models,
    "trace": trace,
    "jitlog": jitlog,
    "buildlog": buildlog,
    "receipt": receipt,
    "store": store,
    "plan": plan,
    "memos": memos,
    "bundle": bundle,
    "wheel": wheel,
}
