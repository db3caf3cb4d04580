from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tamis.connectors import csv_files
from tamis.connectors.csv_files import check_header, read_csv
from tamis.connectors.csv_scan import last_record_end
from tamis.connectors.records import BATCH_BYTES, RAW_BYTES, DeadRow

COLUMNS = ["text", "id"]
HEADER = b"id,text,n\n"
BIG = 1 << 20


def read(
    data: bytes, columns: list[str] = COLUMNS, delimiter: str = ",", **options: Any
) -> tuple[dict[int, dict[str, str]], list[DeadRow]]:
    """Read all batches; returns the rows by number, and the dead rows."""
    rows: dict[int, dict[str, str]] = {}
    dead: list[DeadRow] = []
    next_row = 0
    for records in read_csv(pa.BufferReader(data), columns, delimiter=delimiter, **options):
        numbers = sorted([*records.rows.tolist(), *(d.row for d in records.dead)])
        assert numbers == list(range(next_row, records.next_row))
        assert np.all(np.diff(records.rows) > 0)
        assert [d.row for d in records.dead] == sorted(d.row for d in records.dead)
        next_row = records.next_row
        records.table.validate(full=True)
        rows.update(zip(records.rows.tolist(), records.table.to_pylist(), strict=True))
        dead += records.dead
        assert records.table.column_names == [*columns, *(["extra"] if options.get("extra") else [])]
        assert set(records.table.schema.types) == {pa.large_string()}
    return rows, dead


def test_rows_are_numbered_by_records() -> None:
    data = b'id,text,n\r\n\r\n1,"a ""b"" , c\r\nd",x\r\n\n2,,\n"3",5" pipe,"",\n4,"",y'
    rows, dead = read(data)
    assert rows == {
        0: {"text": 'a "b" , c\r\nd', "id": "1"},
        1: {"text": "", "id": "2"},
        3: {"text": "", "id": "4"},
    }
    assert [(d.row, d.error, d.raw) for d in dead] == [(2, "record has 4 fields, the header 3", b'"3",5" pipe,"",')]


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"id,text,n", b"id,text,n\n", b"id,text,n\r\n\n"])
def test_no_records_are_no_rows(data: bytes) -> None:
    assert read(data) == ({}, [])


def test_byte_order_mark_belongs_to_no_column() -> None:
    data = b'\xef\xbb\xbf"text",id\na,1\n\xef\xbb\xbf"b",2\n'
    rows, dead = read(data, block_bytes=1)
    assert rows == {0: {"text": "a", "id": "1"}, 1: {"text": '\ufeff"b"', "id": "2"}}
    assert not dead


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (b"1,a", "record has 2 fields, the header 3"),
        (b"1,a,b,c", "record has 4 fields, the header 3"),
        (b" ", "record has 1 fields, the header 3"),
        (b'1,"a"b,c', "text after a closing quote"),
        (b'1,"he said \\"hi\\"",c', "text after a closing quote"),
        (b'1,"a" ,c', "text after a closing quote"),
        (b'1,"a"\r,c', "text after a closing quote"),
        (b'1,"never closed\n2,x,y\n3,"z",u', "text after a closing quote"),
        (b"1,a\xff,c", "not valid UTF-8 at byte 3"),
        (b'1,a,"\xed\xa0\x80"', "not valid UTF-8 at byte 5"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("columns", [["text"], ["n", "text"]])
def test_bad_record_is_dead_and_its_neighbours_survive(
    record: bytes, error: str, end: bytes, columns: list[str]
) -> None:
    rows, dead = read(HEADER + b'0,before,"x"\n' + record + end + b"2,after,y\n", columns)
    assert {number: row["text"] for number, row in rows.items()} == {0: "before", 2: "after"}
    assert [(d.row, d.stage, d.raw) for d in dead] == [(1, "read", record)]
    assert error in dead[0].error


def test_quote_that_never_closes_takes_the_rest_of_the_file() -> None:
    rows, (dead,) = read(HEADER + b'0,a,b\n1,"lost\n' + b"2,x,y\n" * 20_000)
    assert list(rows) == [0]
    assert (dead.row, dead.error) == (1, "a quoted field never closes")
    assert dead.raw == (b'1,"lost\n' + b"2,x,y\n" * 20_000)[:RAW_BYTES]


@pytest.mark.parametrize("block_bytes", [1, 50, BIG])
def test_record_above_the_limit_is_dead_and_reading_goes_on(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(csv_files, "MAX_RECORD_BYTES", 100)
    fits = b'1,"' + b"x" * 95 + b'",'
    data = (
        HEADER + fits + b"\r\n" + b"x" + fits + b"\n" + fits + b"\n" + b'4,"' + b"\n" * 1000 + b'",\n5,a,b\n6,"' + fits
    )
    rows, dead = read(data, block_bytes=block_bytes)
    assert [(number, row["id"]) for number, row in rows.items()] == [(0, "1"), (2, "1"), (4, "5")]
    assert [d.row for d in dead] == [1, 3, 5]
    assert {d.error for d in dead} == {"record of more than 100 bytes (is a quote never closed?)"}
    assert all(len(d.raw) > 100 and d.raw in data for d in dead)
    assert [d.raw[:3] for d in dead] == [b"x1,", b'4,"', b'6,"']


def test_a_quote_that_never_closes_holds_a_bounded_part_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MAX_RECORD_BYTES", 1 << 20)
    last_record_end(np.zeros(1, dtype=np.uint8), 0, 44)  # compiled before memory is traced
    tracemalloc.start()
    (block,) = csv_files._record_blocks((b'1,"' + b"x" * (1 << 16) for _ in range(301)), ord(","))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert block.fault == "record of more than 1,048,576 bytes (is a quote never closed?)"
    assert len(block.data) == RAW_BYTES
    assert peak < 4 << 20


def test_extra_holds_all_other_columns_as_json() -> None:
    data = 'a"b,text,é\n"x""\\\n",t,\x01\x1f\t\x7fü\n,u,\n'.encode()
    header_quoted = data.replace(b'a"b', b'"a""b"', 1)
    for content in (data, header_quoted):
        rows, dead = read(content, ["text"], extra=True)
        assert not dead
        others = [{'a"b': 'x"\\\n', "é": "\x01\x1f\t\x7fü"}, {'a"b': "", "é": ""}]
        assert [row["extra"] for row in rows.values()] == [
            json.dumps(other, ensure_ascii=False, separators=(",", ":")) for other in others
        ]
    rows, _ = read(data, ["text", 'a"b', "é"], extra=True)
    assert {row["extra"] for row in rows.values()} == {"{}"}


# An oracle of another make: regular expressions, one field after another.
PLAIN = re.compile(rb"[^,\n]*")
QUOTED = re.compile(rb'"((?:[^"]|"")*)"(?!")([^,\n]*)')


def oracle(data: bytes) -> tuple[list[list[bytes] | None], list[bytes]]:
    """Fields of each record, None where it cannot be split, and the raw bytes of each."""
    records: list[list[bytes] | None] = []
    raw: list[bytes] = []
    size = len(data)
    data = data if data.endswith(b"\n") else data + b"\n"
    position = 0
    while position < len(data):
        start, fields, good = position, [], True
        while True:
            quoted = data[position : position + 1] == b'"'
            match = (QUOTED if quoted else PLAIN).match(data, position)
            if match is None:
                return [*records, None], [*raw, data[start:size]]
            position = match.end()
            last = data[position] == ord("\n")
            rest = match[2] if quoted else match[0]
            rest = rest.removesuffix(b"\r") if last else rest
            good = good and not (quoted and rest)
            fields.append(match[1].replace(b'""', b'"') if quoted else rest)
            position += 1
            if last:
                break
        line = data[start : position - 1].removesuffix(b"\r")
        if line:
            records.append(fields if good else None)
            raw.append(line)
    return records, raw


PARTS = [
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"a",
    b"word word word",
    b"\xc3\xa9",
    b"\xff",
    b"\0",
    b"\\",
    b"1,2,3\n",
]
BYTES = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PARTS), max_size=40).map(b"".join))


@settings(max_examples=400, deadline=None)
@given(body=BYTES, block_bytes=st.sampled_from([1, 2, 3, 7, 64, BIG]))
def test_arbitrary_bytes_are_rows_and_dead_rows_in_blocks_of_any_size(body: bytes, block_bytes: int) -> None:
    rows, dead = read(HEADER + body, extra=True, block_bytes=block_bytes)
    records, raw = oracle(body)
    faults = {d.row: d for d in dead}
    assert sorted([*rows, *faults]) == list(range(len(records)))
    for number, fields in enumerate(records):
        valid = raw[number].decode(errors="replace").encode() == raw[number]
        if fields is not None and len(fields) == 3 and valid:
            assert rows[number]["id"].encode() == fields[0]
            assert rows[number]["text"].encode() == fields[1]
            assert json.loads(rows[number]["extra"]) == {"n": fields[2].decode()}
        else:
            assert faults[number].raw == raw[number]


@settings(max_examples=200, deadline=None)
@given(data=BYTES, block_bytes=st.sampled_from([1, 5, BIG]))
def test_arbitrary_bytes_have_a_header_or_say_why_not(data: bytes, block_bytes: int) -> None:
    try:
        names = check_header(pa.BufferReader(data), [], ",")
    except ValueError as error:
        assert "\n" not in str(error) or "two columns" in str(error)
        return
    read(data, [names[-1]], block_bytes=block_bytes)


TEXTS = st.text(st.sampled_from('ab",\n\r\t;é\0\\ '), max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    table=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=8),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.sampled_from([1, 30, BIG]),
)
def test_what_python_writes_is_read_back(
    table: list[tuple[str, str, str]], delimiter: str, line_end: str, block_bytes: int
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *table])
    rows, dead = read(written.getvalue().encode(), ["a", "b", "c"], delimiter, block_bytes=block_bytes)
    assert not dead
    assert [tuple(row.values()) for row in rows.values()] == table


def test_what_arrow_and_pandas_write_is_read_back(documents: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(documents, sink)
    for data in (sink.getvalue().to_pybytes(), documents.to_pandas().to_csv(index=False).encode()):
        rows, dead = read(data, ["id", "text", "group"])
        assert not dead
        assert list(rows.values()) == documents.to_pylist()


def test_batches_are_about_two_megabytes() -> None:
    data = HEADER + b"".join(b'%d,"%s",z\n' % (i, b"x" * 1000) for i in range(10_000))
    sizes = [r.table.nbytes for r in read_csv(pa.BufferReader(data), COLUMNS, delimiter=",")]
    assert len(sizes) > 4
    assert max(sizes) < 1.1 * BATCH_BYTES


def test_a_field_longer_than_a_block_is_one_row() -> None:
    long = "x,\n" * 100_000
    rows, dead = read(HEADER + b'1,"' + long.encode() + b'",z\n2,b,c\n', block_bytes=1000)
    assert not dead
    assert [row["text"] for row in rows.values()] == [long, "b"]


def _compress(data: bytes, compression: str) -> bytes:
    return gzip.compress(data, mtime=0) if compression == "gzip" else pa.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_truncated_stream_keeps_its_records_and_ends_in_one_dead_row(compression: str) -> None:
    numbers = np.random.default_rng(0).integers(0, 10**9, size=(8_000, 2)).tolist()
    data = HEADER + b"".join(b'%d,"%d\n",z\n' % (i, n) for i, n in numbers)
    packed = _compress(data, compression)
    whole, _ = read(data)
    assert read(packed, compression=compression) == (whole, [])
    rows, (dead,) = read(packed[:-2000], compression=compression)
    assert 1000 < len(rows) < 8_000
    assert rows == {number: whole[number] for number in range(len(rows))}
    assert (dead.row, dead.error) == (len(rows), f"truncated {compression} stream after {len(rows)} records")
    assert dead.raw in data
    rows, (dead,) = read(packed[:5], compression=compression)
    assert (rows, dead.row, dead.raw) == ({}, 0, b"")
    assert check_header(pa.BufferReader(packed), ["id"], ",", compression) == ["id", "text", "n"]
    assert check_header(pa.BufferReader(packed[:5]), ["id"], ",", compression) == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"id,body\n", r"no column `bdy` in its header \(nearest: body\)"),
        (b"id;bdy\n1;2", r"no column `bdy` in its header"),
        (b"bdy,id,bdy\n", "two columns are called `bdy` in its header"),
        (b"", "it has no header line"),
        (b"\n\n", "it has no header line"),
        (b'bdy,"x"y\n', "its header cannot be read: text after a closing quote"),
        (b'bdy,"x\n', "its header cannot be read: a quoted field never closes"),
        (b"bdy,\xff\n", "its header is not valid UTF-8"),
        (b"bdy," + b"x" * (1 << 20), "its header cannot be read: it has more than 1,048,576 bytes"),
    ],
)
def test_header_that_cannot_be_used_is_an_error(data: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        check_header(pa.BufferReader(data), ["bdy"], ",")
    if data.strip():
        with pytest.raises(ValueError, match=error):
            read(data, ["bdy"])


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r", "§"])
def test_delimiter_is_one_ascii_character(delimiter: str) -> None:
    with pytest.raises(ValueError, match="delimiter is one ASCII character"):
        read(HEADER, delimiter=delimiter)


def test_a_source_that_fails_is_not_taken_for_the_end() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError("connection lost")
            return super().read(1000)

    source = pa.PythonFile(Failing(HEADER + b"1,a,b\n" * 1000), mode="r")
    with pytest.raises(OSError, match="connection lost"):
        list(read_csv(source, COLUMNS, delimiter=",", block_bytes=1000))


def test_a_record_of_millions_of_fields_is_dead() -> None:
    rows, (dead,) = read(HEADER + b"0,a,b\n" + b"," * 5_000_000 + b"\n2,c,d\n")
    assert list(rows) == [0, 2]
    assert "fields, the header 3" in dead.error
