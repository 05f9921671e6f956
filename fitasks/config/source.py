"""kernels.yaml's nodes → plain data, with the place of every key and value.

YAML 1.1 as PyYAML's SafeLoader reads it, except that 1e-5 is a number, and that duplicate keys, dates, unknown tags
and keys that aren't text are mistakes.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from fitasks.config.compose import compose, place_of
from fitasks.config.model import Position
from fitasks.config.problem import BAD, BLANK, Path, Problem, shorten, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}
_NUMBERS = {_TAG + "int", _TAG + "float"}

_LONGEST_NUMBER = 100  # characters; PyYAML reads `1:1:1…` (base 60) in quadratic time
_LARGEST_INT = 2**63

# A YAML escape can write what YAML itself does not allow; no environment, path or terminal takes it.
_UNUSABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Spot:
    """Where a value stands; `key` is its own place where it has no key, `text` a scalar as written."""

    key: Position
    value: Position
    text: str = ""


@dataclass
class Document:
    """Dicts, lists and scalars; BLANK stands for nothing, BAD for what a problem is noted about."""

    file: str
    data: Any = BLANK
    spots: dict[Path, Spot] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def spot(self, path: Path) -> Spot:
        """The spot of `path`, or of the nearest thing around it."""
        while path not in self.spots and path:
            path = path[:-1]
        return self.spots.get(path) or Spot(self.start, self.start)

    @property
    def start(self) -> Position:
        return Position(self.file, 1, 1)


def read_document(text: str, file: str) -> Document:
    """Parse `text`; `file` is the name that messages show. Raises ConfigError where it isn't YAML at all."""
    root = compose(text, file)
    document = Document(file)
    if root is not None:
        reader = _Reader(document)
        document.data = reader.value(root, (), document.start)
    return document


class _Unread(Exception):
    """A scalar that has no value; the message says why."""


class _Reader:
    """Builds data from nodes; notes spots and problems in the document as it goes."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path, key: Position) -> Any:
        """The node's data. `key` is where its key stands, or what it is in."""
        place = self._place_of(node, key)
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        self._forget_items(path)
        self.document.spots[path] = Spot(key if path and isinstance(path[-1], str) else place, place, text)
        try:
            match node:
                case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                    return self._mapping(node, path)
                case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                    return [self.value(item, (*path, i), place) for i, item in enumerate(node.value)]
                case yaml.ScalarNode():
                    return self._scalar(node)
        except _Unread as why:
            self._note(place, path, str(why))
            return BAD
        self._note(place, path, f"the tag {_short_tag(node.tag)} means nothing here; leave it out")
        return BAD

    def _forget_items(self, path: Path) -> None:
        """Of a merged list that the mapping's own value replaces."""
        for index in itertools.count():
            if self.document.spots.pop((*path, index), None) is None:
                return

    def _place_of(self, node: yaml.Node, key: Position) -> Position:
        """An alias has its anchor's place, which lies before its key; there, its key says more."""
        place = place_of(node.start_mark, self.document.file)
        return max(place, key, key=lambda at: (at.line, at.column))

    def _note(self, place: Position, path: Path, text: str) -> None:
        self.document.problems.append(Problem(place, path, text))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """Merged keys come first and yield to the mapping's own, as in SafeLoader."""
        merged: dict[str, Any] = {}
        own: dict[str, tuple[yaml.Node, Position]] = {}
        for key, key_node, value in self._unique(node, path):
            place = place_of(key_node.start_mark, self.document.file)
            if key_node.tag == _TAG + "merge":
                merged = self._merge(value, path, place)
            else:
                own[key] = (value, place)
        return merged | {key: self.value(value, (*path, key), place) for key, (value, place) in own.items()}

    def _unique(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """The pairs whose keys are text, each key once."""
        first: dict[str, Position] = {}
        for key_node, value in node.value:
            place = place_of(key_node.start_mark, self.document.file)
            key = self._key(key_node, place, path)
            if key is not None and key not in first:
                first[key] = place
                yield key, key_node, value
            elif key is not None:
                text = f"duplicate key, first at {first[key]}; keep one of them"
                self._note(place, (*path, key), text)

    def _key(self, node: yaml.Node, place: Position, path: Path) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in {_TAG + "str", _TAG + "merge"}:
            if not _UNUSABLE.search(node.value):
                return str(node.value)
            self._note(place, path, f"the key {shown(node.value)} contains a control character; remove it")
        elif isinstance(node, yaml.ScalarNode):
            text = shorten(node.value)
            self._note(place, path, f'the key {text} is not text in YAML; quote it: "{text}"')
        else:
            self._note(place, path, "a list or mapping as key; keys are text")
        return None

    def _merge(self, node: yaml.Node, path: Path, place: Position) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):  # the first mapping of the list wins
            if isinstance(source, yaml.MappingNode):
                merged |= self._mapping(source, path)
            else:
                self._note(place, (*path, "<<"), "merges something else than a mapping; write <<: *anchor")
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag not in _SCALARS:
            raise _Unread(_refused_tag(node))
        if node.tag == _TAG + "null" and not node.value:
            return BLANK
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _Unread(f"a number of {len(node.value)} characters; write a shorter one")
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, LookupError, OverflowError, yaml.YAMLError):
            raise _Unread(f"{shown(node.value)} is not what its tag {_short_tag(node.tag)} says") from None
        return _usable(value)


def _usable(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= _LARGEST_INT:
        raise _Unread("a number that does not fit 64 bits; write a smaller one")
    if isinstance(value, str) and (bad := _UNUSABLE.search(value)):
        raise _Unread(f"text with the control character U+{ord(bad.group()):04X}; remove it")
    return value


def _short_tag(tag: str) -> str:
    return shorten(tag.replace(_TAG, "!!"))


def _refused_tag(node: yaml.ScalarNode) -> str:
    text = shorten(node.value)
    match node.tag.removeprefix(_TAG):
        case "timestamp":
            return f'{text} is a date in YAML; quote it: "{text}"'
        case "value" | "merge":
            return f'{text} has a meaning of its own in YAML; quote it: "{text}"'
        case _:
            return f"the tag {_short_tag(node.tag)} means nothing here; leave it out"
