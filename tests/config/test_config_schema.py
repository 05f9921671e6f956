"""The JSON Schema is what the models say."""

from __future__ import annotations

import re

import pytest

from fitasks.config import schema


def test_the_file_is_current() -> None:
    assert schema.SCHEMA_FILE.read_text(encoding="utf-8") == schema.json_schema(), (
        "python -m fitasks.config.schema --write"
    )


def test_printed(capsys: pytest.CaptureFixture[str]) -> None:
    schema.main([])
    assert capsys.readouterr().out == schema.json_schema()


def test_targets_pattern() -> None:
    good = ["auto", "9.0a", "8.0 9.0a", "12.0f"]
    bad = ["8.0  9.0a", "8.0;9.0a", "8.0,9.0a", "90a", "9.0A", "auto 9.0a", " 9.0a", "9.0a\n", "", "100.0"]
    assert [text for text in good + bad if re.fullmatch(schema.TARGET, text)] == good
