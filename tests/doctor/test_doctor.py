"""The doctor's findings, from toolkits and environments made of small files; the real trial is in tests/test_real.py."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fitasks.cuda import toolkit as toolkit_module
from fitasks.cuda.cudart import Cudart, Runtime
from fitasks.cuda.probe import ProbeMemo
from fitasks.doctor import caches, machine, packages, toolkits, trial
from fitasks.doctor.finding import Finding
from fitasks.plan.server import Package, Server
from fitasks.server.place import Place
from fitasks.server.sm90_switch import install
from fitasks.store.local import Store
from tests.cuda.fake_toolkit import SAYS, Maker, install_program, put
from tests.doit_project import Project
from tests.server.test_place import mounted

PIP = "pip install 'cuda-toolkit[nvcc,nvvm,crt,cudart,cccl,cublas,curand,nvrtc]==13.0.*'"
HEADERS = tuple(sorted(toolkits.HEADERS))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An environment below tmp_path, without a toolkit; our own site-packages don't count."""
    monkeypatch.setattr(toolkit_module, "DEFAULT_HOME", tmp_path / "usr-local-cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "c++").symlink_to(str(shutil.which("c++")))
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(Server, "toolkit_places", lambda self: self.site_packages)
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    known = (Package("flashinfer-python", "0.7.2", ""), Package("torch", "2.9", ""), Package("apache-tvm-ffi", "1", ""))
    return Server(tmp_path / "bin" / "python", "none", tmp_path, (site,), env, known)


def lines(found: list[Finding], base: Path) -> list[str]:
    text = [f"{one.state}: {one.subject}: {one.value} → {one.remedy}" for one in found]
    return [line.replace(str(base), "…") for line in text]


def examine_toolkits(server: Server, base: Path) -> list[str]:
    return lines(toolkits.examine(server, ProbeMemo(base / "memo"))[0], base)


def test_a_store_that_others_may_write_is_spoken_of(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert lines(list(caches.examine_store(store)), tmp_path) == ["ok: store: …/store → "]
    store.root.mkdir()
    store.root.chmod(0o777)
    (refused,) = lines(list(caches.examine_store(store)), tmp_path)
    assert refused == (
        "note: store: …/store: not used, everybody may write to …/store → "
        "make it yours alone (chown, chmod go-w), or set FITASKS_STORE=shared to load what others put there"
    )
    (shared,) = lines(list(caches.examine_store(replace(store, shared=True))), tmp_path)
    assert shared.startswith("note: store: …/store: used as FITASKS_STORE=shared says, though everybody may write to")


def test_whether_a_store_is_shared_is_the_machines_to_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path), "FITASKS_STORE": "shared"}  # of the server, which kernels.yaml may change
    monkeypatch.delenv("FITASKS_STORE", raising=False)
    assert Store.of(env) == Store(tmp_path / "fitasks" / "store")
    monkeypatch.setenv("FITASKS_STORE", "shared")
    assert Store.of(env) == Store(tmp_path / "fitasks" / "store", shared=True)


def test_what_an_installed_toolkit_lacks_is_one_note_where_another_is_complete(
    server: Server, maker: Maker, tmp_path: Path
) -> None:
    holed = maker.installed(tmp_path / "usr-local-cuda", headers=("cuda_bf16.h", "cuda_fp8.h", "nvrtc.h"))
    (holed / "lib64" / "stubs" / "libcuda.so").unlink()
    maker.pip(tmp_path / "site", headers=HEADERS)
    assert examine_toolkits(server, tmp_path) == [
        "ok: used: …/cache/fitasks/cuda-13.0.88 (pip), nvcc V13.0.88 cuda_13.0.r13.0/compiler.1_0 → ",
        (
            "note: …/usr-local-cuda: lacks cublasLt.h (cublas), cublas_v2.h (cublas), curand_kernel.h (curand), "
            "lib64/stubs/libcuda.so (driver stub) "
            "→ apt-get install libcublas-dev-13-0 libcurand-dev-13-0 cuda-driver-dev-13-0"
        ),
        "ok: …/site/nvidia/cu13 (from pip): complete: nvcc 13.0.88, nvvm 13.0.88, crt 13.0.88 → ",
    ]


def test_a_mixture_from_pip_is_found_before_a_compile_finds_it(server: Server, maker: Maker, tmp_path: Path) -> None:
    maker.pip(tmp_path / "site", headers=HEADERS, nvvm="13.5.37", crt="13.5.37")
    _, *found = examine_toolkits(server, tmp_path)
    where = "problem: …/site/nvidia/cu13 (from pip): lacks"
    assert found == [
        (
            f"{where} nvvm 13.0 (it has 13.5.37, its nvcc is 13.0.88) (nvvm), "
            f"crt 13.0 (it has 13.5.37, its nvcc is 13.0.88) (crt) → {PIP}"
        ),
    ]


def test_no_toolkit_at_all(server: Server, tmp_path: Path) -> None:
    found, chosen = toolkits.examine(server, ProbeMemo(tmp_path / "memo"))
    assert chosen is None
    assert [(one.state, one.remedy) for one in found] == [("problem", PIP)]
    assert found[0].value.startswith("no CUDA toolkit: CUDA_HOME and CUDA_PATH are not set, no nvcc on PATH")


def test_without_a_host_compiler_toolkits_are_told_all_the_same(server: Server, maker: Maker, tmp_path: Path) -> None:
    home = maker.installed(tmp_path / "usr-local-cuda", headers=HEADERS)
    (home / "lib64" / "stubs" / "libcuda.so").unlink()
    maker.pip(tmp_path / "site", headers=HEADERS)
    (tmp_path / "bin" / "c++").unlink()
    used, lacks, complete = examine_toolkits(server, tmp_path)
    assert used.startswith("problem: used: no host compiler: c++ is not on PATH → ")
    assert lacks.startswith("problem: …/usr-local-cuda: lacks lib64/stubs/libcuda.so")
    assert complete.startswith("ok: …/site/nvidia/cu13 (from pip): complete: nvcc 13.0.88")


def test_headers_of_another_release(server: Server, maker: Maker, tmp_path: Path) -> None:
    home = maker.installed(tmp_path / "usr-local-cuda", headers=HEADERS)
    put(home / "include" / "cuda.h", "#define CUDA_VERSION 12090\nCUresult CUDAAPI cuInit(unsigned int Flags);\n")
    where = "…/usr-local-cuda"
    assert examine_toolkits(server, tmp_path)[2] == (
        f"problem: {where}: its headers are of 12.9, its nvcc is of 13.0 → all parts of one release: {PIP}"
    )


def test_a_toolkit_whose_nvcc_cannot_do_it(server: Server, maker: Maker, tmp_path: Path) -> None:
    home = maker.installed(tmp_path / "usr-local-cuda", headers=HEADERS)
    refuses = '#!/bin/sh\ncase "$*" in *gencode*) echo "nvcc fatal   : Unsupported gpu architecture \'compute_120f\'"; exit 1;; esac\n'
    put(home / "bin" / "nvcc", f"{refuses}cat {home}/bin/nvcc.says\n")
    commands = {"": [["-gencode=arch=compute_120f,code=sm_120f"]]}
    said = (
        "…/usr-local-cuda: can't do FlashInfer's commands (nvcc 13.0.88: Unsupported gpu architecture 'compute_120f')"
    )
    remedy = f"a newer toolkit: {PIP}, and CUDA_HOME must not name this one"
    found, chosen = toolkits.examine(server, ProbeMemo(tmp_path / "memo"), commands)
    assert chosen is not None
    assert lines(found, tmp_path)[1:] == [f"problem: {said} → {remedy}"]
    maker.pip(tmp_path / "site", headers=HEADERS)
    (tmp_path / "usr-local-cuda" / "bin" / "nvcc.says").write_text(SAYS.format(release="13.0", version="13.0.1"))
    found, chosen = toolkits.examine(server, ProbeMemo(tmp_path / "memo"), commands)
    assert chosen is not None
    assert chosen.origin == "pip"
    assert [one.state for one in found] == ["ok", "note", "ok"]


def test_packages_that_do_not_fit(server: Server, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "flashinfer_cubin-0.7.1.dist-info").mkdir()
    (site / "flashinfer_jit_cache-0.7.2+cu130.dist-info").mkdir()
    put(site / "torch" / "version.py", "cuda: Optional[str] = '12.8'\nhip = None\n")
    toolkit = toolkit_module.Toolkit(tmp_path, "default", tmp_path, "13.0", "V13.0.88", tmp_path)
    put(site / "flashinfer" / "__init__.py")
    put(site / "flashinfer" / "__main__.py", '@cli.command("install-cubin-wheel")\n')
    found = lines(list(packages.examine(server, toolkit)), tmp_path)
    uninstall = "…/bin/python -m pip uninstall flashinfer-cubin"
    brings = "FlashInfer's own `flashinfer install-cubin-wheel` brings the one that fits"
    assert f"problem: flashinfer-cubin: 0.7.1, but flashinfer-python is 0.7.2 → {uninstall}; {brings}" in found
    assert "problem: flashinfer-cubin: 0.7.1, but flashinfer-python is 0.7.2 → " in "".join(found)
    assert "ok: flashinfer-jit-cache: 0.7.2+cu130 → " in found
    assert found[-1] == (
        "problem: torch's CUDA: 12.8, but the toolkit is 13.0: kernels will need another libcudart than torch loads "
        "→ use a CUDA 12 toolkit"
    )


def test_what_is_missing_from_the_environment(server: Server, tmp_path: Path) -> None:
    bare = Server(server.python, "none", tmp_path, server.site_packages, server.env, ())
    found = [one for one in packages.examine(bare, None) if one.state == "problem"]
    assert [one.subject for one in found] == ["flashinfer-python", "torch", "apache-tvm-ffi"]
    assert found[0].remedy == f"{server.python} -m pip install flashinfer-python"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"FLASHINFER_JIT_VERBOSE": "1"}, ["problem FLASHINFER_JIT_VERBOSE"]),
        (
            {"FLASHINFER_JIT_VERBOSE": "1", "FLASHINFER_JIT_DEBUG": "0"},
            ["note FLASHINFER_JIT_DEBUG"],
        ),
        ({"FLASHINFER_JIT_DEBUG": "1"}, ["problem FLASHINFER_JIT_DEBUG"]),
        ({"FLASHINFER_EXTRA_CUDAFLAGS": "-g", "CC": "gcc-12"}, ["note CC", "note FLASHINFER_EXTRA_CUDAFLAGS"]),
        ({"FLASHINFER_NVCC_LAUNCHER": "ccache", "CXX": "g++"}, ["note CXX", "note FLASHINFER_NVCC_LAUNCHER"]),
        ({"CC": "ccache gcc"}, ["problem CC"]),
        ({"CXX": ""}, ["problem CXX"]),
        ({"FLASHINFER_DISABLE_JIT": "1"}, ["note FLASHINFER_DISABLE_JIT"]),
        ({"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "CCC": "1"}, []),
    ],
)
def test_variables_that_change_commands(server: Server, env: dict[str, str], expected: list[str]) -> None:
    server.env.update(env)
    found = [one for one in packages.examine(server, None) if one.subject.isupper()]
    assert [f"{one.state} {one.subject}" for one in found] == expected


@pytest.mark.parametrize(
    ("sm90", "value", "installed", "expected"),
    [
        (True, "", False, []),
        (True, "off", False, []),
        (True, "1", False, ["note FLASHINFER_DISABLE_SM90"]),
        (True, "1", True, []),
        (False, "", False, ["problem sm90 switch", "note FLASHINFER_DISABLE_SM90"]),
        (False, "1", False, ["problem sm90 switch"]),
        (False, "no", True, ["note FLASHINFER_DISABLE_SM90"]),
        (False, "1", True, []),
    ],
)
def test_the_sm90_switch(server: Server, sm90: bool, value: str, installed: bool, expected: list[str]) -> None:
    server = replace(server, site_directories=server.site_packages)
    server.env["FLASHINFER_DISABLE_SM90"] = value
    if installed:
        install(server.prefix, server.site_directories)
    found = packages.examine(server, None, sm90=sm90)
    assert [f"{one.state} {one.subject}" for one in found if "sm90" in one.subject.lower()] == expected


def test_libcudarts_side_by_side() -> None:
    toolkit = Cudart("/t/libcudart.so.13", "/t/libcudart.so.13.0.96", "libcudart.so.13", "13.0.96", "13.0")
    old = Cudart("/s/libcudart.so.12", "/s/libcudart.so.12", "libcudart.so.12", "12.4.127", "12.4")
    broken = Cudart("/x/libcudart.so.13", "/x/libcudart.so.13", problem="not an ELF file")
    found = list(packages.examine_cudart(Runtime(old, "torch has loaded it", (old, broken), toolkit)))
    assert [f"{one.state}: {one.subject}: {one.value}" for one in found] == [
        "ok: libcudart of the toolkit: 13.0.96 at /t/libcudart.so.13",
        "ok: libcudart that a server loads: 12.4.127 at /s/libcudart.so.12",
        "problem: libcudart: a server loads libcudart.so.12, kernels will need libcudart.so.13",
        "problem: libcudart, also there: /x/libcudart.so.13: not an ELF file",
    ]


def test_a_server_that_finds_no_libcudart() -> None:
    """It isn't said to load the environment's own, which is there and out of its loader's reach."""
    own = Cudart("/t/libcudart.so.13", "/t/libcudart.so.13", "libcudart.so.13", "13.0.96", "13.0")
    runtime = Runtime(own, "torch 9+cpu loads none", (own,), own, reached=False)
    assert [f"{one.state}: {one.subject}: {one.value}" for one in packages.examine_cudart(runtime, "do it")] == [
        "ok: libcudart of the toolkit: 13.0.96 at /t/libcudart.so.13",
        "problem: libcudart that a server loads: none: torch 9+cpu loads none",
    ]


def test_the_trial_names_what_brings_a_library() -> None:
    said = "OSError: libcudart.so.13: cannot open shared object file: No such file or directory"
    (found,) = trial._findings({"steps": [], "failed": "load", "output": said}, "9.0a", "bring {}".format)
    assert (found.value, found.remedy) == (said, "bring libcudart.so.13")


def test_two_ninjas(server: Server, maker: Maker, tmp_path: Path) -> None:
    install_program(maker.talker, tmp_path / "bin" / "ninja", "1.13.2\n")
    install_program(maker.talker, tmp_path / "usr" / "ninja", "1.11.1\n")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "ninja").symlink_to(tmp_path / "usr" / "ninja")
    server.env["PATH"] = f"{tmp_path}/bin:{tmp_path}/usr:{tmp_path}/link:/nowhere"
    found = [one for one in machine.examine(server, None, ProbeMemo(tmp_path / "memo")) if "ninja" in one.subject]
    first, second = lines(found, tmp_path)
    assert first == "ok: ninja: 1.13.2 at …/bin/ninja, first on PATH → "
    assert second.startswith(
        "note: another ninja: 1.11.1 at …/usr/ninja: would compile again → start the server with …"
    )


def test_caches_of_each_engine(server: Server, tmp_path: Path) -> None:
    put(tmp_path / ".cache" / "flashinfer" / "x.so", "x" * 3_000_000)
    server.env["FLASHINFER_WORKSPACE_BASE"] = str(tmp_path / ".cache" / "sglang")
    found = {
        one.subject: one.value.replace(str(tmp_path), "…") for one in caches.examine(server, Place(None, os.access))
    }
    assert list(found) == ["in use: SGLang", "FlashInfer, vLLM"]
    assert found["FlashInfer, vLLM"].startswith("…/.cache/flashinfer: 3 MB, ")
    assert found["in use: SGLang"].startswith("…/.cache/sglang/.cache/flashinfer: not there, ")


def test_a_cache_that_the_server_cannot_use(server: Server, tmp_path: Path) -> None:
    server.env["FLASHINFER_WORKSPACE_BASE"] = str(tmp_path)
    (found,) = [
        one for one in caches.examine(server, Place(None, lambda *_: False)) if one.subject.startswith("in use")
    ]
    assert (found.state, found.value.partition("; ")[2]) == (
        "problem",
        f"this user (uid {os.geteuid()}) may not make files in {tmp_path} (FlashInfer's cache)",
    )
    with mounted(tmp_path, "noexec"):
        (found,) = [one for one in caches.examine(server, Place(None, os.access)) if one.subject.startswith("in use")]
    assert found.state == "problem"
    assert found.value.endswith(f"can't be loaded: {tmp_path} is mounted noexec")


def test_it_answers_without_a_plan(tmp_path: Path) -> None:
    """A serving interpreter without FlashInfer: said, with everything else, and exit status 1."""
    project = Project.make(tmp_path, 'serving: {python: /usr/bin/python3}\ntargets: ["9.0a"]\nkernels: {page: }\n')
    project.env["PYTHONPATH"] = project.env["PYTHONPATH"].split(":")[0]
    out = project.doit("doctor", "--json", "doctor.json", status=1)
    assert "flashinfer-python" in out
    data = json.loads((project.root / "doctor.json").read_text())
    assert not data["good"]
    problems = {one["subject"] for one in data["findings"] if one["state"] == "problem"}
    assert {"flashinfer-python", "torch", "not made"} <= problems
    assert any(one["section"] == "caches" for one in data["findings"])
