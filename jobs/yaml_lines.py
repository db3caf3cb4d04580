"""Reads plain YAML, in bounded time and memory, and knows in which line a key stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

MAX_CHARACTERS = 1 << 20
MAX_NODES = 200_000
"""Keys and values, aliases counted as what they stand for; so many take ten seconds."""
MAX_DEPTH = 50
MAX_NUMBER = 400
"""Characters of a number; longer ones take Python quadratic time."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_LEFT_AS_TEXT = {f"{_TAG}timestamp", f"{_TAG}value"}
"""YAML 1.1 makes dates of what is a name here, as in `path: 2026-01-31`."""


class PlainYAMLError(ValueError):
    """The text is not plain YAML. line: where, from 1; None where that says nothing."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Composes nodes up to a depth and a number."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _LEFT_AS_TEXT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1
        self.depth += 1
        self.nodes += 1
        _check_size(self.nodes, self.depth, line)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class PlainYAML:
    """A text of mappings, lists, texts, numbers, true, false and null.

    content: its value, in which nothing is shared, since aliases are copied. Raises PlainYAMLError for what is no YAML,
    has tags, a key twice, or is larger than the bounds of this module.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise PlainYAMLError(f"has more than {MAX_CHARACTERS:,} characters; is it the right file?")
        self.nodes = 0
        try:
            self.loader = _Loader(text)
            self.root = self.loader.get_single_node()
            self.content = None if self.root is None else self._value(self.root, 1)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise PlainYAMLError(
                f"is not YAML: character {error.position + 1} is a control character; take it out", line
            ) from error
        except yaml.MarkedYAMLError as error:
            raise _said_plainly(error) from error

    def _value(self, node: yaml.Node, depth: int) -> Any:
        """Return a node's value; aliases are followed, and counted as often as they occur."""
        self.nodes += 1
        _check_size(self.nodes, depth, _line(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self._value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise _refused_tag(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        for key, value in _own(node):
            name = self._scalar(key)
            if name in values:
                raise PlainYAMLError(f"the key `{name}` comes twice; leave one out", _line(key))
            values[name] = self._value(value, depth + 1)
        for base in _bases(node):
            if not isinstance(base, yaml.MappingNode):
                raise PlainYAMLError("`<<` takes a mapping, or a list of mappings", _line(base))
            values = self._value(base, depth + 1) | values
        return values

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise PlainYAMLError("a key must be text, not a list or a mapping", _line(node))
        plain = self.loader.resolve(yaml.ScalarNode, node.value, (True, False))
        if node.tag not in (f"{_TAG}str", plain) or node.tag == _MERGE:
            raise _refused_tag(node)
        if node.tag != f"{_TAG}str" and len(node.value) > MAX_NUMBER:
            raise PlainYAMLError(f"a number has more than {MAX_NUMBER} digits", _line(node))
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
            raise PlainYAMLError("a text holds a character that is none; write it otherwise", _line(node))
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise PlainYAMLError(f"`{node.value}` is not a number; quote it if it is text", _line(node)) from error

    def line(self, place: str) -> tuple[str, int] | None:
        """Return the longest beginning of a key path, such as `select.0.keep`, that is there, and its line from 1."""
        return None if self.root is None else _find(self.root, place)


def _check_size(nodes: int, depth: int, line: int) -> None:
    if depth > MAX_DEPTH:
        raise PlainYAMLError(f"is nested more than {MAX_DEPTH} deep; is it a recipe?", line)
    if nodes > MAX_NODES:
        raise PlainYAMLError(f"has more than {MAX_NODES:,} keys and values, aliases counted as what they copy", line)


def _own(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    return ((key, value) for key, value in node.value if key.tag != _MERGE)


def _bases(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    """Yield what `<<` names; the first that has a key wins."""
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from value.value if isinstance(value, yaml.SequenceNode) else [value]


def _find(node: yaml.Node, place: str) -> tuple[str, int] | None:
    """Look for a place below a node. A key may have dots itself: the longest that fits is taken."""
    if isinstance(node, yaml.SequenceNode):
        children = [(str(i), item, item) for i, item in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in _own(node)]
    else:
        return None
    fitting = [child for child in children if f"{place}.".startswith(f"{child[0]}.")]
    if fitting:
        name, key, value = max(fitting, key=lambda child: len(child[0]))
        below = _find(value, place[len(name) + 1 :]) if len(place) > len(name) else None
        return (f"{name}.{below[0]}", below[1]) if below is not None else (name, _line(key))
    bases = _bases(node) if isinstance(node, yaml.MappingNode) else ()
    return next((found for base in bases if (found := _find(base, place)) is not None), None)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _refused_tag(node: yaml.Node) -> PlainYAMLError:
    tag = node.tag.replace(_TAG, "!!")
    return PlainYAMLError(f"the tag `{tag}` is not for recipes; leave it out", _line(node))


def _said_plainly(error: yaml.MarkedYAMLError) -> PlainYAMLError:
    """Return the same with one line number, and with advice."""
    mark = error.problem_mark or error.context_mark
    problem = " ".join(filter(None, [error.context, error.problem])) or "it cannot be read"
    advice = ""
    if isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError)):
        advice = "; indent by spaces, not tabs" if "'\\t'" in problem else "; look at indentation, brackets and quotes"
    return PlainYAMLError(f"is not YAML: {problem}{advice}", None if mark is None else mark.line + 1)
