"""kernels.yaml with entries added: whole texts."""

from pathlib import Path

import pytest

from fitasks.config.load import load_config
from fitasks.trace.document import added, difference
from fitasks.trace.merge import Matrix

ROOT = Path(__file__).parents[2]
PREFILL = Matrix("prefill-2", "batch_prefill", {"dtype_q": ("bfloat16",), "head_dim": (64, 128)})
PAGE = Matrix("page", "page", {})
LONG = Matrix("x", "batch_prefill", {f"parameter_{n}": ("a_long_value",) for n in range(4)})
ADDED = "  prefill-2: {op: batch_prefill, dtype_q: bfloat16, head_dim: [64, 128]}\n  page:\n"


def test_the_shipped_file_keeps_every_character() -> None:
    text = (ROOT / "kernels.yaml").read_text()
    assert added(text, [PREFILL]) == text + ADDED.removesuffix("  page:\n")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "kernels:\n" + ADDED),
        ("kernels:\n", "kernels:\n" + ADDED),
        ("# mine\n\n# more\n", "# mine\n\n# more\nkernels:\n" + ADDED),
        ("# mine\nkernels:  # none\n  # rope:\n", "# mine\nkernels:  # none\n  # rope:\n" + ADDED),
        ("kernels:\n  rope:   # r\njobs: 3  # j\n", "kernels:\n  rope:   # r\n" + ADDED + "jobs: 3  # j\n"),
        ("targets:\n- '9.0a'\nkernels:\n  rope:\n", "targets:\n- '9.0a'\nkernels:\n  rope:\n" + ADDED),
        ("targets:\n  - '9.0a'\nkernels:\n  rope:\n", "targets:\n  - '9.0a'\nkernels:\n  rope:\n" + ADDED),
        ("kernels:\n    rope:\n", "kernels:\n    rope:\n" + ADDED.replace("  p", "    p")),
        ("kernels:\r\n  rope:\r\n", "kernels:\r\n  rope:\r\n" + ADDED.replace("\n", "\r\n")),
    ],
)
def test_comments_order_and_style_stay(text: str, want: str) -> None:
    assert added(text, [PREFILL, PAGE]) == want


def test_a_long_entry_gets_a_line_for_each_parameter() -> None:
    lines = [f"    parameter_{n}: a_long_value\n" for n in range(4)]
    assert added("kernels:\n", [LONG]) == "kernels:\n  x:\n    op: batch_prefill\n" + "".join(lines)


def test_none_is_written_as_null(tmp_path: Path) -> None:
    file = tmp_path / "kernels.yaml"
    file.write_text(added("", [Matrix("x", "x", {"a": (None,), "b": (None, "bfloat16")})]))
    assert file.read_text() == "kernels:\n  x: {a: null, b: [null, bfloat16]}\n"
    assert [kernel.params for kernel in load_config(file).kernels] == [
        {"a": None, "b": None},
        {"a": None, "b": "bfloat16"},
    ]


WORDS = [
    "on",
    "No",
    "12:30",
    "0777",
    "1_000",
    "1e-05",
    "1.",
    ".inf",
    "2001-01-01",
    "~",
    "null",
    "=",
    "<<",
    "plain",
    "",
    " x",
    "a: b",
]
NUMBERS = [1e-05, 1e22, -1.5e-07, 0.1, 1.0, 10**12, True, None]


@pytest.mark.parametrize("value", [*WORDS, *NUMBERS], ids=repr)
def test_what_is_written_is_read_as_the_same(value: str | float | bool | None, tmp_path: Path) -> None:
    file = tmp_path / "kernels.yaml"
    file.write_text(added("", [Matrix("x", "x", {"a": (value,), "b": (1, value)})]))
    found = [kernel.params for kernel in load_config(file).kernels]
    assert repr(found) == repr([{"a": value, "b": 1}, {"a": value, "b": value}])


def test_nothing_to_add_changes_nothing() -> None:
    assert added("kernels: {a:   {}}", []) == "kernels: {a:   {}}"
    assert difference("a\n", "a\n", "kernels.yaml") == ""
    want = "--- kernels.yaml\n+++ kernels.yaml (with the trace)\n@@ -1 +1,2 @@\n a\n+b"
    assert difference("a\n", "a\nb\n", "kernels.yaml") == want
