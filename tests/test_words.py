"""Names of kernels behind a task, before one, and alone: the same for every task, and nothing that asks compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doit.cmd_base import ModuleTaskLoader
from doit.cmdparse import CmdParseError
from doit.task import Task

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.wording import labelled
from fitasks.delivery.bundle.filename import file_among
from fitasks.graph.command import Run
from fitasks.graph.options import INTO, LIMIT, NAMES, NOTHING
from fitasks.graph.tasks import command
from fitasks.graph.words import resolved
from fitasks.plan.names import UnknownName, named
from tests.doit_project import ROOT, Planned, Project

LABELS = ["page", "prefill-fa2-bf16-d128", "prefill-fa3-bf16-d128", "quantization"]
JSON = {"name": "json", "long": "json", "short": "j", "type": str, "default": ""}
FORCE = {"name": "force", "long": "force", "type": bool, "default": False}
TASKS = {"kernel", "kernel:page", "kernel:cascade", "kernel:quantization"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("page", [0]),
        ("kernel:page", [0]),
        ("prefill*", [1, 2]),
        ("kernel:prefill-fa?-*", [1, 2]),
        ("*", [0, 1, 2, 3]),
        ("kernel", [0, 1, 2, 3]),
    ],
)
def test_with_and_without_prefix_and_wildcards(name: str, found: list[int]) -> None:
    assert named(name, LABELS) == [LABELS[index] for index in found]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pgae", "kernel:page"),
        ("kernel:pgae", "kernel:page"),
        ("perfill*", "kernel:prefill*"),
        ("kernel:perfill*", "kernel:prefill*"),
        ("prefill", "kernel:prefill*"),
        ("Page", "kernel:page"),
        ("kernel:prefil-fa2*", "kernel:prefill-fa2*"),
    ],
)
def test_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UnknownName) as error:
        named(name, LABELS)
    assert error.value.message == f"no kernel matches '{name}' (did you mean {meant}?)"


def test_a_modules_name_is_not_shown_where_its_label_says_it() -> None:
    name, label = f"batch_prefill_dtype_q_bf16_{'x' * 99}_sm90", "prefill-fa3"
    assert labelled(f"{name}.so is missing", name, label) == "prefill-fa3.so is missing"
    assert labelled(f"{name}_kernel.cuda.o changed", name, label) == "prefill-fa3_kernel.cuda.o changed"
    for path in (f"/cache/{name}/{name}.so", f"a_{name}"):
        assert labelled(f"{path} is missing", name, label) == f"{path} is missing"
    assert labelled("page.so is missing", "page", "page@90a") == "page.so is missing"


def test_what_is_like_nothing() -> None:
    with pytest.raises(UnknownName) as error:
        named("zzz*", LABELS)
    assert error.value.message == "no kernel matches 'zzz*'"


def tasks() -> dict[str, Any]:
    def task(name: str, **more: Any) -> Task:
        return Task(name, None, **more)

    def needs(words: list[str]) -> list[str]:
        return [f"kernel:{word}" for word in words if not word.startswith("-")]

    all_ = [
        task("check", params=[JSON], pos_arg=NAMES),
        task("wheel", params=[JSON], pos_arg=NAMES, meta={"needs": needs}, task_dep=["kernel"]),
        task("deliver", params=[INTO], pos_arg=NAMES),
        task("verify", params=[FORCE], pos_arg=NAMES),
        task("env", pos_arg=NOTHING),
        task("gc", params=[{"name": "limit", "long": "limit", "type": int, "default": 20}], pos_arg=NOTHING),
        task("ops", pos_arg="words"),
        task("kernel", task_dep=[f"kernel:{label}" for label in LABELS]),
        *(task(f"kernel:{label}", targets=[f"/cache/{label}.so"]) for label in LABELS),
    ]
    return {one.name: one for one in all_}


@pytest.mark.parametrize(
    ("words", "said", "given"),
    [
        ("check page", "check", {"check": "page"}),
        ("check kernel:page kernel:prefill*", "check", {"check": "kernel:page kernel:prefill*"}),
        ("check kernel", "check", {"check": "kernel"}),
        ("check --json f page", "check --json f", {"check": "page"}),
        ("check page --json f", "check", {"check": "page --json f"}),
        ("check page --json env env", "check env", {"check": "page --json env", "env": ""}),
        ("check page -j env", "check", {"check": "page -j env"}),
        ("verify page --force why", "verify", {"verify": "page --force why"}),
        ("page check", "kernel:page check", {"check": ""}),
        ("prefill* check page env", "kernel:prefill-fa2-bf16-d128 kernel:prefill-fa3-bf16-d128 check env", {"check": "page", "env": ""}),
        ("env kernel:page", "env", {"env": "kernel:page"}),
        ("gc --limit 2 page", "gc --limit 2", {"gc": "page"}),
        ("ops check page", "ops", {"ops": "check page"}),
        ("/cache/page.so", "/cache/page.so", {}),
        ("kernel:page kernel", "kernel:page kernel", {}),
    ],
)  # fmt: skip
def test_whose_a_word_is(words: str, said: str, given: dict[str, str]) -> None:
    known = tasks()
    assert resolved(words.split(), known) == said.split()
    assert {name: " ".join(task.pos_arg_val) for name, task in known.items() if task.pos_arg_val is not None} == given


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("check --json {0}", "doit check --json {0}: that is a directory\n  remedy: doit check --json {0}/check.json"),
        ("check page --json={0}", "doit check --json {0}: that is a directory"),
        ("check --json {0}/file/x.json", "doit check --json {0}/file/x.json: {0}/file is no directory"),
        ("check page --js {0}", "doit check --json {0}: that is a directory"),
        ("deliver page --into {0}/file", "doit deliver --into {0}/file: {0}/file is no directory"),
        ("deliver page --into {0}/file/new/er", "doit deliver --into {0}/file/new/er: {0}/file is no directory"),
        ("check --json {0}/link/new.json", "doit check --json {0}/link/new.json: {0}/link is no directory"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, words: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(EnvironmentProblem) as error:
        resolved(words.format(tmp_path).split(), tasks())
    assert str(error.value).startswith(says.format(tmp_path))


def test_a_directory_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)  # root may write anywhere
    with pytest.raises(EnvironmentProblem, match=f"nothing can be written in {tmp_path}"):
        resolved(["check", "--json", f"{tmp_path}/new/check.json"], tasks())


@pytest.mark.parametrize("place", ["new/er.json", "check.json", "/dev/stdout", "n" * 300])
def test_what_can_be_written_is_left_to_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check.json").touch()
    assert resolved(["check", "--json", place, "page"], tasks()) == ["check", "--json", place]


def test_nothing_is_compiled_for_a_report_that_cannot_be_written(project: Project) -> None:
    _, err = (process := project.start("wheel", "--json", str(project.root))).communicate(timeout=120)
    assert process.returncode == 2, err
    assert f"{project.root}: that is a directory" in err
    assert project.calls() == 0


def called(words: list[str]) -> Any:
    """`doit gc` with these words behind it."""

    def gc(limit: int) -> None:
        """shrink the store"""
        print(limit)  # noqa: T201

    return command(gc, LIMIT)["actions"][0](limit=20, nothing=words)


def test_a_task_tells_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["--help"]) is None
    assert capsys.readouterr().out.splitlines() == [
        "doit gc [--limit LIMIT]",
        "  shrink the store",
        "  --limit LIMIT  gigabytes to keep",
    ]


def test_an_options_value_is_of_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(["--limit", "3"]) is None
    assert capsys.readouterr().out == "3\n"
    assert "gc: --limit takes a whole number, not 'x'" in called(["--limit", "x"]).get_msg()
    assert "remedy: doit gc --help" in called(["--lmt", "3"]).get_msg()


def test_a_wrong_option_of_doit_run_is_one_line() -> None:
    with pytest.raises(CmdParseError) as error:
        Run(task_loader=ModuleTaskLoader({})).parse_execute(["--jbos", "3"])
    assert str(error.value) == "Error parsing Command: option --jbos not recognized; see `doit help run`"


def test_a_package_of_some_waits_for_these_alone() -> None:
    known = tasks()
    resolved(["wheel", "page"], known)
    assert known["wheel"].task_dep == ["kernel:page"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("perfill*", "no kernel matches 'perfill*' (did you mean kernel:prefill*?)"),
        ("kernel:pgae", "no kernel matches 'kernel:pgae' (did you mean kernel:page?)"),
        ("pgae", "no task and no kernel is called 'pgae' (did you mean kernel:page?)"),
        ("chekc", "no task and no kernel is called 'chekc' (did you mean check?)"),
    ],
)
def test_a_word_that_is_nothing(word: str, told: str) -> None:
    with pytest.raises(UnknownName) as error:
        resolved([word], tasks())
    assert error.value.message == told


@pytest.mark.parametrize(
    ("file", "words", "path", "names"),
    [
        ("", "kernels.tar.gz", "kernels.tar.gz", ""),
        ("", "page kernels.tgz prefill*", "kernels.tgz", "page prefill*"),
        ("", "./kernels kernel:page", "kernels", "kernel:page"),
        ("kernels", "page", "kernels", "page"),
        ("", "kernels.zip", "kernels.zip", ""),  # refused later, with the reason
        ("", "-", "-", ""),
    ],
)
def test_the_file_among_the_names(file: str, words: str, path: str, names: str) -> None:
    assert file_among(file, words.split()) == (Path(path), names.split())


@pytest.mark.parametrize(
    ("file", "words", "given"),
    [("", "page", "none"), ("", "", "none"), ("x", "a.tgz", "x and a.tgz"), ("", "a.tgz ./b", "a.tgz and ./b")],
)
def test_one_file(file: str, words: str, given: str) -> None:
    with pytest.raises(EnvironmentProblem) as error:
        file_among(file, words.split())
    assert error.value.message == f"doit bundle takes one file, and was given {given}"
    assert error.value.remedy.startswith("doit bundle kernels.tar.gz")


@pytest.fixture(scope="module")
def project(planned: Planned) -> Project:
    made = planned.project()
    made.doit("kernel:cascade")
    made.calls()
    return made


def make(project: Project, *words: str, status: int = 0) -> str:
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *words, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=project.root, env=project.env, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if status else 0), done.stdout + done.stderr  # make's own status
    return done.stdout + done.stderr


ASKING = ["check", "why", "bundle", "env", "gc"]


@pytest.mark.parametrize("task", ASKING)
def test_what_asks_never_compiles(project: Project, task: str) -> None:
    """page is not built: a word of it must not build it."""
    words = ["a.tgz"] if task == "bundle" else []
    out, _ = (process := project.start(task, *words, "kernel:page")).communicate(timeout=120)
    assert project.calls() == 0
    assert not project.library("page").exists()
    assert process.returncode == {"check": 1, "why": 0}.get(task, 2), out


def test_each_takes_the_same_names(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    project.doit("check", "cas*", "--json", str(file))
    assert [kernel["label"] for kernel in json.loads(file.read_text())["kernels"]] == ["cascade"]
    assert [line.split()[0] for line in project.doit("check", "page", "kernel:q*", status=1).splitlines()[1:3]] == [
        "page",
        "quantization",
    ]
    assert "cascade: fresh" in project.doit("why", "cas*")
    assert ": 1 kernel, " in project.doit("bundle", str(tmp_path / "some.tar.gz"), "cascade")
    assert ">cascade<" in Path(project.doit("report", "cascade").splitlines()[0]).read_text()
    assert ">cascade<" not in Path(project.doit("report", "page").splitlines()[0]).read_text()


def test_a_package_of_one_builds_that_one(project: Project) -> None:
    out = project.doit("wheel", "cas*")
    assert project.calls() == 0
    assert "1 of 3 planned kernels: installed, it takes the place of a package that has the others" in out


@pytest.mark.parametrize("task", ["check", "report", "wheel", "install"])
def test_an_unknown_name_is_status_2(project: Project, task: str) -> None:
    assert "no kernel matches 'casc-*' (did you mean kernel:cascade?)" in project.doit(task, "casc-*", status=2)
    assert project.calls() == 0


def test_words_that_are_no_task_build_kernels_or_are_mistakes(project: Project) -> None:
    assert project.doit("cascade").endswith("1 kernel: 1 fresh\n")
    assert project.doit("cas*").endswith("1 kernel: 1 fresh\n")
    for word, meant in {"cascad-*": "kernel:cascade", "pgae": "kernel:page", "kernel:pgae": "kernel:page"}.items():
        assert project.doit(word, status=2) == ""
        assert f"'{word}' (did you mean {meant}?)" in project.stderr
    assert project.doit("list", "cas*").split()[0] == "kernel:cascade"
    project.doit("list", "x*", status=2)
    assert project.calls() == 0


def test_make_passes_names_as_they_are(project: Project) -> None:
    (project.root / "page_of_mine").touch()  # a shell that matched files would name this one
    assert "0 of 1 kernel found" in make(project, "check", "K=kernel:page", status=1)
    assert "0 of 2 kernels found" in make(project, "check", "K=pag* quantization", status=1)
    assert "1 of 1 kernel found" in make(project, "check", "K='cas*'")
    assert make(project, "kernels", "K='cas*' \"cascade\"").endswith("1 kernel: 1 fresh\n")
    assert "did you mean kernel:page?" in make(project, "kernels", "K=pagee*", status=2)
    make(project, "check", "K=cascade;touch$$IFS./ran `touch ran` && touch ran", status=2)
    assert not (project.root / "ran").exists()
    assert project.calls() == 0
