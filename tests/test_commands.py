"""What our dodo.py makes of doit's own `run` and `list`, and what it leaves alone."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.cmdparse import CmdOption, CmdParse

from fitasks.base.errors import EnvironmentProblem
from fitasks.graph import command
from fitasks.graph.command import Default, Run


def executed(config: dict[str, Any], ours: Any, **params: Any) -> Any:
    """What a command that is around doit's own gives, for a dodo.py with this DOIT_CONFIG."""

    def doits(_self: Any, **given: Any) -> tuple[str, dict[str, Any]]:
        return "doit's", given

    loader = SimpleNamespace(load_doit_config=lambda: config)
    one = SimpleNamespace(loader=loader, reporters={}, task_list=[], sel_tasks=None, threads=params.pop("threads", 0))
    return command._around(doits, ours)(one, **params)


def test_another_dodo_py_has_doits_own() -> None:
    """Also in an environment that has fitasks: nothing of ours is a plugin."""
    assert executed({"verbosity": 2}, pytest.fail, num_process=3) == ("doit's", {"num_process": 3})


def test_both_are_taken_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(self: Any) -> None: ...

    monkeypatch.setattr(DoitRun, "_execute", own)
    monkeypatch.setattr(DoitList, "_execute", own)
    command.take_over()
    run, listing = DoitRun._execute, DoitList._execute
    command.take_over()
    assert (DoitRun._execute, DoitList._execute) == (run, listing)
    assert own is run.__wrapped__ is listing.__wrapped__


@pytest.mark.parametrize(("given", "jobs", "threads"), [(Default(16), None, 16), (8, "8", 16), (32, "32", 32)])
def test_n_is_how_many_compilers_there_are(
    monkeypatch: pytest.MonkeyPatch, given: int, jobs: str | None, threads: int
) -> None:
    """As many as are asked for; doit's threads are more, since some wait for locks."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("fitasks.base.temporary.sweep", lambda *_: None)
    params = {"num_process": given, "par_type": "thread", "outfile": "f", "reporter": object()}
    _, told = executed({"problem": "", "num_process": Default(16)}, command._run, **params)
    assert told["num_process"] == threads
    assert os.environ.get("MAX_JOBS") == jobs


def test_what_others_compile_takes_threads_and_no_compilers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr("fitasks.base.temporary.sweep", lambda *_: None)
    params = {"num_process": 4, "par_type": "thread", "outfile": "f", "reporter": object()}
    _, told = executed({"problem": "", "num_process": Default(16)}, command._run, threads=128, **params)
    assert (told["num_process"], os.environ["MAX_JOBS"]) == (128, "4")
    _, told = executed({"problem": "", "num_process": 2}, command._run, threads=128, **params | {"num_process": 0})
    assert told["num_process"] == 128


def test_an_empty_value_is_not_no_value() -> None:
    """--shard "$PART" without PART would have each of twenty machines compile everything."""
    run = Run(task_loader=SimpleNamespace(cmd_options=()), config={})
    for words, asked in (([], {}), (["--shard", "", "page"], {"shard": ""}), (["page", "--workers="], {"workers": ""})):
        params, args = CmdParse([CmdOption(one) for one in Run.cmd_options]).parse(words)
        with pytest.raises(AttributeError):  # there are no tasks
            run.execute(params, args)
        assert run.asked == asked
    with pytest.raises(EnvironmentProblem, match="--shard : not a part of the whole"):
        command._divide(run, {}, shard="")


@pytest.mark.parametrize(
    ("more", "told"), [({"par_type": "process"}, "leave out -P process"), ({"num_process": -1}, "-n -1")]
)
def test_what_speaks_against_it(more: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"num_process": Default(16), "par_type": "thread"} | more
    assert executed({"problem": ""}, command._run, **params) == 2
    assert told in capsys.readouterr().err
