"""Whatever serving.python answers: what was asked for, or our error; also where it is no Python at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitasks.base import answers
from fitasks.base.errors import BadInput, EnvironmentProblem
from fitasks.config.model import Config, KernelConfig, Position, Serving
from fitasks.cuda import cudart, loader
from fitasks.cuda.probe import ProbeMemo
from fitasks.plan import planner
from fitasks.plan.expand import kernels_of
from fitasks.plan.offers import offers
from fitasks.plan.reads import Reads
from fitasks.plan.server import Server, find_server
from fitasks.plan.target import targets_in
from fitasks.processes import interpreter as interpreters
from fitasks.processes import process
from fitasks.verify.worker import Worker, WorkerError
from tests.mutants import JSON

READS = {"files": ["/x/a.py"], "looked": [[["/x"], ["a", "b"]]]}
KERNEL = {
    "id": 0,
    "name": "page",
    "params": {},
    "generator": "flashinfer.jit.page:gen_page_module",
    "build_dir": "/c/0.7.4/90a/cached_ops/page",
    "library": "/c/0.7.4/90a/cached_ops/page/page.so",
    "ninja_file": "/c/0.7.4/90a/cached_ops/page/build.ninja",
    "ninja": "rule cuda\n  command = nvcc -gencode=arch=compute_90a,code=sm_90a\n",
    "lock": "/c/0.7.4/90a/cached_ops/tmp/page.lock",
    "sources": ["/x/page.cu"],
    "aot": [{"path": "/x/page.so", "architectures": ["sm90a"]}],
}
REFUSED = {"id": 1, "error": {"kind": "parameter", "parameter": "x", "message": "no"}, "errors": []}
SAMPLES: dict[str, Any] = {
    "Plans": {
        "version": 1,
        "flashinfer": "0.7.4",
        "flashinfer_root": "/x",
        "torch": "2.13.0",
        "tvm_ffi": "0.1.16",
        "workspace": "/c/0.7.4/90a",
        "arch": "90a",
        "passes_over": True,
        "cuda_home": "/cuda",
        "kernels": [KERNEL, REFUSED],
        "reads": READS,
    },
    "Described": {
        "prefix": "/usr",
        "path": ["/x"],
        "site": ["/x"],
        "reads": READS,
        "packages": {"torch": {"root": "/x/torch", "version": "2.13.0"}},
    },
    "Operations": {
        "ops": [
            {
                "op": "page",
                "generator": "g:f",
                "doc": "",
                "note": "",
                "kind": "cute",
                "parameters": [{"name": "x", "required": True, "default": None, "type": "int", "accepted": [1, "a"]}],
            }
        ],
        "reads": READS,
    },
    "Cudarts": {"loaded": "/x/libcudart.so.13", "how": "torch", "runtime_versions": {"/x": 13000, "/y": "no"}},
    "Loaded": {
        "problem": "",
        "process": "torch",
        "tvm_ffi": "0.1.16",
        "files": [],
        "offers": {"": ["malloc"]},
        "libraries": {"libc.so.6": {"path": "/x/libc.so.6", "problem": ""}},
    },
    "Trial": {"steps": [{"name": "compile", "seconds": 1, "value": "ok"}], "failed": "", "output": ""},
    "Ready": {"gpu": "H100", "torch": "2.13.0", "flashinfer": "0.7.4"},
    "Proven": {
        "outcome": "numerical",
        "message": "",
        "checks": [{"what": "x", "error": float("inf"), "tolerance": 0.1, "milliseconds": None}],
    },
}


@st.composite
def mutants(draw: st.DrawFn, sample: Any) -> Any:
    """The sample with one thing in it replaced, left out or added."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(sample, dict | list) or not sample:
        return draw(JSON)
    copy = json.loads(json.dumps(sample))
    key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    if draw(st.integers(0, 9)) == 0:
        del copy[key]
    else:
        copy[key] = draw(mutants(copy[key]))
    return copy


once = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("shape", SAMPLES)
def test_what_the_scripts_answer_has_the_shape(shape: str) -> None:
    assert answers.checked(SAMPLES[shape], getattr(answers, shape)) == SAMPLES[shape]


@pytest.mark.parametrize(
    ("shape", "change", "told"),
    [
        ("Described", {"path": ["/x", 3]}, "path.1 is 3"),
        ("Described", {"packages": {"torch": {"root": "/x"}}}, "packages.torch.version is missing"),
        ("Described", {"reads": {"files": [], "looked": [[["/x"]]]}}, "reads.looked.0 is [['/x']]"),
        ("Loaded", {"libraries": {"libc.so.6": {"path": "/x", "problem": "", "more": 1}}}, "libraries.libc.so.6 is {"),
        ("Plans", {"kernels": [KERNEL | {"id": 2**62}]}, "kernels.0 is {"),
        ("Ready", None, "the answer is None"),
    ],
)
def test_an_error_names_the_place(shape: str, change: dict[str, Any] | None, told: str) -> None:
    reply = change if change is None else SAMPLES[shape] | change
    with pytest.raises(BadInput) as caught:
        answers.checked(reply, getattr(answers, shape))
    assert f"answered what no script of ours does: {told}" in caught.value.message


@pytest.mark.parametrize("shape", SAMPLES)
def test_a_script_may_say_more_than_is_read(shape: str) -> None:
    answers.checked(SAMPLES[shape] | {"more": [1]}, getattr(answers, shape))


SERVER = Server(Path("/opt/python"), "none", Path("/opt"), (), {"PATH": "/usr/bin"}, ())
CONFIG = Config(
    "kernels.yaml",
    Serving(),
    ("9.0a",),
    True,
    "ignore",
    tuple(KernelConfig(name, "page", name, {}, Position("kernels.yaml", 1, 1), {}) for name in ("a", "b")),
)


def answering(monkeypatch: pytest.MonkeyPatch, reply: Any) -> None:
    def run(command: list[str], **_: object) -> process.Finished:
        Path(command[-1]).write_text(json.dumps(reply))
        return process.Finished(0, 1.0, 1.0, 1)

    monkeypatch.setattr(process, "run", run)


@pytest.mark.parametrize("ids", [[0, 0], [1, 0], [0, -1], [0, 7]])
def test_an_answer_about_other_kernels(ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = [KERNEL | {"id": number} for number in ids]
    answering(monkeypatch, SAMPLES["Plans"] | {"kernels": kernels})
    with pytest.raises(EnvironmentProblem, match="planned other kernels than it was asked for"):
        planner.ask(SERVER, Path("/cuda"), ["9.0a"], CONFIG.kernels, sm90=True)


@once
@given(data=st.data())
def test_any_answer_to_planning(data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, data.draw(mutants(SAMPLES["Plans"])))
    said = ""
    try:
        told = planner.ask(SERVER, Path("/cuda"), ["9.0a"], CONFIG.kernels, sm90=True)
        assert kernels_of(CONFIG, told)
        assert targets_in(told)
        assert Reads.of((answer["reads"] for answer in told.values()), 0, SERVER.python).as_record()
    except EnvironmentProblem as error:
        said = str(error)
    assert not said or said.startswith(f"{SERVER.python} ")


@pytest.mark.parametrize("shape", SAMPLES)
@once
@given(data=st.data())
def test_any_answer_of_any_script(data: st.DataObject, shape: str) -> None:
    said = ""
    try:
        answers.checked(data.draw(mutants(SAMPLES[shape])), getattr(answers, shape))
    except BadInput as error:
        said = str(error)
    assert said == "" or said.startswith("it answered what no script of ours does: ")
    assert said.isprintable()


WRONG = {
    "a list": "[]",
    "a number": "7",
    "a text": '"yes"',
    "nothing": "null",
    "an empty object": "{}",
    "a fatal text": '{"fatal": "no"}',
    "a fatal without message": '{"fatal": {}}',
    "wrong within": '{"prefix": "/", "path": [3], "site": [], "packages": {}, "reads": {}}',
    "deep": "[" * 200_000,
    "a zero byte": '{"prefix": "a\\u0000b", "path": [], "site": [], "packages": {}, "reads": {"files": [], "looked": []}}',
}


def interpreter(tmp_path: Path, text: str) -> Path:
    """What answers the same to everything: into the response's file, and on standard output, for who reads lines."""
    (tmp_path / "answer").write_text(text)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'for word; do case "$word" in */response.json) cp {tmp_path}/answer "$word";; esac; done\n'
        f"cat {tmp_path}/answer; echo\n"
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("case", WRONG)
def test_an_interpreter_that_answers_something_else(tmp_path: Path, case: str) -> None:
    python, env = interpreter(tmp_path, WRONG[case]), dict(os.environ)
    config = Config("kernels.yaml", Serving(python=str(python)), ("9.0a",), True, "ignore", ())
    with pytest.raises(EnvironmentProblem) as caught:
        find_server(config, ProbeMemo(tmp_path / "probe.json"))
    assert "remedy: name a Python interpreter" in str(caught.value)
    server = Server(python, "none", tmp_path, (), env, ())
    with pytest.raises(EnvironmentProblem):
        planner.ask(server, Path("/cuda"), ["9.0a"], CONFIG.kernels, sm90=True)
    with pytest.raises(EnvironmentProblem):
        offers(server, Path("/cuda"), "9.0a", tmp_path / "state")
    with pytest.raises(EnvironmentProblem, match="can't say which libcudart it loads"):
        cudart.discover(python, env, [], tmp_path / "libcudart.so", tmp_path / "cudart.json")
    asked = loader.Loader(python, env, tmp_path / "loader.json").answer(loader.Needs(("libc.so.6",)), lambda: ())
    assert asked.problem


@pytest.mark.parametrize("text", ['{"ready": 3}', '{"ready": {"gpu": 1}}', '{"fatal": []}', "[[[", "7"])
def test_a_worker_that_greets_strangely(tmp_path: Path, text: str) -> None:
    with pytest.raises(WorkerError):
        Worker(interpreter(tmp_path, text), dict(os.environ), tmp_path / "worker.log")


@pytest.mark.parametrize("reply", ["7", "[]", "{}", '{"outcome": 3, "message": "", "checks": []}', "[" * 5000])
def test_a_worker_that_answers_strangely(tmp_path: Path, reply: str) -> None:
    python = interpreter(tmp_path, json.dumps({"ready": SAMPLES["Ready"]}))
    python.write_text(python.read_text() + f"read line; echo '{reply}'; sleep 5\n")
    worker = Worker(python, dict(os.environ), tmp_path / "worker.log")
    with pytest.raises(WorkerError, match="it answered"):
        worker.ask({"id": 1}, 10)


def test_a_path_that_is_no_utf_8_is_an_answer(tmp_path: Path) -> None:
    reply = SAMPLES["Cudarts"] | {"loaded": os.fsdecode(b"/x/\xc3/libcudart.so.13")}
    python = interpreter(tmp_path, json.dumps(reply))
    assert interpreters.ask(python, tmp_path, answers.Cudarts, os.environ, "anything") == reply
