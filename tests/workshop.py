"""A workshop: modules shaped like FlashInfer's, compiled by the real ninja with the host compiler in milliseconds."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fitasks.compile.builder import Builder, Done
from fitasks.compile.journal import Journal
from fitasks.compile.judge.contents import Contents
from fitasks.compile.judge.freshness import Judge
from fitasks.compile.judge.roots import Roots
from fitasks.compile.ninja.ninja import Ninja
from fitasks.compile.pool.costs import Costs
from fitasks.compile.pool.pool import Pool
from fitasks.compile.pool.schedule import Schedule
from fitasks.compile.runner import Runner
from fitasks.plan.kernel import Kernel
from fitasks.plan.plan import Plan
from fitasks.plan.target import Target
from fitasks.store.local import Store
from tests.sessions import plan_at

if TYPE_CHECKING:
    from fitasks.compile.judge.reasons import Judgement

TARGET = "9.0a"

_NINJA = """\
ninja_required_version = 1.3
name = {name}
cxx = {cxx}
common_cflags = -isystem {include}
cflags = $common_cflags -fPIC -O0

rule compile
  command = $cxx {dep} -MF $out.d $cflags -c $in -o $out
  depfile = $out.d
  deps = gcc

rule link
  command = $cxx $in -shared -nostdlib -o $out

{edges}
build {build_dir}/{name}.so: link {objects}
default {build_dir}/{name}.so
"""

_TVM_FFI = """\
ninja_required_version = 1.3
cxx = {cxx}
cxxflags = -fPIC -O0 -I{include}
ldflags = -shared -nostdlib

rule compile
  depfile = $out.d
  deps = gcc
  command = $cxx -MMD -MF $out.d $cxxflags -c $in -o $out

rule link
  command = $cxx $in $ldflags -o $out

build cpp_0.o: compile {source}
build {name}.so: link cpp_0.o

default {name}.so
"""


@dataclass
class Workshop:
    """Everything below one directory, laid out like site-packages and a FlashInfer cache."""

    root: Path
    ninja: Ninja
    pool: Pool
    stamp: str = "stamp-1"
    cxx: str = "c++"
    site: str = "site"
    version: str = "0.7.2.post1"
    store: Store | None = None
    dep: str = "-MD"  # as complete as nvcc's own; FlashInfer's C++ rule has -MMD
    kept: Path | None = None  # where trees of this root are kept for the next test with the same root

    @property
    def include(self) -> Path:
        return self.root / self.site / "flashinfer" / "include"

    @property
    def workspace(self) -> Path:
        return self.root / "cache" / self.version / "90a"

    def kernel(self, name: str = "page", files: int = 2) -> Kernel:
        """A module of `files` generated sources, which all include common.h, and each its own header."""
        build_dir = self.workspace / "cached_ops" / name
        sources = [self._source(name, index) for index in range(files)]
        objects = [build_dir / f"{source.stem}.o" for source in sources]
        edges = "\n".join(f"build {out}: compile {source}" for out, source in zip(objects, sources, strict=True))
        text = _NINJA.format(
            name=name,
            cxx=self.cxx,
            dep=self.dep,
            include=self.include,
            edges=edges,
            build_dir=build_dir,
            objects=" ".join(map(str, objects)),
        )
        return Kernel(
            label=name,
            entry=name,
            op=name,
            target=TARGET,
            place="kernels.yaml:1:1",
            given={},
            name=name,
            generator=f"flashinfer.jit.{name}:gen_{name}_module",
            build_dir=build_dir,
            library=build_dir / f"{name}.so",
            ninja_file=build_dir / "build.ninja",
            lock=self.workspace / "cached_ops" / "tmp" / f"{name}.lock",
            sources=tuple(sources),
            ninja=text,
        )

    def cute_object(self, meta: str) -> Kernel:
        """A CuTe-DSL object of FlashInfer's, with its meta.json's text; nothing of it is there."""
        family = self.workspace / "cached_ops" / "gate_sm90a_cute_dsl"
        return Kernel(
            label="gate",
            entry="gate",
            op="flashinfer.norm.gate:_get_compiled",
            target=TARGET,
            place="kernels.yaml:1:1",
            given={},
            name="gate_sm90a_cute_dsl/h8",
            build_dir=family,
            library=family / "h8.o",
            ninja_file=family / "meta.json",
            lock=family.parent / "tmp" / "gate_sm90a_cute_dsl.lock",
            kind="cute",
            meta=meta,
        )

    def keyed_module(self, name: str, key: str = "0123456789abcdef") -> Kernel:
        """A module that SGLang keeps by content, under the first of its keys; nothing of it is there."""
        scope, header = self.root / "jit" / "sm90a" / name / f"build-{key}", self.root / "sglang" / "clamp.cuh"
        return Kernel(
            label="clamp",
            entry="clamp",
            op="sglang.kernels.ops.clamp:_jit_clamp_module",
            target=TARGET,
            place="kernels.yaml:1:1",
            given={},
            name=name,
            build_dir=scope,
            library=scope / f"{name}.so",
            ninja_file=scope / "build.ninja",
            lock=scope / ".lock",
            sources=(header,),
            kind="sglang-keyed",
            ninja="cudaflags = -gencode=arch=compute_90a,code=sm_90a\n",
            meta=json.dumps({"roots": {"kernels": str(header.parent)}, "leaves": 3}),
        )

    def sglangs(self, name: str = "sgl_kernel_jit_rope") -> Kernel:
        """A module as SGLang's own JIT has it: outputs named from its directory, a source that is written there."""
        build_dir = self.root / "tvm-ffi" / f"{name}__arch_9.0a__tvmffi_0.1.11"
        source, include = build_dir / "main.cpp", self.include / "common.h"
        self._source("rope", 0)
        text = _TVM_FFI.format(name=name, cxx=self.cxx, include=self.include, source=source)
        return Kernel(
            label="rope",
            entry="rope",
            op="sglang.jit_kernel.rope:_jit_rope_module",
            target=TARGET,
            place="kernels.yaml:1:1",
            given={},
            name=name,
            generator="sglang.jit_kernel.rope:_jit_rope_module",
            build_dir=build_dir,
            library=build_dir / f"{name}.so",
            ninja_file=build_dir / "build.ninja",
            lock=build_dir / "lock",
            sources=(source,),
            ninja=text,
            kind="sglang",
            texts={str(source): f'#include "{include}"\nint rope() {{ return common(); }}\n'},
        )

    def sglangs_in(self, build_dir: Path) -> Kernel:
        """The same module as tvm-ffi would write it into another directory."""
        kernel = self.sglangs()
        there, here = str(kernel.build_dir), str(build_dir)
        texts = {path.replace(there, here): text.replace(there, here) for path, text in kernel.texts.items()}
        return replace(
            kernel,
            build_dir=build_dir,
            library=build_dir / kernel.library.name,
            ninja_file=build_dir / "build.ninja",
            lock=build_dir / "lock",
            sources=tuple(map(Path, texts)),
            texts=texts,
            ninja=kernel.ninja.replace(there, here.replace(":", "$:")),
        )

    def judge(self) -> Judge:
        roots: dict[str, tuple[str, ...]] = {
            "CACHE": (str(self.workspace),),
            "FLASHINFER": (str(self.root / self.site / "flashinfer"),),
            "CUDA": (str(self.root / "cuda"),),
            "JIT": (str(self.root / "tvm-ffi"),),
        }
        contents = Contents.load(self.root / "contents.json")
        return Judge(Roots(roots), contents, {"nvcc": "V13.0.88", "c++": "g++ 12"}, self.ninja.version, self.stamp)

    def builder(self, timeout: float | None = None, schedule: Schedule = Schedule()) -> Builder:  # noqa: B008 - frozen
        journal = Journal(self.root / "journal.jsonl")
        costs = Costs(Path(os.devnull))
        runner = Runner(self.plan(), self.ninja, self.pool, journal, costs, schedule, timeout, lambda text: None)
        return Builder(runner, {TARGET: self.judge()}, self.store)

    def build(self, kernel: Kernel, **options: bool) -> Done:
        return self.builder().build(kernel, **options)

    def built(self) -> Kernel:
        """`page` as its build leaves it: built once, then laid out again, since a build takes half a second."""
        kernel = self.kernel()
        if self.kept is None:
            assert self.build(kernel).outcome == "compiled"
            return kernel
        tree = self.kept / ("stored" if self.store else "alone")
        if tree.exists():
            shutil.rmtree(self.root)
            shutil.copytree(tree, self.root)
        else:
            assert self.build(kernel).outcome == "compiled"
            shutil.copytree(self.root, tree)
        return kernel

    def verdict(self, kernel: Kernel) -> Judgement:
        return self.judge().judge(kernel)

    def plan(self) -> Plan:
        return plan_at(self.root, {TARGET: self.target()})

    def target(self, arch: str = "90a") -> Target:
        """What FlashInfer would have said of it while planning."""
        root = self.root / self.site / "flashinfer"
        return Target(arch, self.workspace, root, self.root / "cuda", self.version, "2.13.0", "0.1.16")

    def ninja_would_run(self, kernel: Kernel) -> str:
        """What the server's own ninja says, asked over a copy of the whole build directory's logs."""
        from fitasks.compile.ninja.ninja import explain

        return "; ".join(explain(self.ninja, kernel.build_dir, kernel.ninja_file))

    def with_flag(self, kernel: Kernel, flag: str) -> Kernel:
        return replace(kernel, ninja=kernel.ninja.replace("-O0", f"-O0 {flag}"))

    def _source(self, name: str, index: int) -> Path:
        source = self.workspace / "generated" / name / f"{name}_{index}.cpp"
        header = self.include / f"{name}_{index}.h"
        for path, text in {
            self.include / "common.h": "inline int common() { return 1; }\n",
            header: f"inline int own_{index}() {{ return {index}; }}\n",
            source: f"#include <common.h>\n#include <{header.name}>\nint {name}_{index}() {{ return common() + own_{index}(); }}\n",
        }.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=path.parent) as beside:  # benches kill who is at it
                    part = Path(beside, "source")
                    part.write_text(text)
                    part.replace(path)
        return source
