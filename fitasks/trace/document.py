"""kernels.yaml with entries added: comments, order and spelling of everything else stay (ruamel.yaml)."""

from __future__ import annotations

import difflib
import io
import re
from typing import TYPE_CHECKING, Any

from fitasks.base.errors import EnvironmentProblem
from fitasks.config.compose import is_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitasks.trace.merge import Matrix

_WIDEST = 100  # of an entry on one line


def added(text: str, matrices: Sequence[Matrix]) -> str:
    """The text with `matrices` behind the other entries. Raises EnvironmentProblem where ruamel.yaml is missing."""
    if not matrices:
        return text
    yaml = _yaml(text)
    document: Any = yaml.load(text)
    if document is None:  # ruamel.yaml keeps no comments of a file with nothing else in it
        return "\n".join(filter(None, [text.rstrip("\n"), added("kernels: {}\n", matrices)]))
    if not document.get("kernels"):
        document["kernels"] = yaml.map()
    for matrix in matrices:
        document["kernels"][matrix.name] = _entry(yaml, matrix)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue().replace("\n", "\r\n") if "\r\n" in text else stream.getvalue()


def difference(old: str, new: str, name: str) -> str:
    """A unified diff, "" where nothing changes."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, f"{name} (with the trace)", lineterm="")
    return "\n".join(lines)


class _Null:
    """A parameter that is None: written out, because kernels.yaml refuses a key with nothing behind it."""

    def __repr__(self) -> str:
        return "null"


def _written(value: Any) -> Any:
    """Such that kernels.yaml's reader finds the same: ruamel.yaml leaves `on` and `12:30` without quotes."""
    if value is None:
        return _Null()
    if isinstance(value, str) and not is_text(value):
        from ruamel.yaml.scalarstring import DoubleQuotedScalarString

        return DoubleQuotedScalarString(value)
    return value


def _null(representer: Any, _value: _Null) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _yaml(text: str) -> Any:
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise EnvironmentProblem("ruamel.yaml is not installed", remedy="pip install 'ruamel.yaml>=0.18'") from None
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(_Null, _null)
    offset = 0 if re.search(r"^( *)[\w-]+:\n\1- ", text, re.MULTILINE) else 2
    yaml.indent(mapping=_indent(text), sequence=offset + 2, offset=offset)
    return yaml


def _indent(text: str) -> int:
    """What the file indents its entries by."""
    found = re.search(r"^kernels:[^\n]*\n(?:[ ]*(?:#[^\n]*)?\n)*( +)[^ #\n]", text, re.MULTILINE)
    return len(found[1]) if found else 2


def _entry(yaml: Any, matrix: Matrix) -> Any:
    """`{op: …, …}` on one line where that is short, nothing at all for an op without parameters."""
    said = {name: _values(yaml, values) for name, values in matrix.params.items()}
    if matrix.op != matrix.name:
        said = {"op": matrix.op} | said
    if not said:
        return None
    entry = yaml.map(**said)
    if len(str(dict(said))) <= _WIDEST:
        entry.fa.set_flow_style()
    return entry


def _values(yaml: Any, values: tuple[Any, ...]) -> Any:
    shown = [_written(value) for value in values]
    if len(shown) == 1:
        return shown[0]
    several = yaml.seq(shown)
    several.fa.set_flow_style()
    return several
