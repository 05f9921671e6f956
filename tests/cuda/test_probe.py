from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from fitasks.base.errors import EnvironmentProblem
from fitasks.cuda import probe as probe_module
from fitasks.cuda.probe import ProbeMemo, exec_chain
from tests.cuda.fake_toolkit import build_talker, calls, install_program, put

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_talker(tmp_path_factory.mktemp("talker"))


@pytest.fixture
def program(talker: Path, tmp_path: Path) -> Path:
    return install_program(talker, tmp_path / "bin" / "ninja", "1.13.2\n")


def script(path: Path, text: str) -> Path:
    put(path, text).chmod(0o755)
    return path


def test_an_answer_survives_the_process_and_costs_one_run(program: Path, tmp_path: Path) -> None:
    memo = ProbeMemo(tmp_path / "memo.json")
    assert memo.output(program, "--version") == "1.13.2\n"
    memo.save()
    again = ProbeMemo(tmp_path / "memo.json")
    assert again.output(program, "--version") == "1.13.2\n"
    assert calls(program) == 1
    assert again.output(program, "--help") == "1.13.2\n"
    assert calls(program) == 2


def test_a_replaced_executable_is_asked_again(program: Path, tmp_path: Path) -> None:
    memo = ProbeMemo(tmp_path / "memo.json")
    memo.output(program)
    put(program.with_name("ninja.says"), "1.14\n")
    assert memo.output(program) == "1.13.2\n"  # the executable itself is the same
    os.utime(program, ns=(0, 0))
    assert memo.output(program) == "1.14\n"


def test_a_wrapper_is_remembered_with_what_it_executes(program: Path, tmp_path: Path) -> None:
    outer = script(tmp_path / "outer", f'#!/bin/sh\n# the real one\nexec {program} "$@"\n')
    memo = ProbeMemo(tmp_path / "memo.json")
    assert [memo.output(outer), memo.output(outer)] == ["1.13.2\n", "1.13.2\n"]
    assert calls(program) == 1
    put(program.with_name("ninja.says"), "1.14\n")
    os.utime(program, ns=(0, 0))
    assert memo.output(outer) == "1.14\n"


@pytest.mark.parametrize(
    "text",
    [
        '#!/bin/sh\nexec {root}/${{WHICH:-bin}}/ninja "$@"\n',
        '#!/bin/sh\nif true; then exec {root}/bin/ninja "$@"; fi\n',
        '#!/bin/sh\nexport A=$B\nexec {root}/bin/ninja "$@"\n',
        '#!/bin/sh\n{root}/bin/ninja "$@"\n{root}/bin/ninja "$@"\n',
    ],
)
def test_a_script_that_decides_is_always_asked(text: str, program: Path, tmp_path: Path) -> None:
    outer = script(tmp_path / "outer", text.format(root=tmp_path))
    assert exec_chain(outer) is None
    memo = ProbeMemo(tmp_path / "memo.json")
    memo.output(outer)
    before = calls(program)
    memo.output(outer)
    assert calls(program) > before


def test_a_chain_follows_links_and_wrappers_to_the_binary(program: Path, tmp_path: Path) -> None:
    inner = script(tmp_path / "inner", f'#!/usr/bin/env bash\nset -e\nexport A=1\nexec "{program}" $@\n')
    outer = script(tmp_path / "outer", f'#!/bin/sh -e\nexec {inner} "$@"\n')
    (tmp_path / "link").symlink_to(outer)
    assert exec_chain(tmp_path / "link") == (outer, inner, program)
    assert exec_chain(tmp_path / "absent") is None


def test_a_wrapper_of_itself_ends(tmp_path: Path) -> None:
    loop = script(tmp_path / "loop", f'#!/bin/sh\nexec {tmp_path}/loop "$@"\n')
    assert exec_chain(loop) is None


def test_a_compiler_launcher_is_never_remembered(talker: Path, tmp_path: Path) -> None:
    install_program(talker, tmp_path / "ccache", "")
    (tmp_path / "c++").symlink_to("ccache")
    assert exec_chain(tmp_path / "c++") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"output": "x", "files": [[]]}}', "\xff"])
def test_a_corrupt_memo_is_an_empty_one(text: str, program: Path, tmp_path: Path) -> None:
    (tmp_path / "memo.json").write_bytes(text.encode("latin-1"))
    assert ProbeMemo(tmp_path / "memo.json").output(program) == "1.13.2\n"


def test_saving_writes_only_news_and_forgets_the_dead(program: Path, talker: Path, tmp_path: Path) -> None:
    path = tmp_path / "memo.json"
    memo = ProbeMemo(path)
    memo.save()
    assert not path.exists()
    memo.output(program)
    memo.save()
    stamp = path.stat().st_mtime_ns
    unchanged = ProbeMemo(path)
    unchanged.output(program)
    unchanged.save()
    assert path.stat().st_mtime_ns == stamp
    program.unlink()
    other = install_program(talker, tmp_path / "other", "hello\n")
    last = ProbeMemo(path)
    last.output(other)
    last.save()
    assert str(program) not in path.read_text()


def test_failures_are_told_and_not_remembered(program: Path, tmp_path: Path) -> None:
    memo = ProbeMemo(tmp_path / "memo.json")
    program.with_name("ninja.says").unlink()
    with pytest.raises(EnvironmentProblem) as caught:
        memo.output(program, "--version")
    assert str(caught.value) == f"{program} --version: exit status 3: no output"
    put(program.with_name("ninja.says"), "1.13.2\n")
    assert memo.output(program, "--version") == "1.13.2\n"
    with pytest.raises(EnvironmentProblem) as caught:
        memo.output(tmp_path / "absent")
    assert str(caught.value) == f"{tmp_path}/absent: No such file or directory"


def test_waiting_for_an_answer_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "TIMEOUT_S", 0.1)
    sleeper = script(tmp_path / "sleeper", "#!/bin/sh\nexec sleep 20\n")
    start = time.monotonic()
    with pytest.raises(EnvironmentProblem) as caught:
        ProbeMemo(tmp_path / "memo.json").output(sleeper)
    assert str(caught.value) == f"{sleeper}: no answer within 0.1 s"
    assert time.monotonic() - start < 5


def test_flags_from_the_environment_do_not_reach_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-O0")
    shower = script(tmp_path / "shower", '#!/bin/sh\necho "[$NVCC_APPEND_FLAGS] $LC_ALL"\n')
    assert ProbeMemo(tmp_path / "memo.json").output(shower) == "[] C\n"
