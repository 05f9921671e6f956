"""kernels.yaml's text → YAML nodes, or one sentence why not.

PyYAML's own scanner, parser and composer, made safe for any text: cycles, depth and aliases that multiply are
refused before anything is built from them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from fitasks.base.errors import ConfigError
from fitasks.config.model import Position
from fitasks.config.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_NODES = 20_000  # aliases written out; a real file has hundreds
_DEEPEST = 40  # PyYAML composes recursively
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
_TOO_MANY = f"more than {_MOST_NODES:,} values, aliases written out"

# PyYAML's words → ours, for the mistakes that everybody makes
_SENTENCES = {
    "'\\t'": "a tab; YAML is indented with spaces only",
    "mapping values are not allowed": "a `:` out of place; check the indentation, quote text that holds `: `",
    "could not find expected ':'": "a key without `:`; write `key: value`",
    "expected <block end>": "out of line with what is above; check the indentation",
    "expected ',' or '": "a `,` or a closing bracket is missing before this",
}


def compose(text: str, file: str) -> yaml.Node | None:
    """The root node, None for an empty file; `file` is the name that messages show. Raises ConfigError."""
    _refuse_control_characters(text, file)
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        raise unreadable(place_of(mark, file), _syntax(error)) from None
    except (ValueError, OverflowError, IndexError):  # an escape such as "\UFFFFFFFF" reaches chr()
        place = place_of(loader.get_mark(), file)
        raise unreadable(place, "an escape or directive that means nothing; correct or remove it") from None
    finally:
        loader.dispose()


def is_text(word: str) -> bool:
    """Whether `word` is read as this text where it stands without quotes, and as nothing else."""
    return bool(_Loader("").resolve(yaml.ScalarNode, word, (True, False)) == "tag:yaml.org,2002:str")  # type: ignore[no-untyped-call]


def unreadable(place: Position, text: str) -> ConfigError:
    """The error for a mistake behind which nothing can be read."""
    return ConfigError((str(Problem(place, (), text)),))


def place_of(mark: yaml.Mark, file: str) -> Position:
    """PyYAML counts from 0, editors from 1."""
    return Position(file, mark.line + 1, mark.column + 1)


def place_at(text: str, file: str) -> Position:
    """The place behind `text`, the part of a file before something."""
    lines = re.split(r"\r\n|\r|\n", text)
    return Position(file, len(lines), len(lines[-1]) + 1)


def _refuse_control_characters(text: str, file: str) -> None:
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        place = place_at(text[: bad.start()], file)
        character = f"U+{ord(bad.group()):04X}"
        raise unreadable(place, f"control character {character}; YAML is printable text, remove it")


class _TooMuchError(yaml.MarkedYAMLError):
    """YAML, but more of it than any kernels.yaml needs."""


class _Loader(yaml.SafeLoader):
    """A composer that refuses cycles, depth, and aliases that multiply (a "billion laughs")."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.open = self.begun = 0
        self.sizes: dict[int, tuple[int, int]] = {}  # id of a complete node → nodes and levels, written out

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self.open, self.begun = self.open + 1, self.begun + 1
        _refuse(self.open > _DEEPEST, f"nested deeper than {_DEEPEST} levels", mark)
        _refuse(self.begun > _MOST_NODES, _TOO_MANY, mark)  # now: a list's size is known only at its end
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.open -= 1
        _refuse(is_alias and id(node) not in self.sizes, "an alias inside the very thing it names", mark)
        sizes = [self.sizes[id(child)] for child in _children(node)]
        nodes, levels = 1 + sum(n for n, _ in sizes), 1 + max((m for _, m in sizes), default=0)
        _refuse(nodes > _MOST_NODES, _TOO_MANY, mark)
        _refuse(levels > _DEEPEST, f"nested deeper than {_DEEPEST} levels, aliases written out", mark)
        self.sizes[id(node)] = nodes, levels
        return node


# 1e-5, as YAML 1.2, JSON and Python write it, and people do; YAML 1.1 wants a dot and a sign, and would read a text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _refuse(condition: bool, problem: str, mark: yaml.Mark) -> None:
    if condition:
        raise _TooMuchError(problem=f"{problem}; simplify the file", problem_mark=mark)


def _children(node: yaml.Node | None) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "unreadable"
    if isinstance(error, _TooMuchError):
        return problem
    if error.context == "expected a single document in the stream":
        return "a second YAML document; a file holds one, remove the `---`"
    for part, sentence in _SENTENCES.items():
        if part in problem:
            return sentence
    return f"not YAML: {problem} {error.context or ''}".rstrip()
