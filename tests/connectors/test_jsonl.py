from __future__ import annotations

import gzip
import io
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors.jsonl import _Parser, check_fields, read_jsonl
from tamis.connectors.records import RAW_BYTES, DeadRow

TEXT = ["text"]
COLUMNS = ["text", "id", "group"]


def read(
    data: bytes, columns: list[str] = COLUMNS, start: int = 0, end: int | None = None, **options: Any
) -> tuple[dict[int, dict[str, Any]], list[DeadRow]]:
    """Read all blocks; returns the rows by line number, and the dead rows."""
    rows: dict[int, dict[str, Any]] = {}
    dead: list[DeadRow] = []
    next_row = 0
    for records in read_jsonl(pa.BufferReader(data), start, end, columns, **options):
        assert len(records.rows) == records.table.num_rows
        assert np.all(np.diff(records.rows) > 0)
        assert [d.row for d in records.dead] == sorted(d.row for d in records.dead)
        numbers = [*records.rows, *(d.row for d in records.dead)]
        assert all(next_row <= n < records.next_row for n in numbers)
        next_row = records.next_row
        rows.update(zip(records.rows.tolist(), records.table.to_pylist(), strict=True))
        dead += records.dead
        assert records.table.column_names == [*columns, *(["extra"] if options.get("extra") else [])]
        assert set(records.table.schema.types) == {pa.large_string()}
    return rows, dead


def test_rows_carry_line_numbers_and_blank_lines_are_no_rows() -> None:
    data = b'\n{"text":"a","id":1,"group":"x"}\r\n \t\r\n{"text":"b"}\n\n{"text":"\\u00e9\xc3\xa9","id":null}'
    rows, dead = read(data)
    assert not dead
    assert rows == {
        1: {"text": "a", "id": "1", "group": "x"},
        3: {"text": "b", "id": None, "group": None},
        5: {"text": "éé", "id": None, "group": None},
    }


def test_next_row_counts_blank_lines_at_the_end() -> None:
    (records,) = read_jsonl(pa.BufferReader(b'{"text":"a"}\n\n\n'), 0, None, TEXT)
    assert records.next_row == 3


def test_empty_file_has_no_rows() -> None:
    assert read(b"") == ({}, [])


def test_byte_order_mark_is_skipped_only_at_the_start_of_the_file() -> None:
    line = b'\xef\xbb\xbf{"text":"a"}\n'
    rows, dead = read(line + line, TEXT)
    assert rows == {0: {"text": "a"}}
    assert [d.row for d in dead] == [1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"text": "a"', "line is not JSON"),
        (b"plain words", "line is not JSON"),
        (b'{"text":"a"} {"text":"b"}', "line is not JSON"),
        (b'{"text":"a"} null', "line is not JSON"),
        (b'{"text":"a"}\x00', "line is not JSON"),
        (b"{'text':'a'}", "line is not JSON"),
        (b'{"text":"a","x":Inf}', "line is not JSON"),
        (b'{"text":"a","x":' + b"[" * 500 + b"]" * 500 + b"}", "nested more than 500 levels deep"),
        (b'{"text":"a","k\\n":' + b"[" * 20000 + b"]" * 20000 + b"}", "nested more than 500 levels deep"),
        (b"[" * 20000, "nested more than 500 levels deep"),
        (b"null", "line is null, not an object"),
        (b"17", "line is a number, not an object"),
        (b"true", "line is a boolean, not an object"),
        (b'["text"]', "line is a list, not an object"),
        (b'"text"', "line is a string, not an object"),
        (b'{"text":7}', "`text` is a number, not a string"),
        (b'{"text":7.5}', "`text` is a number, not a string"),
        (b'{"text":["a"]}', "`text` is a list, not a string"),
        (b'{"text":{"a":1}}', "`text` is an object, not a string"),
        (b'{"text":true}', "`text` is a boolean, not a string"),
        (b'{"text":null}', "`text` is null"),
        (b'{"body":"a"}', "`text` is missing"),
        (b"{}", "`text` is missing"),
        (b'{"text":"a\xff"}', "not valid UTF-8 at byte 10"),
        (b'{"text":"a","x":"\xc3"}', "not valid UTF-8 at byte 17"),
        (b'{"text":"a","group":"\xed\xa0\x80"}', "not valid UTF-8 at byte 21"),
        (b'{"text":"\\ud800"}', "lone surrogate in `text`"),
        (b'{"text":"\\udc00 \\ud800"}', "lone surrogate in `text`"),
    ],
)
@pytest.mark.parametrize("extra", [False, True])
def test_bad_line_is_dead_and_its_neighbours_survive(line: bytes, error: str, extra: bool) -> None:
    data = b'{"text":"before","id":-9223372036854775808,"n":1.50}\n' + line + b'\r\n{"text":"after","n":1e400}\n'
    rows, dead = read(data, extra=extra)
    assert {number: row["text"] for number, row in rows.items()} == {0: "before", 2: "after"}
    assert rows[0]["id"] == str(-(2**63))
    assert [(d.row, d.stage, d.raw) for d in dead] == [(1, "read", line)]
    assert error in dead[0].error
    if extra:
        assert rows[0]["extra"] == '{"n":1.50}'


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"text":"a","text":"b"}', {"text": "b"}),
        (b'{"text":"a","group":12}', {"text": "a", "group": "12"}),
        (b'{"text":"a","group":' + b"9" * 5000 + b"}", {"text": "a", "group": "9" * 5000}),
        (b'{"text":"a","x":NaN,"y":-Infinity}', {"text": "a"}),
        (b'{"text":"a","x":"\\ud800"}', {"text": "a"}),
        (b'{"text":"a","id":7,"group":"\\ud800"}', {"text": "a", "id": "7", "group": None}),
        (b'{"text":"a","x":' + b"[" * 499 + b"]" * 499 + b"}", {"text": "a"}),
        (b'{"text":"a","k\\n":' + b"[" * 499 + b"]" * 499 + b"}", {"text": "a"}),
        (b'{"te\\u0078t":"\\u0000"}', {"text": "\0"}),
    ],
)
@pytest.mark.parametrize("neighbour", [b"", b"not JSON\n"])
def test_odd_but_readable_line_is_read_whatever_its_neighbours(
    line: bytes, row: dict[str, Any], neighbour: bytes
) -> None:
    rows, _ = read(neighbour + line)
    assert list(rows.values()) == [{"text": None, "id": None, "group": None} | row]


def test_raw_bytes_of_a_dead_row_are_limited() -> None:
    _, (dead,) = read(b"x" * (RAW_BYTES + 10))
    assert dead.raw == b"x" * RAW_BYTES


ODD_LINES = [
    b'{"text":"caf\xc3\xa9 \xf0\x9f\x98\x80","id":1,"k":[1, 2.50]}',
    b'{"id":2,"text":"a\\nb","deep":{"text":"no","x":"}{"}}',
    b'{"text":"","id":3}',
    b"",
    b" ",
    b"null",
    b'{"text":"\xff"}',
    b'{"te\\u0078t":"escaped key","\\u006b":1e5}',
    b'{"text":null}',
    b'{"text":"long","pad":"' + b"p" * 60 + b'"}',
]


def _line_starts(data: bytes) -> list[int]:
    return [0, *(i + 1 for i, byte in enumerate(data) if byte == 10 and i + 1 < len(data))]


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.tuples(st.sampled_from(ODD_LINES), st.sampled_from([b"\n", b"\r\n"])), max_size=8),
    last_ends=st.booleans(),
    mark=st.booleans(),
    cuts=st.lists(st.integers(0, 600), max_size=6),
    block_bytes=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_any_cutting_into_byte_ranges_gives_the_same_rows(
    lines: list[tuple[bytes, bytes]], last_ends: bool, mark: bool, cuts: list[int], block_bytes: int
) -> None:
    data = (b"\xef\xbb\xbf" if mark else b"") + b"".join(line + end for line, end in lines)
    data = data if last_ends else data.removesuffix(b"\n")
    rows, dead = read(data, extra=True)
    starts = _line_starts(data)
    bounds: list[int] = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found_rows: dict[int, dict[str, Any]] = {}
    found_dead: list[DeadRow] = []
    for start, end in pairwise(bounds):
        first = sum(s < start for s in starts)
        part_rows, part_dead = read(data, start=start, end=end, extra=True, block_bytes=block_bytes)
        found_rows.update((first + number, row) for number, row in part_rows.items())
        found_dead += [DeadRow(first + d.row, d.stage, d.error, d.raw) for d in part_dead]
    assert found_rows == rows
    assert found_dead == dead


def _compress(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, mtime=0)
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


def _corpus(count: int) -> bytes:
    generator = np.random.default_rng(0)
    words = generator.integers(0, 10**6, size=(count, 20))
    return b"".join(
        json.dumps({"text": " ".join(map(str, row)), "id": i, "n": i}).encode() + b"\n"
        for i, row in enumerate(words.tolist())
    )


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_equals_plain_also_in_several_members(compression: str) -> None:
    data = _corpus(2000)
    cut = len(data) // 3
    packed = _compress(data[:cut], compression) + _compress(data[cut:], compression)
    assert read(packed, compression=compression, extra=True, block_bytes=5000) == read(data, extra=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("lost", [1, 5, 9, 1000, 20_000])
def test_truncated_stream_keeps_its_lines_and_ends_in_one_dead_row(compression: str, lost: int) -> None:
    data = _corpus(3000)
    packed = _compress(data, compression)[:-lost]
    whole, _ = read(data)
    rows, (dead,) = read(packed, compression=compression)
    assert rows == {number: whole[number] for number in range(len(rows))}
    assert dead.row == len(rows)
    assert dead.error == f"truncated {compression} stream after {len(rows)} lines"
    readable = b"".join(data.splitlines(keepends=True)[: len(rows)]) + dead.raw
    assert data.startswith(readable)
    slack = 128 * 1024 if compression == "zstd" else 1024  # zstd gives out whole blocks
    assert len(data) - len(readable) <= lost * len(data) / len(packed) + slack


def test_truncation_in_the_first_bytes_leaves_no_row() -> None:
    rows, (dead,) = read(_compress(_corpus(10), "gzip")[:5], compression="gzip")
    assert (rows, dead.row, dead.raw) == ({}, 0, b"")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damage_in_the_middle_keeps_the_members_before_it(compression: str) -> None:
    data = _corpus(2000)
    packed = bytearray(_compress(data, compression) + _compress(data, compression))
    middle = len(packed) // 2
    packed[middle + 2 : middle + 40] = bytes(38)
    rows, (dead,) = read(bytes(packed), compression=compression)
    assert len(rows) >= 2000
    assert dead.row == len(rows)
    assert f"{compression} stream" in dead.error


def test_source_that_fails_is_not_taken_for_a_damaged_stream() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError("connection lost")
            return super().read(1000)

    source = pa.PythonFile(Failing(_compress(_corpus(3000), "gzip")), mode="r")
    with pytest.raises(OSError, match="connection lost"):
        list(read_jsonl(source, 0, None, TEXT, compression="gzip"))


def test_compressed_file_has_no_byte_ranges() -> None:
    with pytest.raises(ValueError, match="byte range"):
        list(read_jsonl(pa.BufferReader(b""), 5, None, TEXT, compression="gzip"))


def test_line_longer_than_a_block_is_one_row() -> None:
    long = "x" * 300_000
    data = b'{"text":"a"}\n{"text":"' + long.encode() + b'"}\n{"text":"b"}\n'
    rows, dead = read(data, TEXT, block_bytes=1000)
    assert not dead
    assert [row["text"] for row in rows.values()] == ["a", long, "b"]


@pytest.mark.slow
def test_document_of_200_megabytes() -> None:
    size = 200_000_000
    data = b'{"text":"' + b"x" * size + b'"}\n{"text":"b"}\n'
    lengths = [
        length
        for records in read_jsonl(pa.BufferReader(data), 0, None, TEXT)
        for length in pa.compute.binary_length(records.table["text"]).to_pylist()
    ]
    assert lengths == [size, 1]


# what stands in the line, and the string that it is read as
VALUES = [
    (b'"7"', "7"),
    (b'"\\u00e9\xc3\xa9 \\n"', "éé \n"),
    (b'""', ""),
    (b"null", None),
    (b"0", "0"),
    (b"-0", "0"),
    (b"-7", "-7"),
    (b"9223372036854775807", "9223372036854775807"),
    (b"-9223372036854775808", "-9223372036854775808"),
    (b"9223372036854775808", "9223372036854775808"),
    (b"1" + b"0" * 29, "1" + "0" * 29),
    (b"9" * 5000, "9" * 5000),
    (b"1.50", "1.50"),
    (b"-0.0", "-0.0"),
    (b"1E+3", "1E+3"),
    (b"1e400", "1e400"),
    (b"NaN", "NaN"),
    (b"-Infinity", "-Infinity"),
    (b"true", "true"),
    (b"false", "false"),
    (b"{}", "{}"),
    (b'[1 ,2.50, "\\ud800"]', '[1 ,2.50, "\\ud800"]'),
    (b'{"id" : "in\xc3\xa9r" , "b":[true]}', '{"id" : "inér" , "b":[true]}'),
]


@pytest.mark.parametrize(("value", "expected"), VALUES)
@pytest.mark.parametrize("neighbours", [b'{"text":"x","id":1}', b'{"text":"x","id":"1"}', b"not JSON"])
def test_id_and_group_of_any_type_are_strings_whatever_their_neighbours(
    value: bytes, expected: str | None, neighbours: bytes
) -> None:
    lines = [neighbours, b'{"id":' + value + b' ,"text":"t", "group" : ' + value + b" }", neighbours]
    rows, _ = read(b"\n".join(lines), extra=True)
    assert rows[1] == {"text": "t", "id": expected, "group": expected, "extra": "{}"}


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)), max_size=8),
    pure=st.sampled_from([0, 4, 30]),
    first=st.sampled_from([b"1", b'"s"']),
    block_bytes=st.sampled_from([1, 100, 300, 1000, 1 << 20]),
)
def test_mixed_ids_give_the_same_rows_in_blocks_of_any_size(
    ids: list[tuple[tuple[bytes, str | None], tuple[bytes, str | None]]], pure: int, first: bytes, block_bytes: int
) -> None:
    start = (first, json.loads(first))
    pairs = [*[(start, start)] * pure, *ids, *[(VALUES[0], VALUES[4])] * pure]
    data = b"".join(b'{"text":"t","id":' + a[0] + b',"group":' + b[0] + b"}\n" for a, b in pairs)
    rows, dead = read(data, block_bytes=block_bytes)
    assert not dead
    expected = [(None if a[1] is None else str(a[1]), None if b[1] is None else str(b[1])) for a, b in pairs]
    assert [(row["id"], row["group"]) for row in rows.values()] == expected


def test_of_an_id_that_comes_twice_the_last_counts() -> None:
    values = [
        (b'1,"id":2', "2"),
        (b'"a","id":7.0', "7.0"),
        (b'[1],"\\u0069d":{"id":[]}', '{"id":[]}'),
        (b'1,"id":null', None),
    ]
    for value, expected in values:
        rows, _ = read(b'{"text":"t","id":' + value + b"}")
        assert rows[0]["id"] == expected


def test_a_column_named_twice_is_read_once() -> None:
    data = b'{"text":"a","id":1}\n{"text":2,"id":3}\n'
    (records,) = read_jsonl(pa.BufferReader(data), 0, None, ["text", "id", "text", "id"])
    assert records.table.to_pylist() == [{"text": "a", "id": "1"}]
    assert [d.row for d in records.dead] == [1]


@pytest.mark.parametrize("group", ["1", '"a"'])
@pytest.mark.parametrize("number", ["1", '"a"'])
def test_a_block_of_integers_or_strings_is_read_by_arrow_at_once(number: str, group: str) -> None:
    parser = _Parser(COLUMNS, extra=False)
    data = f'{{"text":"t","id":{number},"group":{group}}}\n{{"text":"t","id":null}}\n'.encode()
    for _ in range(2):  # also with what the first block taught
        table = parser._arrow_table(data)
        assert table is not None
        assert table["id"].to_pylist() == [str(json.loads(number)), None]
        assert table["group"].to_pylist() == [str(json.loads(group)), None]
    assert [pa.types.is_integer(kind) for kind in parser.likely] == [number == "1", group == "1"]


@pytest.mark.parametrize(
    "data",
    [
        b'junk\n{"text":"a","id":null}\n{"id":7,"group":"x"}\n',
        b'{"id":{"a":1},"group":1.5}',
        b'[1]\nnull\n"id"\n',
        b"",
        b'\xef\xbb\xbf{"id":1,"group":null}',
    ],
)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_fields_of_any_type_pass_where_any_object_has_them(data: bytes, compression: str | None) -> None:
    packed = gzip.compress(data) if compression else data
    check_fields(pa.BufferReader(packed), ["id", "group"], compression)


def test_a_missing_field_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no field `grop` in its first lines \(nearest: group\)"):
        check_fields(pa.BufferReader(b'{"id":1}\n{"group":"a"}\n'), ["id", "grop"])


def test_a_damaged_stream_has_no_fields_to_miss() -> None:
    check_fields(pa.BufferReader(b"no gzip"), ["id"], "gzip")
