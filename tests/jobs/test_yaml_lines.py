"""Plain YAML: what is read is what YAML says, every key knows its line, and nothing makes it slow or large."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.jobs.yaml_lines import MAX_DEPTH, MAX_NODES, PlainYAML, PlainYAMLError

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda key: isinstance(yaml.safe_load(key), str))
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=4), max_leaves=12)


def has_date(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_date(part) for pair in value.items() for part in pair)
    return any(map(has_date, value)) if isinstance(value, list) else isinstance(value, (date, datetime))


@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans())
def test_reads_what_was_written(value: Any, flow: bool) -> None:
    assert PlainYAML(yaml.safe_dump(value, default_flow_style=flow)).content == value


@settings(max_examples=300, deadline=None)
@given(st.text("abx:?-[]{},#&*!|>'\"\n\t 01.~<=%\\", max_size=40) | st.text(max_size=30))
def test_agrees_with_the_safe_loader_or_refuses(text: str) -> None:
    try:
        content = PlainYAML(text).content
    except PlainYAMLError as error:
        breaks = re.findall("\r\n|[\r\n\x85\u2028\u2029]", text)  # YAML's
        assert error.line is None or 1 <= error.line <= len(breaks) + 1
        return
    try:
        expected = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # it knows no `=`, and no day 32
        return
    assert has_date(expected) or repr(content) == repr(expected)  # NaN is no equal of itself


def places(value: Any, place: str = "") -> dict[str, str]:
    """Key path by last key, for the mappings of a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {}
    for key, part in pairs:
        inner = f"{place}.{key}" if place else str(key)
        found |= ({inner: key} if isinstance(value, dict) else {}) | places(part, inner)
    return found


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_knows_the_line_of_each_key(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, default_flow_style=False, width=10**6)
    document, lines, seen = PlainYAML(text), text.split("\n"), set()
    for place, key in places(value).items():
        found = document.line(place)
        assert found is not None
        assert found[0] == place
        assert lines[found[1] - 1].lstrip("- ").startswith(f"{key}:")
        assert found[1] not in seen
        seen.add(found[1])
    assert document.line("Z") is None


def test_line_of_what_is_not_there_is_that_of_what_is_above() -> None:
    text = "a.b:\n  - x: 1\n    y: {z: 2}\na: {b: 5}\nbase: &base\n  m: 1\nc:\n  <<: *base\n  n: 2\n"
    document = PlainYAML(text)
    assert document.line("a.b.0.y.z.w") == ("a.b.0.y.z", 3)
    assert document.line("a.b.0.q") == ("a.b.0", 2)
    assert document.line("a.b.1") == ("a.b", 1)
    assert document.line("c.m") == ("c.m", 6)  # where it is written
    assert document.line("c.n") == ("c.n", 9)
    assert document.line("d") is None


def test_merges_and_aliases_are_copies() -> None:
    content = PlainYAML("a: &a {x: [1], y: 2}\nb: {y: 3, <<: [*a, {x: 4, z: 5}]}\nc: *a").content
    assert content["b"] == {"x": [1], "y": 3, "z": 5}
    content["a"]["x"].append(7)
    assert content["c"] == {"x": [1], "y": 2}
    assert content["b"]["x"] == [1]


def test_dates_are_text() -> None:
    assert PlainYAML("path: 2026-01-31\nb: 2026-13-77").content == {"path": "2026-01-31", "b": "2026-13-77"}


def laughs(inner: str) -> str:
    """Nine levels of ten aliases each."""
    levels = (f"a{i + 1}: &a{i + 1} " + inner.format(",".join([f"*a{i}"] * 10)) for i in range(9))
    return "\n".join(["a0: &a0 {x: 1}", *levels])


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (laughs("[{}]"), "aliases counted", None),
        (laughs("{{<<: [{}]}}"), "aliases counted", None),
        ("a: &a [*a, *a]", "deep", 1),
        ("a: &a {<<: *a}", "deep", 1),
        ("\n" + "[" * 100_000, "deep", 2),
        ("- " * 100_000, "deep", 1),
        ("{" * 1000 + "}" * 1000, "deep", 1),
        ("\n".join(map(str, range(200_000))), "characters", None),
        ("a: 1\n# b\nb: 0x" + "f" * 5000, "more than 400 digits", 3),
        ("1" + ":59" * 5000, "more than 400 digits", 1),
        ("b: 0b_", "`0b_` is not a number", 1),
        ("a: 1\nb: 2\na: 3", "the key `a` comes twice", 3),
        ("? [a]\n: b", "a key must be text", 1),
        ("a:\n  !!binary aGk=", "the tag `!!binary`", 2),
        ("a: !!timestamp x", "the tag `!!timestamp`", 1),
        ("a: !!bool maybe", "the tag `!!bool`", 1),
        ("a: !!set {b}", "the tag `!!set`", 1),
        ("a: !!python/object/apply:os.getcwd []", "the tag `!!python/object", 1),
        ("a: <<", "the tag `!!merge`", 1),
        ("a:\n  <<: 5", "`<<` takes a mapping", 2),
        ('a: 1\nb: "\\ud800"', "a character that is none", 2),
        ('"\\0": 1', "a character that is none", 1),
        ("a: b\n\x07", "control character", 2),
        ("a: b\n\tc: d", "by spaces, not tabs", 2),
        ("a: [b\nc: d", "expected ',' or ']'", 2),
        ("a: *b", "undefined alias", 1),
        ("a: 1\n---\nb: 2", "a single document", 2),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_refuses(text: str, message: str, line: int | None) -> None:
    with pytest.raises(PlainYAMLError, match=message.replace("[", r"\[")) as caught:
        PlainYAML(text)
    assert line is None or caught.value.line == line


def test_bounds_leave_room_for_real_recipes() -> None:
    deep = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert PlainYAML(f"a: {deep}").content
    assert MAX_NODES > 50_000
