from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.json_scan import BLANK, OBJECT, ODD, scan_lines, undeclared_fields
from tamis.connectors.jsonl import read_jsonl

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)
KEYS = st.sampled_from(["text", "id", "tex", "textt", "é", 'q"', "b\\", "k\n", ""]) | st.text(max_size=4)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)


def _pairs(text: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    objects=st.lists(OBJECTS, min_size=1, max_size=5),
    ascii_only=st.booleans(),
    separators=st.sampled_from([(",", ":"), (" , ", " : "), (", ", ": ")]),
)
def test_extra_holds_the_undeclared_fields_as_json_reads_them(
    objects: list[dict[str, Any]], ascii_only: bool, separators: tuple[str, str]
) -> None:
    lines = [json.dumps(o | {"text": "t"}, ensure_ascii=ascii_only, separators=separators) for o in objects]
    try:
        data = "\n".join(lines).encode()
    except UnicodeEncodeError:
        return
    (records,) = read_jsonl(pa.BufferReader(data), 0, None, {"text": pa.string()}, extra=True)
    expected = [[pair for pair in _pairs(line) if pair[0] != "text"] for line in lines]
    assert [_pairs(text) for text in records.table["extra"].to_pylist()] == expected


def test_extra_keeps_every_byte_of_the_fields() -> None:
    line = b' { "a" : 1.50E+3 ,"text":"x,}", "\xc3\xa9":[ {"b":"\\"]"} ] , "text2":"\\u00e9" ,"id":5,"a":-0} '
    lines = scan_lines(line + b"\n" + b'{"text":"y"}\n{}\n', ["text", "id"], extra=True)
    assert lines.extra is not None
    assert lines.extra.to_pylist() == [
        '{"a" : 1.50E+3,"é":[ {"b":"\\"]"} ],"text2":"\\u00e9","a":-0}',
        "{}",
        "{}",
    ]


@settings(max_examples=100, deadline=None)
@given(OBJECTS)
def test_exact_form_agrees_with_the_kernel(fields: dict[str, Any]) -> None:
    line = json.dumps(fields)
    lines = scan_lines(line.encode(), ["text", "id", "é"], extra=True)
    if lines.states[0] == OBJECT:
        assert lines.extra is not None
        assert lines.extra[0].as_py() == undeclared_fields(line, ["text", "id", "é"], json.JSONDecoder())


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (b"", BLANK),
        (b" \t\r", BLANK),
        (b"\x0b", ODD),
        (b"{}", OBJECT),
        (b' {"a":"}"} \r', OBJECT),
        (b"{}{}", ODD),
        (b"{} {}", ODD),
        (b"{", ODD),
        (b"{{}", ODD),
        (b'{"a', ODD),
        (b'{"a}', ODD),
        (b'{"a\\"}', ODD),
        (b'{"a":"\\', ODD),
        (b'{"aaaaaaaaaaaaaaaa}', ODD),
        (b'{"a":Inf}', ODD),
        (b'{"I":"Inf"}', OBJECT),
        (b"[{}]", ODD),
        (b"null", ODD),
    ],
)
def test_states(line: bytes, state: int) -> None:
    for padding in (b"", b'{"text":"before"}\n'):
        assert scan_lines(padding + line + b"\n{}", [], extra=False).states[padding.count(b"\n")] == state


@settings(max_examples=200, deadline=None)
@given(
    st.binary(min_size=1, max_size=60) | st.text(alphabet='{}[]",\\:ab1 \n\r', min_size=1, max_size=60).map(str.encode)
)
def test_lines_are_those_of_split(data: bytes) -> None:
    lines = scan_lines(data, ["a"], extra=True)
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [data[s:e] for s, e in zip(lines.starts, lines.ends, strict=True)] == expected
