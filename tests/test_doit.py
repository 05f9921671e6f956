"""The product as its users meet it: real doit in a real project, step by step."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.doit_project import Planned, Project, cudart_in_reach


@pytest.fixture
def project(planned: Planned) -> Project:
    """Everything is compiled."""
    return planned.built()


BUILD = '{"toolchain": "nvcc", "name": "page", "seconds": 25.1, "pid": 7, "time": 1795901000.5}\n'
ALL = {"kernel:cascade", "kernel:page", "kernel:quantization"}


def test_a_second_doit_does_nothing_and_says_so_in_one_line(project: Project) -> None:
    assert project.doit() == "3 kernels: 3 fresh\n"
    assert project.calls() == 0
    assert project.statuses() == dict.fromkeys(ALL, "U")


def test_status_is_true_without_doits_database(project: Project) -> None:
    for path in (project.root / ".fitasks").glob("doit.*"):
        path.unlink()
    statuses = project.statuses()
    assert {name: statuses[name] for name in ALL} == dict.fromkeys(ALL, "U")
    assert project.doit() == "3 kernels: 3 fresh\n"


def test_a_database_full_of_garbage_costs_nothing(project: Project) -> None:
    (project.root / ".fitasks" / "doit.sqlite3").write_bytes(os.urandom(4096))
    assert project.doit() == "3 kernels: 3 fresh\n"
    assert project.calls() == 0


def damage_delete(library: Path) -> None:
    library.unlink()


def damage_truncate(library: Path) -> None:
    library.write_bytes(library.read_bytes()[:500])


def damage_garbage(library: Path) -> None:
    library.write_bytes(b"not a library" * 500)


def damage_receipt(library: Path) -> None:
    (library.parent / "fitasks-receipt.json").unlink()


@pytest.mark.parametrize("damage", [damage_delete, damage_truncate, damage_garbage, damage_receipt])
def test_a_damaged_kernel_is_made_again_alone(project: Project, damage: object) -> None:
    library = project.library("page")
    right = library.read_bytes()
    damage(library)  # type: ignore[operator]
    statuses = project.statuses()
    assert {name for name in ALL if statuses[name] == "R"} == {"kernel:page"}
    assert project.doit("why").startswith("kernel:page: ")
    out = project.doit()
    assert out.splitlines()[-1].startswith("3 kernels: 2 fresh, 1 ")
    assert library.read_bytes() == right
    assert project.doit() == "3 kernels: 3 fresh\n"


def test_a_changed_header_compiles_every_kernel_that_read_it(project: Project) -> None:
    header = project.tools / "header.h"
    header.write_text(header.read_text() + "// changed\n")
    assert len(project.doit("why").splitlines()) == 3
    statuses = project.statuses()
    assert {name for name in ALL if statuses[name] == "R"} == ALL
    assert project.doit().splitlines()[-1] == "3 kernels: 3 compiled"
    assert project.calls() == project.files()


def test_a_changed_stamp_makes_every_kernel_look_and_compiles_nothing(project: Project) -> None:
    stamp = project.root / ".fitasks" / "cudart.stamp"
    text = stamp.read_text()
    out = project.doit(given=cudart_in_reach())  # what a server would load is no part of any fingerprint
    assert stamp.read_text() != text
    assert sorted(out.splitlines()) == [
        "3 kernels: 3 audited",
        *(f"{name}: looked at again, nothing to do" for name in sorted(ALL)),
    ]
    assert project.calls() == 0
    assert project.doit(given=cudart_in_reach()) == "3 kernels: 3 fresh\n"


def test_wildcards_choose_kernels(project: Project) -> None:
    for name in ("page", "cascade"):
        project.library(name).unlink()
    assert project.doit("kernel:p*").splitlines()[-1].startswith("1 kernel: 1 ")
    assert not project.library("cascade").exists()


def test_a_delivery_compiles_what_it_can_hold(planned: Planned) -> None:
    """That a wheel doesn't wait for what it can't hold: tests/test_real_sglang.py."""
    project = planned.project()
    assert "laid out empty, for none of these kernels needs it" in project.doit("deliver")
    assert project.calls() == 0
    project.doit("wheel", "page")
    assert project.calls() == 2


def test_a_wildcard_that_no_kernel_is_like_is_a_mistake(project: Project) -> None:
    project.doit("kernel:pag?x*", status=2)
    assert "no kernel matches 'kernel:pag?x*'" in project.stderr
    project.doit("kernel:p*", "kernel:cascad*")


def slots(project: Project) -> int:
    first = (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()[0]
    return int(json.loads(first)["slots"])


@pytest.mark.parametrize(
    ("words", "count"), [(["-an1"], 1), (["-a", "--proc=3"], 3), (["-a", "-n", "3", "-n", "1"], 1), (["-a", "-n2"], 2)]
)
def test_how_many_compilers_in_every_form_that_doit_takes(project: Project, words: list[str], count: int) -> None:
    project.library("page").unlink()
    shutil.rmtree(Path(project.env["XDG_CACHE_HOME"], "fitasks", "store"), ignore_errors=True)
    project.doit(*words, "kernel:page", MAX_JOBS="5")
    assert slots(project) == count


@pytest.mark.parametrize(("jobs", "words"), [("²", []), ("many", [])])
def test_odd_numbers_of_compilers(project: Project, jobs: str, words: list[str]) -> None:
    assert project.doit(MAX_JOBS=jobs) == "3 kernels: 3 fresh\n"
    project.doit("-n", "-3", status=2)
    assert "-n -3 is no number of compilers" in project.stderr


def test_a_project_that_cannot_be_written_to(project: Project) -> None:
    """Read-only for whoever serves: everything that only looks works, and forgets."""
    state = project.root / ".fitasks"
    state.rename(project.root / "kept")
    state.write_text("in the way")  # of root, too, whom no permission keeps out
    try:
        out = project.doit("kernel:*", "check")
        assert "3 of 3 kernels found" in out
        assert "3 kernels: 3 fresh\n" in out
        assert "can't be written to (File exists); what this run learns is forgotten" in project.stderr
        project.library("page").unlink()
        shutil.rmtree(Path(project.env["XDG_CACHE_HOME"], "fitasks", "store"), ignore_errors=True)
        project.doit(status=1)
        assert "Traceback" not in project.stderr
    finally:
        state.unlink()
        (project.root / "kept").rename(state)


@pytest.mark.parametrize("task", ["check", "doctor"])
def test_what_cannot_be_written_is_one_sentence(project: Project, task: str) -> None:
    assert project.doit(task, "--json", ".", status=2) == ""
    assert project.stderr.startswith(f"doit {task} --json .: that is a directory\n")
    assert "Traceback" not in project.stderr


def test_json_into_a_pipe_and_the_link_to_it_stays(project: Project, tmp_path: Path) -> None:
    link = tmp_path / "out"
    link.symlink_to("/proc/self/fd/1")
    out = project.doit("check", "--json", str(link))
    data, _ = json.JSONDecoder().raw_decode(out[out.index("{") :])
    assert [kernel["state"] for kernel in data["kernels"]] == ["cached"] * 3
    assert link.is_symlink()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = project.start("check", "--json", str(pipe))
    assert json.loads(pipe.read_text())
    process.communicate(timeout=60)
    assert pipe.is_fifo()


def test_one_failing_kernel_does_not_stop_the_others(project: Project) -> None:
    header = project.tools / "header.h"
    header.write_text(header.read_text() + "// again\n")
    (project.tools / "fail").write_text("page.cu")
    out = project.doit(status=1)
    assert "kernel:page: FAILED\n" in out
    assert 'page.cu(12): error: identifier "nonsense" is undefined' in out
    log = project.root / ".fitasks" / "logs" / "page.log"
    assert out.splitlines()[-3:] == ["failed:", f"  kernel:page: log: {log}", "3 kernels: 2 compiled, 1 failed"]
    assert project.library("cascade").exists()
    assert not (project.library("page").parent / "fitasks-receipt.json").exists()
    assert "Traceback" not in out + project.stderr


@pytest.mark.parametrize("reporter", ["json", "console", "zero", "error-only", "executed-only"])
def test_a_failed_kernel_is_status_1_with_every_reporter(project: Project, reporter: str) -> None:
    header = project.tools / "header.h"
    header.write_text(header.read_text() + "// once more\n")
    (project.tools / "fail").write_text("page.cu")
    out = project.doit("--reporter", reporter, status=1)
    if reporter == "json":
        results = {task["name"]: task["result"] for task in json.loads(out)["tasks"]}
        assert {name: results[name] for name in ALL} == dict.fromkeys(ALL, "success") | {"kernel:page": "fail"}


@pytest.mark.parametrize("words", [["kernel:page"], ["kernel:p*"]])
def test_a_kernel_that_could_not_be_planned_says_why(project: Project, words: list[str]) -> None:
    file = project.root / "kernels.yaml"
    text = file.read_text()
    file.write_text("serving: {python: /nowhere/python}\n" + text)
    try:
        project.doit(*words, status=2)
    finally:
        file.write_text(text)
    assert project.stderr.startswith(f"{words[0]}: ")
    assert "/nowhere/python" in project.stderr
    project.doit("kernel:nonsense", status=2)
    assert "no kernel matches 'kernel:nonsense'" in project.stderr


def test_check_predicts_and_counts(project: Project, tmp_path: Path) -> None:
    out = project.doit("check", "--json", str(tmp_path / "check.json"))
    assert "3 of 3 kernels found" in out
    data = json.loads((tmp_path / "check.json").read_text())
    assert [kernel["state"] for kernel in data["kernels"]] == ["cached"] * 3
    project.library("page").unlink()
    assert "2 of 3 kernels found" in project.doit("check", status=1)
    assert "refused" in project.doit("check", status=1, FLASHINFER_DISABLE_JIT="1")


@pytest.fixture
def no_compiler(project: Project, tmp_path: Path) -> dict[str, str]:
    """An environment with all that PATH has but a host compiler."""
    for directory in map(Path, reversed(project.env["PATH"].split(os.pathsep))):
        for file in directory.iterdir() if directory.is_dir() else ():
            if not re.fullmatch(r"(\S+-)?(c\+\+|g\+\+|gcc|cc)(-\d+)?", file.name):
                (tmp_path / file.name).unlink(missing_ok=True)
                (tmp_path / file.name).symlink_to(file)
    return {"PATH": str(tmp_path)}


def test_what_is_compiled_needs_no_host_compiler(project: Project, no_compiler: dict[str, str]) -> None:
    assert "3 of 3 kernels found" in project.doit("check", given=no_compiler)
    assert project.doit("env", given=no_compiler).startswith("export CUDA_HOME=")
    assert project.doit(given=no_compiler).endswith("3 kernels: 3 audited\n")  # the stamp names the compiler
    assert project.calls() == 0


def test_what_is_to_be_compiled_does(project: Project, no_compiler: dict[str, str]) -> None:
    project.library("page").unlink()
    shutil.rmtree(project.root.parent / "xdg" / "fitasks" / "store")  # adopting needs none
    said = " ".join(project.doit("check", status=1, given=no_compiler).split())
    assert "2 of 3 kernels found" in said
    assert "page would fail page.so is missing" not in said
    assert "page would fail no host compiler: c++ is not on PATH" in said
    assert "no host compiler: c++ is not on PATH" in project.doit("kernel:page", status=1, given=no_compiler)
    assert project.calls() == 0


def test_a_plan_that_names_another_toolkit_needs_one(project: Project, no_compiler: dict[str, str]) -> None:
    """Only a linker can tell what else it would find."""
    out = project.doit("check", status=2, given=no_compiler, CUDA_HOME=str(project.tools))
    assert "no host compiler: c++ is not on PATH" in out


def test_env_prints_lines_for_a_shell(project: Project) -> None:
    lines = project.doit("env").splitlines()
    assert lines[0].startswith("export CUDA_HOME=")
    assert all(line.startswith("export ") for line in lines[:-1])
    workspace = project.cached_ops.parent
    assert lines[-1].startswith(f"# export FLASHINFER_JIT_BUILD_LOG={workspace}/flashinfer_jit_build.jsonl  # ")
    (workspace / "flashinfer_jit_build.jsonl").write_text(BUILD)
    try:
        assert "page: built by a server" in project.doit("jitlog")
    finally:
        (workspace / "flashinfer_jit_build.jsonl").unlink()
    assert "# " not in project.doit("env", FLASHINFER_JIT_BUILD_LOG="/tmp/builds.jsonl")


def test_why_of_a_fresh_kernel_and_of_an_unknown_one(project: Project) -> None:
    assert project.doit("why") == "3 kernels, all fresh\n"
    out = project.doit("why", "kernel:page")
    assert out.startswith("kernel:page: fresh: ")
    assert out.endswith(" inputs unchanged\n")
    assert "no kernel matches 'kernel:pgae' (did you mean kernel:page?)" in project.doit("why", "kernel:pgae", status=2)


def test_clear_incomplete_keeps_what_is_whole_or_being_built(project: Project) -> None:
    from filelock import FileLock

    ops = project.cached_ops
    for name in ("half", "held", "torn"):
        (ops / name).mkdir()
        (ops / name / "build.ninja").write_text("# begun\n")
    (ops / "torn" / "torn.so").write_bytes(project.library("page").read_bytes()[:300])
    older = ops.parent.parent.parent / "90a" / "cached_ops" / "old"
    older.mkdir(parents=True)
    with FileLock(ops / "tmp" / "held.lock"):
        out = project.doit("clear_incomplete")
    assert out.splitlines()[-1].startswith("3 incomplete modules removed")
    assert "kept (locked)" in out
    assert (ops / "held").exists()
    assert not (ops / "half").exists()
    assert not (ops / "torn").exists()
    assert not older.exists()
    assert project.library("page").exists()
    shutil.rmtree(ops / "held")


def test_reset_asks_and_removes_only_flashinfers_directories(project: Project) -> None:
    keep = project.cached_ops.parent / "flashinfer_jit.log"
    out = project.doit("reset", status=2)
    assert "remedy: doit reset --yes" in out
    assert project.library("page").exists()
    generated = project.cached_ops.parent / "generated"
    generated.mkdir(exist_ok=True)
    cached = project.cached_ops
    project.doit("reset", "--yes")
    assert not cached.exists()
    assert not generated.exists()
    assert keep.exists()


def test_a_mistake_in_kernels_yaml_is_status_2_without_a_traceback(project: Project) -> None:
    file = project.root / "kernels.yaml"
    text = file.read_text()
    file.write_text(text.replace("kernels:", "kernel:"))
    try:
        project.doit("list", status=2)
    finally:
        file.write_text(text)
    assert "kernels.yaml:2:1: kernel: " in project.stderr
    assert "Traceback" not in project.stderr


def test_an_entry_that_cannot_be_planned_fails_alone_with_its_place(project: Project) -> None:
    file = project.root / "kernels.yaml"
    text = file.read_text()
    file.write_text(text + "  decode: {op: batch_decode, dtype_q: bfloat16, haed_dim: 128, bakend: fa2}\n")
    try:
        out = project.doit(status=1)
        listed = project.doit("list", "--all")
    finally:
        file.write_text(text)
    assert "kernels.yaml:6:49: kernels.decode.haed_dim: unknown parameter; batch_decode takes " in out
    assert "(did you mean head_dim?)" in out
    assert "kernels.yaml:6:64: kernels.decode.bakend: unknown parameter; batch_decode takes " in out, "all at once"
    assert out.splitlines()[-1] == "4 kernels: 3 fresh, 1 failed"
    assert "kernel:decode-" in listed


def test_listing_imports_neither_torch_nor_yaml_nor_pydantic(project: Project) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "doit", "list"],
        cwd=project.root,
        env=project.env,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = done.stdout.splitlines()
    assert listed[0].startswith("build: ")
    assert listed[1].split()[1] == "fresh"
    assert listed[4].startswith("  3 kernels: 3 fresh, ")
    assert "ask: what a server will do, and why" in listed
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & {"torch", "flashinfer", "yaml", "pydantic", "rich", "elftools", "pynvml"} == set()
