"""The pool of compilers through the real doit and ninja: never too many, nothing lost, nothing hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fitasks.compile.pool.shards import divide
from fitasks.plan.kernel import Kernel, from_record
from tests.doit_project import Planned, Project
from tests.test_interruptions import stand_ins


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    return planned.project()


@pytest.fixture(autouse=True)
def stale(project: Project) -> None:
    """Each test compiles everything anew."""
    for name in ("hold", "fail", "killed"):
        (project.tools / name).unlink(missing_ok=True)
    (project.tools / "header.h").write_text(f"// {time.time_ns()}\n")
    project.calls()


@pytest.mark.parametrize(
    ("words", "env", "most"), [(["-n", "1"], {}, 1), ([], {"MAX_JOBS": "3"}, 3), ([], {"MAX_JOBS": "2"}, 2)]
)
def test_never_more_compilers_than_slots(project: Project, words: list[str], env: dict[str, str], most: int) -> None:
    project.doit(*words, STAND_IN_SECONDS="0.3", given=env)
    assert project.most_at_once() == most
    assert project.calls() == project.files()


def test_jobs_in_kernels_yaml(project: Project) -> None:
    file = project.root / "kernels.yaml"
    text = file.read_text()
    file.write_text("jobs: 1\n" + text)
    try:
        project.doit(STAND_IN_SECONDS="0.2")
    finally:
        file.write_text(text)
    assert project.most_at_once() == 1


def test_a_compiler_killed_for_want_of_memory_is_tried_again_alone(project: Project) -> None:
    """Itself, and no other file of its kernel; and from then on fewer run at once."""
    (project.tools / "killed").write_text("page.cu 1")
    out = project.doit("kernel:page", MAX_JOBS="4")
    assert "kernel:page: csrc_page.cuda.o was killed for want of memory; from now on 2 at once\n" in out
    assert "kernel:page: page.cu once more, alone\n" in out
    assert out.splitlines()[-1] == "1 kernel: 1 compiled"
    assert project.calls() == 3


def test_compilers_that_are_killed_together_halve_the_pool_once(project: Project) -> None:
    hold = project.hold()
    process = project.start("-n", "4")
    deadline = time.monotonic() + 60
    while len(killed := stand_ins(project)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    hold.unlink()
    out, err = process.communicate(timeout=120)
    assert re.findall(r"from now on (\d+) at once", out) == ["2"] * 4, out + err
    assert out.splitlines()[-1] == "3 kernels: 3 compiled"


def test_a_narrowed_pool_is_shown_as_it_is(project: Project) -> None:
    (project.tools / "killed").write_text("page.cu 1")
    out = project.doit("kernel:page", MAX_JOBS="4", FITASKS_HEARTBEAT="0.2", STAND_IN_SECONDS="1")
    after = out[out.index("once more, alone") :]
    assert set(re.findall(r"\d+ of (\d+) compilers", after)) == {"2"}, out
    project.doit("report")
    assert "2 at once after a compiler was killed" in (project.root / ".fitasks" / "report.html").read_text()


def test_makes_number_is_the_pools(project: Project, tmp_path: Path) -> None:
    """For the board, for what is foretold, and for how many files are split."""
    (tmp_path / "Makefile").write_text(f"all:\n\t+@{sys.executable} -m doit kernel:page\n")
    env = {name: value for name, value in project.env.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-C", str(project.root), "-f", str(tmp_path / "Makefile"), "-j2"]
    subprocess.run(command, env=env | {"MAX_JOBS": "16"}, check=True, capture_output=True)
    assert first_event(project)["slots"] == 2
    assert first_event(project)["reason"] == "2 compilers: make -j2 allows no more; else 16 compilers, as asked for"


def test_one_that_is_killed_again_fails_and_says_what_to_do(project: Project) -> None:
    (project.tools / "killed").write_text("9")
    out = project.doit("kernel:page", status=1)
    assert "page: nvcc error   : 'cicc' died due to signal 9 (Kill signal)" in out
    assert re.search(
        r"hint: alone it failed as well: it needs more memory than the \d+\.\d GB that were free \(\S+\)", out
    )
    assert "MAX_JOBS" not in out, "which would change nothing"


def test_what_fails_otherwise_after_a_kill_is_told_for_what_it_is(project: Project) -> None:
    (project.tools / "killed").write_text("page.cu 1")
    (project.tools / "fail").write_text("flashinfer_page_binding.cu")
    out = project.doit("kernel:page", status=1, MAX_JOBS="1")
    failed = out[out.index("kernel:page: FAILED") :]
    assert 'error: identifier "nonsense" is undefined' in failed
    assert "memory" not in failed


def test_a_linker_killed_for_want_of_memory_is_tried_again_alone(project: Project, tmp_path: Path) -> None:
    linker = tmp_path / "c++"
    once = f'[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; echo "collect2: fatal error: ld terminated with signal 9"; exit 1; }}'
    linker.write_text(f'#!/bin/sh\ncase " $* " in *" -shared "*) {once};; esac\nexec c++ "$@"\n')
    linker.chmod(0o755)
    out = project.doit("kernel:page", CXX=str(linker))
    assert "kernel:page: page.so once more, alone\n" in out
    assert out.splitlines()[-1] == "1 kernel: 1 compiled"


def test_a_failure_is_told_while_others_go_on(project: Project) -> None:
    (project.tools / "fail").write_text("flashinfer_page_binding.cu")
    out = project.doit("kernel:page", status=1, STAND_IN_SECONDS="1", MAX_JOBS="2").splitlines()
    told = next(index for index, line in enumerate(out) if line.endswith('error: identifier "nonsense" is undefined'))
    assert told < out.index("kernel:page: FAILED")


@pytest.mark.parametrize("slots", ["1", "2"])
def test_several_lost_objects_are_compiled_again(project: Project, slots: str) -> None:
    project.doit("kernel:page")
    project.calls()
    shutil.rmtree(Path(project.env["XDG_CACHE_HOME"]) / "fitasks" / "store")
    for lost in project.library("page").parent.glob("*.o"):
        lost.unlink()
    assert project.doit("kernel:page", MAX_JOBS=slots).splitlines()[-1] == "1 kernel: 1 compiled"
    assert project.calls() == 2
    assert project.doit("kernel:page") == "1 kernel: 1 fresh\n"


def first_event(project: Project) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()[0])
    return event


def test_files_that_need_no_compiler_are_counted_as_there(project: Project) -> None:
    """Before it begins, while it compiles, and in what is foretold."""
    project.doit("kernel:page", "kernel:cascade")
    whole = first_event(project)
    shutil.rmtree(Path(project.env["XDG_CACHE_HOME"]) / "fitasks" / "store")
    next(project.library("page").parent.glob("*binding*.o")).unlink()
    hold = project.hold()
    process = project.start("kernel:page", FITASKS_HEARTBEAT="0.5")
    project.calls()
    project.wait_for_call()
    time.sleep(1.5)
    hold.unlink()
    out, err = process.communicate(timeout=60)
    assert "kernel:page: compiling 1 file; " in out, out + err
    assert "still compiling: page 1/2 (" in out
    assert "; 0 of 1 kernel, 1 of 2 files, " in out
    (page,) = first_event(project)["kernels"]
    assert (page["files"], page["kept"]) == (2, 1)
    before = next(kernel for kernel in whole["kernels"] if kernel["label"] == "page")
    assert 0 < page["cpu_seconds"] < before["cpu_seconds"]
    assert 0 < first_event(project)["bound"] <= page["cpu_seconds"]


def test_what_an_interrupted_build_finished_is_not_announced_again(project: Project) -> None:
    process = project.start("-n", "1", "kernel:page", STAND_IN_SECONDS="1")
    deadline = time.monotonic() + 60
    project.wait_for_call()
    while " end " not in (project.tools / "calls").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    out = project.doit("-n", "1", "kernel:page")
    assert "kernel:page: compiling 1 file; incomplete: " in out
    assert first_event(project)["kernels"][0]["kept"] == 1


def test_the_pool_is_made_for_what_was_asked_for(project: Project) -> None:
    """Not for all that is stale in kernels.yaml."""
    project.doit("kernel:page", MAX_JOBS="2")
    first = json.loads((project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()[0])
    assert [kernel["label"] for kernel in first["kernels"]] == ["page"]


def test_what_is_adopted_is_not_foretold(project: Project) -> None:
    project.doit("kernel:page")
    shutil.rmtree(project.library("page").parent)
    project.doit("kernel:page", "kernel:cascade")
    first = json.loads((project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()[0])
    assert [kernel["label"] for kernel in first["kernels"]] == ["cascade"]


def test_failed_compilers_are_in_the_journal(project: Project) -> None:
    (project.tools / "fail").write_text("page.cu")
    project.doit("kernel:page", status=1, MAX_JOBS="1")
    events = [json.loads(line) for line in (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()]
    status = {event["output"]: event["status"] for event in events if event["event"] == "file"}
    assert status["csrc_page.cuda.o"] != 0


def test_a_held_lock_keeps_no_other_kernel_waiting(project: Project) -> None:
    """Also with one compiler: a server builds quantization, page is compiled meanwhile."""
    project.doit("kernel:page")
    (project.tools / "header.h").write_text("// anew\n")
    lock = project.cached_ops / "tmp" / "quantization.lock"
    with FileLock(lock):
        process = project.start("-n", "1", "kernel:quantization", "kernel:page")
        deadline = time.monotonic() + 60
        while not is_finished(project, "page"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "2 kernels: 2 compiled", out + err


def is_finished(project: Project, name: str) -> bool:
    """With the present header."""
    receipt = project.library(name).parent / "fitasks-receipt.json"
    return receipt.exists() and receipt.stat().st_mtime > (project.tools / "header.h").stat().st_mtime


def test_processes_of_doits_own_would_not_know_of_each_others_compilers(project: Project) -> None:
    project.doit("-n", "2", "-P", "process", status=2)
    assert "leave out -P process" in project.stderr
    assert project.calls() == 0


def test_a_kernel_that_takes_too_long_is_ended(project: Project) -> None:
    file = project.root / "kernels.yaml"
    text = file.read_text()
    file.write_text("timeout: 1\n" + text)
    hold = project.hold()
    try:
        out = project.doit("kernel:page", status=1)
    finally:
        file.write_text(text)
        hold.unlink()
    assert "page: not finished after " in out
    assert "remedy: raise `timeout:` in kernels.yaml (seconds; 0 is no limit)" in out
    assert stand_ins(project) == []


def test_a_kernel_whose_ninja_vanishes_has_failed(project: Project, tmp_path: Path) -> None:
    """It is over, for the heartbeat and for the report as well."""
    ninja = tmp_path / "ninja"
    shutil.copy(shutil.which("ninja", path=project.env["PATH"]) or "", ninja)
    hold = project.hold()
    path = f"{tmp_path}:{project.env['PATH']}"
    process = project.start("-n", "1", "kernel:page", PATH=path)
    project.wait_for_call()
    ninja.unlink()
    hold.unlink()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert f"{ninja} cannot be run in " in out
    assert "1 kernel: 1 failed" in out
    events = [json.loads(line) for line in (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()]
    assert [event["outcome"] for event in events if event["event"] == "end"] == ["failed"]


def test_the_journal_tells_of_every_compiler(project: Project) -> None:
    project.doit()
    events = [json.loads(line) for line in (project.root / ".fitasks" / "journal.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] == "run"] == ["run"]
    assert events[0]["event"] == "run"
    files = [event["output"] for event in events if event["event"] == "file" and event["label"] == "page"]
    assert sorted(files) == ["csrc_flashinfer_page_binding.cuda.o", "csrc_page.cuda.o", "page.so"]
    ends = {event["label"]: event["outcome"] for event in events if event["event"] == "end"}
    assert ends == dict.fromkeys(["page", "cascade", "quantization"], "compiled")


MANY = """\
targets: ["9.0a"]
kernels:
  decode:
    op: batch_decode
    dtype_q: [bfloat16, float16]
    dtype_kv: [bfloat16, float16, float8_e4m3fn, float8_e5m2]
    head_dim: 128
    use_logits_soft_cap: false
  page:
  cascade:
  quantization:
  sampling:
"""


@pytest.mark.usefixtures("flashinfer")
def test_many_kernels_in_three_shards_leave_no_process_and_no_token_behind(tmp_path: Path) -> None:
    project = Project.make(tmp_path, MANY)
    out = project.doit("list", "--all").splitlines()
    count = sum(line.startswith("kernel:") for line in out)
    assert count == 12
    told = [project.doit("--shard", f"{number}/3", MAX_JOBS="4").splitlines()[-1] for number in (1, 2, 3)]
    assert [int(line.split()[0]) for line in told] == [len(shard) for shard in divide(kernels(project), 3).shards]
    assert re.search(r"of [\d,]+ s of CPU; division ", project.stderr)
    assert project.most_at_once() <= 4
    assert project.calls() == project.files(), "each file is compiled once"
    assert stand_ins(project) == []
    assert project.doit() == "12 kernels: 12 fresh\n"
    for count in range(1, 41):
        division = divide(kernels(project), count)
        assert sorted(label for shard in division.shards for label in shard) == sorted(
            one.label for one in kernels(project)
        )
        assert max(division.seconds) <= max(division.even + 36, division.largest[1]), "a decode module more at most"


def kernels(project: Project) -> list[Kernel]:
    plan = json.loads((project.root / ".fitasks" / "plan.json").read_text())
    return [one for one in map(from_record, plan["kernels"]) if not one.twin]


def test_what_is_no_shard_is_refused(project: Project) -> None:
    assert project.doit("kernel:page", "--shard=3/2", status=2) == ""
    assert (
        project.stderr
        == "--shard 3/2: there is no part 3 of 2\n  remedy: the parts of 2 machines are called 1/2 to 2/2\n"
    )
    assert project.doit("--shard", "1/2", "check", status=2) == ""
    assert project.stderr.startswith("--shard divides kernels among machines, and 'check' is none\n  remedy: ")
    assert project.calls() == 0


def test_shards_of_named_kernels(project: Project) -> None:
    """All kernels are divided that were named, fresh here or not; and there may be fewer than machines."""
    parts = [project.doit("page", "cascade", "--shard", f"{n}/3") for n in (1, 2, 3)]
    assert [part.splitlines()[-1:] for part in parts] == [["1 kernel: 1 compiled"], ["1 kernel: 1 compiled"], []]
    assert project.doit("page", "cascade", "--shard", "2/3") == "1 kernel: 1 fresh\n"
