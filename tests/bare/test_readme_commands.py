"""Commands are found in Markdown, run by a real shell, and compared; and README has no command without a decision."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.bare.readme_commands import Command, Ran, commands, first_difference, ran, script, sessions

ROOT = Path(__file__).parents[2]
PAGE = r"""
# A page

```console
# apt-get install git \
    make
$ doit list
build: …
  page  fresh
$ doit
```

<!-- not run: needs a GPU -->

```console
$ doit verify
```

<!-- run, status 2 -->
```console
$ make check
```

```yaml
$ no: command
```

Say `doit why`<!-- run --> or `doit env`, or `docker build .`<!-- not run: needs a registry -->.
"""


def test_commands_of_a_page() -> None:
    assert list(commands(PAGE, "README.md")) == [
        Command("README.md", 5, "apt-get install git \\\n    make", root=True),
        Command("README.md", 7, "doit list", ("build: …", "  page  fresh")),
        Command("README.md", 10, "doit"),
        Command("README.md", 16, "doit verify", reason="needs a GPU"),
        Command("README.md", 21, "make check", status=2),
        Command("README.md", 28, "doit why"),
        Command("README.md", 28, "docker build .", reason="needs a registry"),
    ]


def test_elsewhere_only_what_is_marked_is_run() -> None:
    found = [one.text for one in commands(PAGE, "docs/page.md") if not one.reason]
    assert found == ["make check", "doit why"]


@pytest.mark.parametrize(
    ("shown", "said", "line"),
    [
        (["7 kernels: 6 fresh, 1 compiled"], ["12 kernels: 11 fresh, 1 compiled"], ""),
        (["page   cached   473 kB"], ["page cached 2.1 MB"], ""),
        (["compiled in 85.3 s"], ["compiled in 1 s", "and more"], ""),
        (["a", "c"], ["a", "b", "c"], "c"),
        (["a", "…", "c"], ["a", "b", "b", "c"], ""),
        (["…", "c"], ["a", "b"], "c"),
        (["with FlashInfer 0.7.4 of … …"], ["with FlashInfer 0.8 of /x/python …"], ""),
        (["a", "b"], ["a", "still compiling: page 0/2 (30 s)", "b"], ""),
        (["a", "b"], ["a", "fitasks: looking at 7 kernels as the server will …", "b"], ""),
        (["a", "b"], ["a", "fitasks: looking at 7 kernels as the server will", "b"], "b"),
        (["fitasks: b …", "c"], ["fitasks: a …", "fitasks: b …", "c"], ""),
        (["fitasks: b …", "c"], ["fitasks: a …", "c"], "fitasks: b …"),
        (["a", "b"], ["a", "fitasks: still waiting (30 s) for /x/python to say how …", "b"], ""),
        (["a", "b"], ["a", "fitasks: still planning 7 kernels with FlashInfer 0.7.4 of /x/python (30 s)", "b"], ""),
        (["said"], [], "said"),
        ([], ["anything"], ""),
    ],
)
def test_what_is_shown_is_what_is_said(shown: list[str], said: list[str], line: str) -> None:
    assert first_difference(shown, said) == line


def run(*group: Command) -> list[Ran]:
    text = script(group).replace("~/fitasks", "/nowhere")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    return ran(group, done.stdout)


def test_a_shell_runs_them_in_turn_until_one_fails() -> None:
    lines = ("cd /tmp; x=1", "echo $x in $PWD; printf unended", "(exit 3)", "echo never")
    done = run(*(Command("p", n, text) for n, text in enumerate(lines)))
    assert [one.said for one in done] == [(), ("1 in /tmp", "unended"), ()]
    assert [one.problem for one in done] == ["", "", "exit status 3"]


def test_one_that_ends_the_shell_is_the_one_that_failed() -> None:
    done = run(Command("p", 1, "true"), Command("p", 2, "exit 0"), Command("p", 3, "true"))
    assert [(one.command.line, one.problem) for one in done] == [(1, ""), (2, "exit status -1")]


def test_an_exit_status_that_is_shown_is_right_and_no_other() -> None:
    assert [one.problem for one in run(Command("p", 1, "(exit 2)", status=2))] == [""]
    assert [one.problem for one in run(Command("p", 1, "echo a", ("b",)), Command("p", 2, "true", status=2))] == [
        "doesn't say: b",
        "exit status 0",
    ]


def test_commands_of_one_kind_share_a_shell() -> None:
    texts = ["make kernels", "doit list", 'eval "$(doit env)"', "fitasks list", "git status"]
    found = sessions([Command("p", 1, "apt-get update", root=True), *(Command("p", 2, text) for text in texts)])
    assert [len(group) for group in found] == [1, 1, 3, 1]


def test_every_comment_of_a_page_is_one_that_is_understood() -> None:
    """A misspelt one would be a command that is silently not run."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for comment in re.findall(r"<!--.*?-->", page.read_text(), re.DOTALL):
            assert re.fullmatch(r"<!-- (run(, status \d+)?|not run: [^\n]+) -->", comment), f"{page.name}: {comment}"


def test_a_page_has_shells_of_its_own_and_what_goes_elsewhere_for_doit_is_in_doits() -> None:
    there = Command("one", 1, "mkdir d && cd d && fitasks init")
    found = sessions([there, Command("one", 2, "doit list"), Command("other", 1, "doit list")])
    assert [len(group) for group in found] == [2, 1]
