"""Any file at all: a Config, or a ConfigError that names a place; and no entry may have just anything called."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fitasks.base.errors import ConfigError
from fitasks.config.generators import may_be_called
from fitasks.config.load import load_config
from fitasks.config.model import Config
from tests.mutants import PLAIN, json_of

SHIPPED = (Path(__file__).parents[2] / "kernels.yaml").read_bytes()
WORDS = st.sampled_from(
    ["os:system", "flashinfer.jit.page:gen_page_module", "os:gen_x", "page", "fa2", "128", "9.0a", "auto", "true", "~",
     "*a", "&a", "!!python/object/apply:os.system [true]", "<<", "\x1b[2J", "0x10", "1e400", ".inf", "2026-01-01", "|", "-"]
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "kernels",
        "models",
        "serving",
        "targets",
        "generators",
        "jobs",
        "timeout",
        "op",
        "env",
        "python",
        "config",
        "a",
        "",
    ]
)
VALUES = json_of(WORDS | PLAIN, KEYS | WORDS)
few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loaded(data: bytes, directory: Path) -> Config | None:
    file = directory / "kernels.yaml"
    file.write_bytes(data)
    try:
        return load_config(file)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(file.name in line for line in problems)
    return None


def flow(value: object) -> str:
    """YAML that says the words as they are, not as the quoted text that they would be safe in."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(one)}" for key, one in value.items()) + "}"
    return "[" + ", ".join(map(flow, value)) + "]" if isinstance(value, list) else str(value)


@few
@given(st.integers(0, len(SHIPPED)), st.integers(0, 40), st.binary(max_size=12) | WORDS.map(str.encode))
def test_the_shipped_file_with_a_piece_replaced(tmp_path: Path, at: int, length: int, new: bytes) -> None:
    loaded(SHIPPED[:at] + new + SHIPPED[at + length :], tmp_path)


@few
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.dictionaries(st.sampled_from("ab"), st.tuples(WORDS, VALUES)))
@example({}, {"a": ("os:system", "x")})
@example({"generators": ["os"]}, {"a": ("os:system", "x"), "b": ("os:gen_x", "x")})
def test_what_is_called_is_a_generator(
    tmp_path: Path, rest: dict[str, object], entries: dict[str, tuple[str, object]]
) -> None:
    kernels = {name: {"op": op, "x": value} for name, (op, value) in entries.items()}
    config = loaded(flow(rest | {"kernels": kernels}).encode(errors="replace"), tmp_path)
    assert config is None or all(
        ":" not in kernel.op or may_be_called(kernel.op, config.generators) for kernel in config.kernels
    )


@pytest.mark.parametrize("op", ["os:system", "flashinfer:os", "flashinfer.jit:os.system", "subprocess:getoutput"])
def test_what_is_refused(tmp_path: Path, op: str) -> None:
    assert loaded(f"kernels: {{a: {{op: '{op}'}}}}".encode(), tmp_path) is None
