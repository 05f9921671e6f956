"""What is wrong with the file itself, and that nothing ends in a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import ConfigError
from fitasks.config.load import load_config

SHIPPED = (Path(__file__).parents[2] / "kernels.yaml").read_bytes()
PIECES = [b"\t", b"\n", b"  ", b": ", b"- ", b"? ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"<<: ", b"|\n", b"'", b'"']  # fmt: skip
PIECES += [
    b"!!int ",
    b"!!set ",
    b"!x ",
    b"~",
    b"on",
    b".nan",
    b"1:1",
    b"=",
    b"0x",
    b"#",
    b"---\n",
    b"%YAML 1.9\n",
]
PIECES += [b'"\\ud800"', b'"\\UFFFFFFFF"', b"\x00", b"\xff", b"\xef\xbb\xbf"]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_missing() -> None:
    """What init writes is in tests/test_init.py."""
    assert complaint(Path("my kernels.yaml")) == "my kernels.yaml: no such file; make one with: python -m fitasks init"


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert complaint(Path("d")) == "d: a directory; name the file in it"
    assert complaint(tmp_path / "d") == "d: a directory; name the file in it"


def test_below_a_file() -> None:
    Path("f").write_bytes(b"")
    assert complaint(Path("f/kernels.yaml")) == "f/kernels.yaml: cannot be read: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission() -> None:
    Path("k.yaml").touch(mode=0)
    assert complaint(Path("k.yaml")) == "k.yaml: no permission to read it; try: chmod u+r k.yaml"


def test_no_permission_as_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    assert complaint(Path("k.yaml")) == "k.yaml: no permission to read it; try: chmod u+r k.yaml"


def test_endless() -> None:
    assert complaint(Path("/dev/zero")) == "/dev/zero is a device; name a regular file"


def test_names_that_cannot_be_printed() -> None:
    assert complaint(Path("a\0b")) == "a\\x00b: cannot be read: embedded null byte"
    assert complaint(Path("a\udcffb")).startswith("a\\udcffb: no such file; ")


def neither_more_nor_less(data: bytes) -> None:
    """No other exception than an error whose lines all have the file's name and can be printed."""
    Path("kernels.yaml").write_bytes(data)
    lines = ["kernels.yaml:"]
    try:
        load_config(Path("kernels.yaml"))
    except ConfigError as error:
        lines = str(error).split("\n")
    assert [line for line in lines if not line.startswith("kernels.yaml:") or not line.isprintable()] == []


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf\xbf")
@example(b"kernels: {page: {'a\\ufeff': 1}}")
def test_any_bytes(data: bytes) -> None:
    neither_more_nor_less(data)


@FUZZ
@given(st.lists(st.sampled_from([*PIECES, b"kernels", b"page", b"x", b"1"]), max_size=25).map(b"".join))
def test_any_yaml(data: bytes) -> None:
    neither_more_nor_less(data)


@FUZZ
@given(
    st.lists(
        st.tuples(st.integers(0, len(SHIPPED)), st.integers(0, 15), st.sampled_from([b"", *PIECES])),
        max_size=4,
    )
)
def test_the_shipped_file_with_edits(edits: list[tuple[int, int, bytes]]) -> None:
    data = SHIPPED
    for at, length, piece in edits:
        data = data[:at] + piece + data[at + length :]
    neither_more_nor_less(data)
