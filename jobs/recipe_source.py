"""The text of a recipe, changed by the command line; knows where each key comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..connectors.errors import RecipeError, printable
from .yaml_lines import MAX_CHARACTERS, PlainYAML, PlainYAMLError

MESSAGE_CHARACTERS = 1000
"""Longer messages are cut: they repeat something very long of the recipe."""


class RecipeSource:
    """A recipe file with `a.b=c` assignments applied.

    content: its mapping, not validated; output: replaces `output.path`, relative to the working directory. Raises
    RecipeError in one line when the file cannot be read, is not YAML or no mapping, or an assignment does not fit.
    """

    def __init__(self, path: Path, assignments: Sequence[str] = (), output: str | None = None) -> None:
        self.path, self.output = path, output
        self.yaml = _read(path)
        if not isinstance(self.yaml.content, dict):
            raise RecipeError(f"{path}: a recipe is a mapping of keys such as corpus, scores, select and output")
        self.content: dict[str, Any] = self.yaml.content
        self.assigned: dict[str, str] = {}
        for assignment in assignments:
            self._assign(assignment)
        if output is not None:
            self.assigned["output.path"] = f"--output {output}"

    def _assign(self, assignment: str) -> None:
        """Set one value, for example `select.0.keep.fraction=0.2`; the value is read as YAML."""
        place, equals, text = assignment.partition("=")
        told = printable(f"--set {assignment}", MESSAGE_CHARACTERS)
        if not equals or not place:
            raise RecipeError(f"{told}: write KEY=VALUE, for example seed=1 or select.0.max=800")
        try:
            value = PlainYAML(text).content
        except PlainYAMLError as error:
            raise RecipeError(printable(f"{told}: `{text}` {error}", MESSAGE_CHARACTERS)) from error
        node: Any = self.content
        *parents, last = place.split(".")
        seen: list[str] = []
        try:
            for part in parents:
                key = _key(node, part)
                seen.append(str(key))
                if isinstance(node, dict) and node.get(key) is None:
                    node[key] = {}
                    self.assigned[".".join(seen)] = told
                node = node[key]
            key = _key(node, last)
            node[key] = value
        except (IndexError, ValueError, TypeError) as error:
            raise RecipeError(f"{told}: the recipe has no place `{place}`") from error
        self.assigned[".".join([*seen, str(key)])] = told

    def where(self, place: str) -> str | None:
        """Return file and line of a key path, or the option that set it; of the nearest key above it where it is not.

        None where no part of the path is known.
        """
        above = [key for key in self.assigned if f"{place}.".startswith(f"{key}.")]
        if above:
            return self.assigned[max(above, key=len)]
        found = self.yaml.line(place)
        if found is None:
            return None
        below = [told for key, told in self.assigned.items() if found[0] == place and key.startswith(f"{place}.")]
        return " with ".join([f"{self.path}:{found[1]}", *dict.fromkeys(below)])

    @contextmanager
    def located(self) -> Iterator[None]:
        """Put file and line, or the option, before RecipeErrors about a key of the recipe."""
        try:
            yield
        except RecipeError as error:
            where = self.where(error.place)
            if where is None:
                raise
            raise RecipeError(printable(f"{where}: {error}"), place="") from error


def _read(path: Path) -> PlainYAML:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
        return PlainYAML(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text") from error
    except PlainYAMLError as error:
        where = f"{path}:{error.line}" if error.line is not None else str(path)
        raise RecipeError(printable(f"{where}: {error}", MESSAGE_CHARACTERS)) from error


def _key(node: Any, part: str) -> str | int:
    """Return a part of a key path as a key of a mapping, or as a position in a list, counted from its start."""
    if isinstance(node, list):
        return range(len(node))[int(part)]
    if isinstance(node, dict):
        return part
    raise TypeError(f"{type(node).__name__} has no keys")
