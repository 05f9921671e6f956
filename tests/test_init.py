"""`python -m fitasks`, and what `init` writes into a directory of one's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import yaml

from fitasks.base.errors import EnvironmentProblem
from fitasks.base.files import create
from fitasks.config.load import load_config
from fitasks.config.schema import SCHEMA_FILE
from fitasks.config.starter import model_name
from fitasks.graph import session, start
from fitasks.graph.actions import build
from fitasks.graph.main import MAKEFILE, main, versions

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of one's own, on a machine without a GPU and without an engine."""
    directory = tmp_path / "mine"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr("fitasks.cuda.gpus.all_gpus", lambda: ())
    monkeypatch.setattr(start, "_is_installed", lambda _name, _python: False)
    return directory


def model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return directory


def test_what_is_written_is_a_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--target", "9.0a", "--target", "8.0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["kernels.yaml: written (which kernels, for which GPUs)", "dodo.py: written (doit's tasks)"]
    config = load_config(here / "kernels.yaml")
    assert (config.targets, config.serving.engine) == (("9.0a", "8.0"), "none")
    assert [kernel.op for kernel in config.kernels] == ["batch_decode", "batch_prefill", "sampling", "page"]
    assert (here / "dodo.py").read_text() == (ROOT / "dodo.py").read_text()
    assert sorted(path.name for path in here.iterdir()) == [".fitasks", "dodo.py", "kernels.yaml"]


def test_the_schema_that_it_names_is_there(here: Path) -> None:
    assert main(["init", "--target", "9.0a"]) == 0
    first = (here / "kernels.yaml").read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (here / first.partition("=")[2]).read_text() == SCHEMA_FILE.read_text()


def test_models_and_the_engine_that_is_installed(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_is_installed", lambda name, _python: name == "vllm")
    below, elsewhere = model(here / "models" / "Llama 3.1"), model(tmp_path / "hub" / "qwen")
    words = ["--target", "9.0a", "--model", str(below), "--model", str(elsewhere / "config.json")]
    assert main(["init", *words]) == 0
    told = yaml.safe_load((here / "kernels.yaml").read_text())
    assert told["models"] == {
        "Llama-3-1": {"config": "models/Llama 3.1"},
        "qwen": {"config": str(elsewhere / "config.json")},
    }
    assert told["kernels"] == {}
    assert [request.engine for request in load_config(here / "kernels.yaml").models] == ["vllm", "vllm"]


def test_two_models_of_one_name_are_two(here: Path, tmp_path: Path) -> None:
    """And a letter that JSON would write as two halves stays one."""
    paths = [model(tmp_path / name / "llama") for name in ("a", "b", "\N{LLAMA}")]
    assert main(["init", "--target", "9.0a", "--engine", "vllm", *(f"--model={path}" for path in paths)]) == 0
    found = load_config(here / "kernels.yaml").models
    assert [(one.name, one.config) for one in found] == [
        (f"llama{number}", str(path)) for number, path in zip(("", "-2", "-3"), paths, strict=True)
    ]


@pytest.mark.parametrize("name", ["kernels.yaml", "dodo.py"])
def test_a_link_to_nowhere_is_no_file(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / name).symlink_to("gone")
    assert main(["init", "--target", "9.0a"]) == 2
    assert f"{name} is a link to gone, which isn't there" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [name]


def test_beside_a_dodo_py_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "dodo.py").write_text("def task_mine(): ...\n")
    assert main(["init", "--target", "9.0a"]) == 0
    said = capsys.readouterr().out
    assert "next: `fitasks list` shows" in said
    assert "add `from fitasks.dodo import *` to dodo.py" in said


def test_an_empty_word_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([""], ["run", "--shard", ""], ["check", ""]):
        assert main(words) == 2
        assert "an empty word among the arguments" in capsys.readouterr().err


def test_a_trace_is_imported_by_the_task_that_does_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "trace.jsonl").touch()
    asked: list[list[str]] = []

    def doit(words: list[str]) -> int:
        asked.append(words)
        return 1

    assert start.main(["--target", "9.0a", "--trace", "trace.jsonl"], doit) == 1
    again = "kernels.yaml names no kernels yet; then: fitasks import_trace trace.jsonl --write"
    assert again in capsys.readouterr().err
    assert asked == [["import_trace", "trace.jsonl", "--write"]]
    assert yaml.safe_load((here / "kernels.yaml").read_text())["kernels"] == {}


@pytest.mark.parametrize("name", ["kernels.yaml", "dodo.py"])
def test_nothing_is_overwritten(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / name).write_text("mine")
    assert main(["init", *(["--target", "9.0a"] if name == "dodo.py" else [])]) == 0
    assert (here / name).read_text() == "mine"
    assert f"{name}: there already, left as it is" in capsys.readouterr().out
    assert {path.name for path in here.iterdir()} >= {"kernels.yaml", "dodo.py"}, "the other is written"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no GPU is visible here, so targets must be named\n  remedy: --target 9.0a (9.0a: H100, H200;"),
        (["--target", "sm_90"], "fitasks init: 'sm_90' is no GPU architecture\n  remedy: --target 9.0a, or"),
        (["--target", "9.0a", "--target", "9.0"], 'targets: "9.0" means the same architectures as'),
        (["--target", "9.0a", "--model", "no/where"], "no/where: no such file"),
        (["--target", "9.0a", "--trace", "no/where"], "no/where: no such file"),
        (["--target", "9.0a", "--python", "no/where"], "no/where can't be run"),
        (["--target", "9.0a", "--model", "."], "which kernels a model needs depends on its engine"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(
    here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model(here / "own")
    (here / "config.json").write_text("{}")
    before = sorted(here.iterdir())
    assert main(["init", *words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


def test_an_answer_that_is_no_architecture(here: Path) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        start.begin(here, start._parser().parse_args(["--engine", "none"]), lambda _question: "H100")
    assert caught.value.message == "'H100' is no GPU architecture"
    assert [*here.iterdir()] == []


@pytest.mark.parametrize(
    "site", ["lib/python3.12/site-packages", "lib/python3.12/dist-packages", "local/lib/python3.12/dist-packages"]
)
def test_an_engine_is_found_beside_the_interpreter_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    """A virtual environment's, Debian's, and what pip puts beside Debian's."""
    monkeypatch.undo()
    python = tmp_path / "usr/bin/python3"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    assert not start._is_installed("vllm", str(python))
    (tmp_path / "usr" / site / "vllm-0.33.0.dist-info").mkdir(parents=True)
    assert start._is_installed("vllm", str(python))
    assert not start._is_installed("sglang", str(python))


def test_a_key_is_made_where_there_is_no_kernels_yaml(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "key.pem"]) == 0
    assert "trust: ['ed25519:" in capsys.readouterr().out
    assert main(["keygen", "key.pem"]) == 2
    assert capsys.readouterr().err.startswith(f"fitasks keygen: {here}/key.pem is there already")
    assert [path.name for path in here.iterdir()] == ["key.pem"]


def test_ctrl_c_while_all_is_still_being_imported_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "doit.py").write_text("raise KeyboardInterrupt\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "fitasks", "list"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_where_nothing_can_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / ".fitasks").write_text("a file")
    assert main(["init", "--target", "9.0a"]) == 2
    assert capsys.readouterr().err.startswith(f"fitasks init: {here}/.fitasks")
    assert [path.name for path in here.iterdir()] == [".fitasks"]


def test_ctrl_c_at_a_question_ends_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "begin", interrupted)
    assert main(["init"]) == 130
    assert [*here.iterdir()] == []


def test_flags_for_a_file_that_is_there_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "kernels.yaml").write_text("mine")
    assert main(["init", "--target", "9.0a"]) == 2
    assert "kernels.yaml is there already; nothing was written" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["kernels.yaml"]


def test_questions_are_for_a_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return "10.0a" if "GPU" in question else "vllm"

    monkeypatch.setattr(start, "_is_installed", lambda _name, _python: True)
    start.begin(here, start._parser().parse_args([]), ask)
    config = load_config(here / "kernels.yaml")
    assert (config.targets, config.serving.engine) == (("10.0a",), "vllm")
    assert len(questions) == 2


def test_of_two_that_begin_at_once_one_is_whole(here: Path) -> None:
    """Each would like another text; the file is the one's or the other's."""
    texts = [letter * 100_000 for letter in "abcdefgh"]

    def attempt(text: str) -> bool:
        try:
            create(here / "kernels.yaml", text)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = [*threads.map(attempt, texts)]
    assert won.count(True) == 1
    assert (here / "kernels.yaml").read_text() == texts[won.index(True)]
    assert [path.name for path in here.iterdir()] == ["kernels.yaml"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/models/Llama-3.1-8B/config.json", "Llama-3-1-8B"), ("/m/7b", "model-7b"), ("/", "model"), ("a/_x", "x")],
)
def test_what_a_model_is_called(path: str, name: str) -> None:
    assert model_name(path) == name


def test_help_and_version_need_no_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["--version"]) == main(["makefile"]) == 0
    said = capsys.readouterr().out
    assert "fitasks init " in said
    assert versions() in said
    assert said.splitlines()[-1] == str(MAKEFILE)
    assert versions().startswith("fitasks ")


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_targets_for_a_makefile_of_ones_own(here: Path) -> None:
    (here / "Makefile").write_text(f"include {MAKEFILE}\n")
    words = ["make", "--no-print-directory", "FITASKS=echo run", "kernels", "kernels-check", "K=page 'prefill*'"]
    made = subprocess.run(words, cwd=here, capture_output=True, text=True, check=True)
    assert made.stdout == "run page prefill*\nrun check page prefill*\n"


class TestWhoseKernels:
    """`doit -f …/dodo.py` changes to that file's directory before it loads it."""

    @pytest.fixture
    def project(self, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        checkout = tmp_path / "checkout"
        checkout.mkdir()

        def started(*words: str) -> Path:
            monkeypatch.setattr(session, "get_initial_workdir", lambda: str(here))
            monkeypatch.setattr(sys, "argv", ["doit", *words])
            monkeypatch.chdir(checkout)
            return session._project()

        return started

    def test_those_of_where_it_was_started(self, project: Callable[..., Path], here: Path) -> None:
        (here / "kernels.yaml").touch()
        assert project("-f", "../checkout/dodo.py") == Path.cwd() == here

    def test_the_others_are_named(self, project: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert project("-f", "../checkout/dodo.py").name == "checkout"
        assert "mine has no kernels.yaml; this is about" in capsys.readouterr().err

    def test_a_directory_that_was_asked_for_is_meant(self, project: Callable[..., Path], here: Path) -> None:
        (here / "kernels.yaml").touch()
        assert project("--dir", "../checkout").name == "checkout"


def test_a_project_without_kernels_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fitasks.graph.actions.build.current", lambda: SimpleNamespace(plan=Plan, runtime=None))
    monkeypatch.setattr("fitasks.server.cudart_policy.apply", lambda *_: ())
    build.apply_cudart_policy()
    assert "kernels.yaml names no kernels yet" in capsys.readouterr().out


class Plan:
    """One in which kernels.yaml has `kernels: {}`."""

    kernels = ()
