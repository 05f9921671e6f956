"""doit's own database: where it lies, and that it can be used."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from fitasks.base.streams import tell

if TYPE_CHECKING:
    from pathlib import Path

_DATABASE, _ROOM = "doit.sqlite3", 1 << 20  # bytes that it may need


def place(state: Path) -> Path | str:
    """doit's database: a cache that may be lost, and is, where this project's state can't be written."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state) as probe:
            probe.write(bytes(_ROOM))
            probe.flush()
        if not os.access(state / _DATABASE, os.F_OK) or os.access(state / _DATABASE, os.W_OK):
            _sound(state / _DATABASE)
            return state / _DATABASE
        problem = "its database is read-only"
    except OSError as error:
        problem = error.strerror or str(error)
    tell(f"{state} can't be written to ({problem}); what this run learns is forgotten")
    return ":memory:"  # sqlite's word for a database that needs no file


def _sound(database: Path) -> None:
    """One that can't be read would end the run, so it is removed."""
    import sqlite3

    if not database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection:
            connection.execute("select count(*) from doit").fetchone()
    except sqlite3.OperationalError:
        return  # locked by another doit, or not made yet
    except sqlite3.DatabaseError:
        database.unlink(missing_ok=True)
